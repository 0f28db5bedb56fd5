/** Writes each order that was confirmed to a log. Its database: `log`. */
import { participant, postgresBarrier, type ReceivedMessage } from '../../src/participant/index.ts'
import { committed, connecting, coordinator, openDatabase, tell } from './service.ts'
import type { Confirmation } from './steps.ts'

const pool = openDatabase('audit')
// No unique order_id: the barrier alone keeps a message from taking effect twice, and the reconciliation would see it.
await pool.query(`
  create table if not exists log (
    order_id text not null, customer text not null, sku text not null, quantity integer not null,
    unit_price_cents bigint not null, parcel integer not null, logged_at timestamptz not null default now())`)

const barrier = await postgresBarrier(pool)
const orderConfirmed = async (message: ReceivedMessage) => {
  const { id, customer, sku, quantity, unitPriceCents, parcel } = message.json<Confirmation>()
  await committed({ name: 'logged', orderId: id }, (doing) =>
    barrier.run(message, pool, async (client) => {
      doing()
      const values = [id, customer, sku, quantity, unitPriceCents, parcel]
      await client.query('insert into log values ($1, $2, $3, $4, $5, $6)', values)
    }),
  )
}

await participant('audit', { 'order-confirmed': orderConfirmed }, { barrier }).connect(
  coordinator,
  connecting,
)
tell('ready')
