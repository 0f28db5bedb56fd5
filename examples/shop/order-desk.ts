/**
 * Takes orders: each is one local transaction together with half messages to inventory, payment and audit.
 *
 *   node examples/shop/order-desk.ts FILE
 *
 * It may be killed at any moment and started again. Its database alone says what became of an order: a row in
 * `orders`, placed or refused. An order without a row is tried again, always as a new global transaction. That is safe
 * though an earlier attempt may still be under way in a connection that outlived its process: both insert the same
 * primary key, so the second waits for the first, and only one of them can commit.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { PoolClient } from 'pg'
import { connect, postgresBarrier } from '../../src/index.ts'
import { creditLimitCents, type Order, readOrders, totalCents } from './orders.ts'
import { coordinator, openDatabase, pace, tell } from './service.ts'
import { losesItsWord, slowly } from './trouble.ts'

const inFlightMax = 64
const pauseMs = 50
const pauseMsMax = 2_000

const pool = openDatabase('orders', 32)
await pool.query(`
  create table if not exists orders (
    id text primary key, customer text not null, sku text not null, quantity integer not null,
    total_cents bigint not null, outcome text not null check (outcome in ('placed', 'refused')));
  create table if not exists customers (
    id text primary key, credit_used_cents bigint not null default 0,
    constraint credit_limit check (credit_used_cents <= ${creditLimitCents}));
  create table if not exists rejected_lines (line integer primary key, problem text not null)`)

const barrier = await postgresBarrier(pool)
const session = await connect(coordinator, { service: 'order-desk' })
await session.registerChecker('orders', barrier.checker)
tell('ready')
await placeAll(process.argv[2] ?? 'examples/shop/orders.jsonl')
tell('finished')
// It stays: somebody may still have to answer check-backs.

type Outcome = 'placed' | 'refused'

/** Places each order that has no outcome yet: those of one customer one after another, up to 64 at a time in all. */
async function placeAll(file: string): Promise<void> {
  const { orders, rejected } = readOrders(file)
  for (const { line, problem } of rejected) {
    const sql = 'insert into rejected_lines values ($1, $2) on conflict do nothing'
    // Told once, though the file is read again after each restart.
    if ((await pool.query(sql, [line, problem])).rowCount === 1)
      console.log(`${file}:${line} ${problem}: rejected`)
  }
  const { rows } = await pool.query<{ id: string; outcome: Outcome }>('select id, outcome from orders')
  const outcomes = new Map(rows.map(({ id, outcome }) => [id, outcome]))
  const inFlight = new Set<Promise<void>>()
  const lastOf = new Map<string, Promise<void>>()
  const allowed = pace()
  for (const [index, order] of orders.entries()) {
    const outcome = outcomes.get(order.id)
    if (outcome !== undefined) {
      tell('end', order.id, outcome)
      continue
    }
    await allowed(index + 1)
    while (inFlight.size >= inFlightMax) await Promise.race(inFlight)
    // The credit that an order finds depends on those before it, so a customer's orders don't overtake each other.
    const before = lastOf.get(order.customer) ?? Promise.resolve()
    const work = before.then(() => place(order)).finally(() => inFlight.delete(work))
    inFlight.add(work)
    lastOf.set(order.customer, work)
  }
  await Promise.all(inFlight)
}

/** Places one order, or finds out that it can't be: comes back only with an outcome that is in the database. */
async function place(order: Order): Promise<void> {
  tell('begin', order.id)
  for (let attempt = 1; ; attempt += 1) {
    const outcome = await tryToPlace(order).catch((error: Error) => {
      // Unknown is an answer too: the next attempt finds out, and a half message left behind is settled by check-back.
      if (attempt > 2) console.error(`${order.id}, attempt ${attempt}: ${error.message}`)
      return undefined
    })
    if (outcome !== undefined) return tell('end', order.id, outcome)
    await sleep(Math.min(pauseMsMax, pauseMs * 2 ** attempt))
  }
}

async function tryToPlace(order: Order): Promise<Outcome> {
  try {
    await session.sendInTransaction(
      {
        checker: 'orders',
        orderingKey: order.customer,
        messages: ['inventory', 'payment', 'audit'].map((service) => ({
          to: `${service}/order-placed`,
          body: order,
        })),
      },
      async (tx) => {
        tell('hold', order.id)
        await barrier.run(tx, pool, (client) => recordOrder(client, order))
        if (losesItsWord(order.id)) throw new Error('the word to the coordinator is lost on purpose')
      },
    )
    return 'placed'
  } catch (error) {
    if ((error as { constraint?: string }).constraint === 'credit_limit') return await recordRefusal(order)
    // Whether the local transaction committed may be unknown here, but not to the database.
    const sql = 'select outcome from orders where id = $1'
    const { rows } = await pool.query<{ outcome: Outcome }>(sql, [order.id])
    if (rows[0] === undefined) throw error
    return rows[0].outcome
  }
}

/** The local transaction. The order's own row comes first: an order that has one already must not look refused. */
async function recordOrder(client: PoolClient, order: Order): Promise<void> {
  const { id, customer, sku, quantity } = order
  const cents = totalCents(order)
  await client.query(`insert into orders values ($1, $2, $3, $4, $5, 'placed')`, [
    id,
    customer,
    sku,
    quantity,
    cents,
  ])
  await client.query('insert into customers (id) values ($1) on conflict do nothing', [customer])
  await client.query('update customers set credit_used_cents = credit_used_cents + $2 where id = $1', [
    customer,
    cents,
  ])
  await slowly('order-desk', id)
}

/** Keeps the refusal in a transaction of its own, as the local transaction that found it was rolled back. */
async function recordRefusal(order: Order): Promise<Outcome> {
  const { id, customer, sku, quantity } = order
  const sql = `insert into orders values ($1, $2, $3, $4, $5, 'refused') on conflict do nothing`
  await pool.query(sql, [id, customer, sku, quantity, totalCents(order)])
  return 'refused'
}
