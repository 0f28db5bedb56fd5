/**
 * Places orders, each one local transaction with a half message to inventory: `order-desk.ts COUNT`.
 *
 * Of ten orders one fails in its local transaction, one commits it and never says so, and one is rolled back by word. It
 * tells `ready`, `placed N` now and then, and `done` when each order has had its turn; then it stays, to answer check-backs.
 */
import { Pool } from 'pg'
import { connect, EscrowError, postgresBarrier } from '../../../src/index.ts'

const { ESCROW_ADDRESS = '', DATABASE_URL = '' } = process.env
const count = Number(process.argv[2])
const inFlightMax = 64
const checkBack = { delayMs: 300, delayMsMax: 1_000, checksMax: 1_000 }
const retry = { delayMs: 20, delayMsMax: 500, attemptsMax: 1_000, attemptTimeoutMs: 5_000 }

class OutOfStock extends Error {}

const pool = new Pool({ connectionString: DATABASE_URL, max: 8 })
pool.on('error', () => {})
const barrier = await postgresBarrier(pool)
const session = await connect(ESCROW_ADDRESS, { service: 'order-desk' })
await session.registerChecker('orders', barrier.checker)
console.log('ready')

let next = 0
let placed = 0
await Promise.all(Array.from({ length: inFlightMax }, lane))
console.log('done')

async function lane(): Promise<void> {
  while (next < count) {
    const number = next++
    for (;;) {
      try {
        await place(number)
        break
      } catch (error) {
        // "Not now" and "nobody knows" are tried again under the same id, which is harmless.
        if (!(error instanceof EscrowError) || error.family === 'refused') {
          console.log(`order-${number} ended as ${String(error)}`)
          break
        }
      }
    }
    placed += 1
    if (placed % 100 === 0) console.log(`placed ${placed}`)
  }
}

async function place(number: number): Promise<void> {
  const id = `order-${number}`
  const request = {
    id,
    checker: 'orders',
    messages: [{ to: 'inventory/take', body: { id } }],
    checkBack,
    retry,
  }
  const { databaseId } = barrier
  const insert = (client: { query(text: string, values: unknown[]): Promise<unknown> }) =>
    client.query('insert into orders values ($1)', [id])
  if (number % 10 === 1) {
    // Commits, and keeps silent.
    const messages = request.messages.map(({ to, body }) => ({
      destination: to,
      body: Buffer.from(JSON.stringify(body)),
    }))
    const { executionId } = await session.prepare({
      id,
      checker: 'orders',
      messages,
      checkBack,
      retry,
      databaseId,
    })
    await barrier
      .run({ operation: 'local', namespace: 'default', executionId, databaseId }, pool, insert)
      .catch(ignoreSettled)
  } else if (number % 10 === 2) {
    const messages = request.messages.map(({ to }) => ({ destination: to }))
    await session.prepare({ id, checker: 'orders', messages, checkBack, retry, databaseId })
    await session.rollback({ id, reason: 'changed its mind' })
  } else {
    const work = (client: Parameters<typeof insert>[0]) => {
      if (number % 10 === 0) throw new OutOfStock()
      return insert(client)
    }
    await session.sendInTransaction(request, (tx) => barrier.run(tx, pool, work)).catch(ignoreSettled)
  }
}

/** The local transaction rolled back, or a check-back has turned it away: that is its outcome. */
function ignoreSettled(error: unknown): void {
  if (error instanceof OutOfStock) return
  if (error instanceof EscrowError && error.code === 'barrierRefused') return
  throw error
}
