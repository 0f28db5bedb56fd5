/**
 * Writes each order that was confirmed to a log. Its database: `log`. The confirmations come from the coordinator, or with
 * `npm start -- --broker KIND` from a broker's topic.
 */
import { participant, postgresBarrier, type ReceivedMessage } from '../../src/participant/index.ts'
import { confirmations, shopBroker } from './broker.ts'
import { committed, connecting, coordinator, openDatabase, tell } from './service.ts'
import type { Confirmation } from './steps.ts'

const pool = openDatabase('audit')
// No unique order_id: the barrier, or the table of ids, alone keeps a message from taking effect twice, and the
// reconciliation would see it.
await pool.query(`
  create table if not exists log (
    order_id text not null, customer text not null, sku text not null, quantity integer not null,
    unit_price_cents bigint not null, parcel integer not null, logged_at timestamptz not null default now());
  create table if not exists taken (message_id text primary key)`)

const insert = 'insert into log values ($1, $2, $3, $4, $5, $6)'
const rowOf = ({ id, customer, sku, quantity, unitPriceCents, parcel }: Confirmation) => [
  id,
  customer,
  sku,
  quantity,
  unitPriceCents,
  parcel,
]

const broker = await shopBroker(process.env, 'audit')
if (broker === undefined) {
  const barrier = await postgresBarrier(pool)
  const orderConfirmed = async (message: ReceivedMessage) => {
    const confirmation = message.json<Confirmation>()
    await committed({ name: 'logged', orderId: confirmation.id }, (doing) =>
      barrier.run(message, pool, async (client) => {
        doing()
        await client.query(insert, rowOf(confirmation))
      }),
    )
  }
  const handlers = { 'order-confirmed': orderConfirmed }
  await participant('audit', handlers, { barrier }).connect(coordinator, connecting)
} else {
  await broker.register(confirmations, AbortSignal.timeout(connecting.connectTimeoutMs))
  // A broker may bring a message again: its id, the same each time, is kept beside what it did.
  await broker.subscribe({ topic: confirmations, group: 'audit' }, async ({ id, body }) => {
    const confirmation = JSON.parse(Buffer.from(body).toString()) as Confirmation
    await committed({ name: 'logged', orderId: confirmation.id }, (doing) => logOnce(id, confirmation, doing))
  })
}
tell('ready')

async function logOnce(id: string, confirmation: Confirmation, doing: () => void): Promise<void> {
  const client = await pool.connect()
  let isBroken = true
  try {
    await client.query('begin')
    const { rowCount } = await client.query('insert into taken values ($1) on conflict do nothing', [id])
    if (rowCount === 1) {
      doing()
      await client.query(insert, rowOf(confirmation))
    }
    await client.query('commit')
    isBroken = false
  } finally {
    client.release(isBroken)
  }
}
