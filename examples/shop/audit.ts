/** Writes each order that was placed to a log. Its database: `log`. */
import { participant, postgresBarrier, type ReceivedMessage } from '../../src/index.ts'
import type { Order } from './orders.ts'
import { coordinator, openDatabase, tell, told } from './service.ts'
import { loseAnswer, slowly } from './trouble.ts'

const pool = openDatabase('audit')
// No unique order_id: the barrier alone keeps a message from taking effect twice, and the reconciliation would see it.
await pool.query(`
  create table if not exists log (
    order_id text not null, customer text not null, sku text not null, quantity integer not null,
    unit_price_cents bigint not null, logged_at timestamptz not null default now())`)

const barrier = await postgresBarrier(pool)
const orderPlaced = async (message: ReceivedMessage) => {
  const { id, customer, sku, quantity, unitPriceCents } = message.json<Order>()
  await told(id, async () => {
    await slowly('audit', id)
    await barrier.run(message, pool, async (client) => {
      await client.query('insert into log values ($1, $2, $3, $4, $5)', [
        id,
        customer,
        sku,
        quantity,
        unitPriceCents,
      ])
    })
    loseAnswer('audit', message, id)
  })
}

await participant('audit', { 'order-placed': orderPlaced }, { barrier }).connect(coordinator)
tell('ready')
