/**
 * What each service of the shop begins with: its database, and a line to the shop's main process on which it tells
 * what it is at, for the progress line and the kills. A service of your own needs the pool alone.
 */
import { writeSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { Pool } from 'pg'
import { Refusal } from '../../src/participant/index.ts'
import { dies, loseAnswer, slowly } from './trouble.ts'

/** Where the coordinator is. */
export const coordinator = process.env.ESCROW_ADDRESS ?? 'localhost:7411'

/** A coordinator that is killed now and then may be away for long on a slow machine. */
export const connecting = { connectTimeoutMs: 60_000 }

/** The service's own database. Each connection says what it is for in pg_stat_activity. */
export function openDatabase(service: string, connectionsMax = 10): Pool {
  const connectionString = process.env.DATABASE_URL
  if (connectionString === undefined) throw new Error('set DATABASE_URL to the database of this service')
  const pool = new Pool({
    connectionString,
    max: connectionsMax,
    application_name: `escrow shop: ${service}`,
  })
  // A connection that breaks while nobody uses it is replaced by the pool; without a listener the process would end.
  pool.on('error', (error) => console.error(`a connection broke: ${error.message}`))
  return pool
}

/**
 * Tells the main process one thing. Written before the next statement runs, so that after a SIGKILL the pipe still
 * holds all that was told, and with it the exact work in flight at the moment of death:
 *
 *   ready            connected to the coordinator and the database
 *   begin WORK       work on an order begins: ORDER at the order desk, else ORDER/STEP
 *   hold WORK        its saga has begun, or its half message is held, so that the coordinator has it in hand
 *   end WORK HOW     work on it has ended: completed, compensated, parked, done, refused, or failed
 *   dies WORK        it kills itself
 *   finished         each order of the input has its outcome
 */
export function tell(
  ...words: [what: 'ready' | 'finished' | 'begin' | 'hold' | 'end' | 'dies', ...rest: string[]]
): void {
  const fd = Number(process.env.SHOP_REPORT_FD ?? Number.NaN)
  if (!Number.isNaN(fd)) writeSync(fd, `${words.join(' ')}\n`)
}

/** A piece of work: a step, its compensation, or a handler. */
export interface Work {
  readonly name: string
  readonly orderId: string
}

/** Wraps an attempt at a piece of work in what the main process wants to hear. */
export async function told<T>({ name, orderId }: Work, attempt: () => Promise<T>): Promise<T> {
  const key = `${orderId}/${name}`
  tell('begin', key)
  let how = 'failed'
  try {
    const result = await attempt()
    how = 'done'
    return result
  } catch (error) {
    if (error instanceof Refusal) how = 'refused'
    throw error
  } finally {
    tell('end', key, how)
  }
}

/**
 * Meets the trouble of a piece of work around its local transaction: it may be slow, and once it is committed the answer
 * may be lost, or the service die. `commit` says when it does the work itself, as only then there is trouble behind it:
 * an attempt that finds it done gives the answer.
 */
export async function troubled<T>(
  { name, orderId }: Work,
  commit: (doing: () => void) => Promise<T>,
): Promise<T> {
  await slowly(name, orderId)
  let isDone = false
  const result = await commit(() => {
    isDone = true
  })
  if (isDone && dies(name, orderId)) {
    tell('dies', `${orderId}/${name}`)
    process.kill(process.pid, 'SIGKILL')
  }
  if (isDone) loseAnswer(name, orderId)
  return result
}

/** A piece of work whose local transaction is all there is to it. */
export const committed = <T>(work: Work, commit: (doing: () => void) => Promise<T>): Promise<T> =>
  told(work, () => troubled(work, commit))

/**
 * Where the main process sets the pace, it writes to standard input how many orders of the input may be begun. What
 * this returns waits until the order of that number, counted from 1, is among them.
 */
export function pace(): (number: number) => Promise<void> {
  if (process.env.SHOP_PACED === undefined) return async () => {}
  let allowed = 0
  let wake = () => {}
  createInterface({ input: process.stdin }).on('line', (line) => {
    allowed = Number(line)
    wake()
  })
  return async (number) => {
    while (number > allowed) {
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
  }
}
