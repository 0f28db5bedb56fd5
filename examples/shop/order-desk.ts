/**
 * Takes orders: starts the saga of each, and keeps what became of it. It is a participant too: it confirms orders, and
 * sends their confirmations.
 *
 *   node examples/shop/order-desk.ts FILE
 *
 * It may be killed at any moment and started again. Its database alone says which orders have their outcome; the saga of
 * any other order is started again, under the order's id, so that a saga that runs or has ended is the one that answers.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { PoolClient } from 'pg'
import { connect, defineStep, postgresBarrier } from '../../src/participant/index.ts'
import { confirmationsOf } from './broker.ts'
import { type Order, readOrders, totalCents } from './orders.ts'
import { placeOrder } from './place-order.ts'
import { committed, connecting, coordinator, openDatabase, pace, tell, told, troubled } from './service.ts'
import { type Confirmation, orderDesk } from './steps.ts'

const inFlightMax = 128
const pauseMs = 50
const pauseMsMax = 2_000
const waitMs = 60_000
/** The handler of audit, or the topic that it reads. */
const confirmedTo = confirmationsOf(process.env)

const pool = openDatabase('orders', 32)
// Counted is what a unique key would hide: that an order is confirmed once is the barrier's work.
await pool.query(`
  create table if not exists orders (
    id text primary key, customer text not null, sku text not null, quantity integer not null,
    total_cents bigint not null, times_confirmed integer not null default 0, outcome text, reason text,
    parcel integer, confirmation integer);
  create table if not exists confirmations (
    number integer generated always as identity, order_id text not null, parcel integer not null);
  create table if not exists rejected_lines (line integer primary key, problem text not null)`)

const barrier = await postgresBarrier(pool)
const session = await connect(coordinator, { service: 'order-desk', ...connecting })
await session.registerChecker('orders', barrier.checker)
await session.registerHandlers({ confirm: confirm(), 'send-confirmation': sendConfirmation() }, { barrier })
tell('ready')
await placeAll(process.argv[2] ?? 'examples/shop/orders.jsonl')
tell('finished')
// It stays: somebody may still have to answer check-backs.

/** The pivot: from here on the order goes through. */
function confirm() {
  return defineStep(orderDesk.confirm.type, {
    action: (order, call) =>
      committed({ name: 'confirmed', orderId: order.id }, (doing) =>
        barrier.step(call, pool, async (client) => {
          doing()
          const sql = 'update orders set times_confirmed = times_confirmed + 1 where id = $1'
          await client.query(sql, [order.id])
          return undefined
        }),
      ),
  })
}

/**
 * Writes the confirmation and sends it, in one local transaction: the message goes if, and only if, that commits. The
 * trouble stands between the two, so that it hits an order desk that has committed and hasn't told the coordinator.
 */
function sendConfirmation() {
  return defineStep(orderDesk['send-confirmation'].type, {
    action: (order, call) => {
      const work = { name: 'sent', orderId: order.id }
      return told(work, async () => {
        const request = { checker: 'orders', messages: [{ to: confirmedTo, body: order }] }
        const sent = await session.sendInTransaction(request, (tx) =>
          troubled(work, (doing) => {
            const write = async (client: PoolClient) => {
              doing()
              return { confirmation: await recordConfirmation(client, order) }
            }
            return barrier.step(call, pool, write, { tx })
          }),
        )
        return sent.value
      })
    },
  })
}

async function recordConfirmation(client: PoolClient, { id, parcel }: Confirmation): Promise<number> {
  const sql = 'insert into confirmations (order_id, parcel) values ($1, $2) returning number'
  return (await client.query<{ number: number }>(sql, [id, parcel])).rows[0]!.number
}

/** Places each order that has no outcome yet, up to 128 at a time. */
async function placeAll(file: string): Promise<void> {
  const { orders, rejected } = readOrders(file)
  for (const { line, problem } of rejected) {
    const sql = 'insert into rejected_lines values ($1, $2) on conflict do nothing'
    // Told once, though the file is read again after each restart.
    if ((await pool.query(sql, [line, problem])).rowCount === 1)
      console.log(`${file}:${line} ${problem}: rejected`)
  }
  const column = (of: (order: Order) => unknown) => orders.map(of)
  await pool.query(
    `insert into orders (id, customer, sku, quantity, total_cents)
     select * from unnest($1::text[], $2::text[], $3::text[], $4::integer[], $5::bigint[]) on conflict do nothing`,
    [
      column(({ id }) => id),
      column(({ customer }) => customer),
      column(({ sku }) => sku),
      column(({ quantity }) => quantity),
      column(totalCents),
    ],
  )
  const ended = 'select id, outcome from orders where outcome is not null'
  const { rows } = await pool.query<{ id: string; outcome: string }>(ended)
  const outcomes = new Map(rows.map(({ id, outcome }) => [id, outcome]))
  const inFlight = new Set<Promise<void>>()
  const allowed = pace()
  for (const [index, order] of orders.entries()) {
    const outcome = outcomes.get(order.id)
    if (outcome !== undefined) {
      tell('end', order.id, outcome)
      continue
    }
    await allowed(index + 1)
    while (inFlight.size >= inFlightMax) await Promise.race(inFlight)
    const work = place(order).finally(() => inFlight.delete(work))
    inFlight.add(work)
  }
  await Promise.all(inFlight)
}

/** Places one order: comes back only with an outcome that is in the database, or with a saga that is parked. */
async function place(order: Order): Promise<void> {
  tell('begin', order.id)
  for (let attempt = 1; ; attempt += 1) {
    const outcome = await tryToPlace(order).catch((error: Error) => {
      // Unknown is an answer too: the next attempt finds out.
      if (attempt > 2) console.error(`${order.id}, attempt ${attempt}: ${error.message}`)
      return undefined
    })
    if (outcome !== undefined) return tell('end', order.id, outcome)
    await sleep(Math.min(pauseMsMax, pauseMs * 2 ** attempt))
  }
}

async function tryToPlace(order: Order): Promise<string> {
  const { id } = order
  // The same id and the same order are the same saga, however often it is started.
  await session.startSaga({ saga: placeOrder, id, input: order })
  tell('hold', id)
  const saga = await session.waitForSaga({ id, saga: placeOrder }, { timeoutMs: waitMs })
  if (saga.status === 'parked') console.error(`${id} is parked: ${saga.error}`)
  else {
    await pool.query(
      'update orders set outcome = $2, reason = $3, parcel = $4, confirmation = $5 where id = $1',
      [id, saga.status, saga.error, saga.output?.parcel, saga.output?.confirmation],
    )
  }
  return saga.status
}
