/** Reserves stock for each order that was placed. Its database: `reservations`, and their sums by article in `stock`. */
import { participant, postgresBarrier, type ReceivedMessage } from '../../src/index.ts'
import type { Order } from './orders.ts'
import { coordinator, openDatabase, tell, told } from './service.ts'
import { loseAnswer, slowly } from './trouble.ts'

const pool = openDatabase('inventory')
// No unique order_id: the barrier alone keeps a message from taking effect twice, and the reconciliation would see it.
await pool.query(`
  create table if not exists reservations (order_id text not null, sku text not null, quantity integer not null);
  create table if not exists stock (sku text primary key, reserved bigint not null)`)

const barrier = await postgresBarrier(pool)
const orderPlaced = async (message: ReceivedMessage) => {
  const { id, sku, quantity } = message.json<Order>()
  await told(id, async () => {
    await slowly('inventory', id)
    await barrier.run(message, pool, async (client) => {
      await client.query('insert into reservations values ($1, $2, $3)', [id, sku, quantity])
      await client.query(
        `insert into stock as s values ($1, $2) on conflict (sku) do update set reserved = s.reserved + excluded.reserved`,
        [sku, quantity],
      )
    })
    loseAnswer('inventory', message, id)
  })
}

await participant('inventory', { 'order-placed': orderPlaced }, { barrier }).connect(coordinator)
tell('ready')
