/** Charges and refunds, and looks for fraud. Its database: each of both in `entries`, and what each customer has paid. */
import type { PoolClient } from 'pg'
import { defineStep, participant, postgresBarrier } from '../../src/participant/index.ts'
import { type Order, totalCents } from './orders.ts'
import { refuseWhere } from './rules.ts'
import { committed, connecting, coordinator, openDatabase, tell, told } from './service.ts'
import { payment } from './steps.ts'
import { slowly } from './trouble.ts'

const pool = openDatabase('payment')
// Nothing unique: the barrier alone keeps a step from taking effect twice, and the reconciliation would see it.
await pool.query(`
  create table if not exists entries (
    number integer generated always as identity, order_id text not null, customer text not null, cents bigint not null,
    kind text not null check (kind in ('charged', 'refunded')));
  create table if not exists accounts (customer text primary key, paid_cents bigint not null)`)

const barrier = await postgresBarrier(pool)

const charge = defineStep(payment.charge.type, {
  action: (order, call) =>
    committed({ name: 'charged', orderId: order.id }, (doing) =>
      barrier.step(call, pool, async (client) => {
        doing()
        refuseWhere('charge', order)
        return { charge: await book(client, 'charged', order) }
      }),
    ),
  compensation: (order, _charge, call) =>
    committed({ name: 'refunded', orderId: order.id }, (doing) =>
      barrier.step(call, pool, async (client) => {
        doing()
        await book(client, 'refunded', order)
      }),
    ),
})
const fraudCheck = defineStep(payment['fraud-check'].type, {
  action: (order) =>
    told({ name: 'fraud-check', orderId: order.id }, async () => {
      await slowly('fraud-check', order.id)
      refuseWhere('fraud-check', order)
      return undefined
    }),
})

await participant('payment', { charge, 'fraud-check': fraudCheck }, { barrier }).connect(
  coordinator,
  connecting,
)
tell('ready')

/** Writes an entry down, and gives its number. */
async function book(client: PoolClient, kind: 'charged' | 'refunded', order: Order): Promise<number> {
  const cents = totalCents(order)
  const sql = 'insert into entries (order_id, kind, customer, cents) values ($1, $2, $3, $4) returning number'
  const { rows } = await client.query<{ number: number }>(sql, [order.id, kind, order.customer, cents])
  await client.query(
    `insert into accounts as a values ($1, $2)
     on conflict (customer) do update set paid_cents = a.paid_cents + excluded.paid_cents`,
    [order.customer, kind === 'charged' ? cents : -cents],
  )
  return rows[0]!.number
}
