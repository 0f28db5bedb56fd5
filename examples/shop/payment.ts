/** Charges the customer of each order that was placed. Its database: `charges`, and their sums in `accounts`. */
import { participant, postgresBarrier, type ReceivedMessage } from '../../src/index.ts'
import { type Order, totalCents } from './orders.ts'
import { coordinator, openDatabase, tell, told } from './service.ts'
import { loseAnswer, slowly } from './trouble.ts'

const pool = openDatabase('payment')
// No unique order_id: the barrier alone keeps a message from taking effect twice, and the reconciliation would see it.
await pool.query(`
  create table if not exists charges (order_id text not null, customer text not null, cents bigint not null);
  create table if not exists accounts (customer text primary key, charged_cents bigint not null)`)

const barrier = await postgresBarrier(pool)
const orderPlaced = async (message: ReceivedMessage) => {
  const order = message.json<Order>()
  await told(order.id, async () => {
    await slowly('payment', order.id)
    await barrier.run(message, pool, async (client) => {
      const cents = totalCents(order)
      await client.query('insert into charges values ($1, $2, $3)', [order.id, order.customer, cents])
      await client.query(
        `insert into accounts as a values ($1, $2)
         on conflict (customer) do update set charged_cents = a.charged_cents + excluded.charged_cents`,
        [order.customer, cents],
      )
    })
    loseAnswer('payment', message, order.id)
  })
}

await participant('payment', { 'order-placed': orderPlaced }, { barrier }).connect(coordinator)
tell('ready')
