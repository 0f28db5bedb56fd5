/**
 * What each service of the shop begins with: its database, and a line to the shop's main process on which it tells
 * what it is at, for the progress line and the kills. A service of your own needs the pool alone.
 */
import { writeSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { Pool } from 'pg'

/** Where the coordinator is. */
export const coordinator = process.env.ESCROW_ADDRESS ?? 'localhost:7411'

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
 *   begin ID         work on an order begins
 *   hold ID          its half messages are held by the coordinator, its local transaction begins
 *   end ID OUTCOME   work on it has ended: placed, refused, done, or failed
 *   finished         each order of the input has its outcome
 */
export function tell(
  ...words: [what: 'ready' | 'finished' | 'begin' | 'hold' | 'end', ...rest: string[]]
): void {
  const fd = Number(process.env.SHOP_REPORT_FD ?? Number.NaN)
  if (!Number.isNaN(fd)) writeSync(fd, `${words.join(' ')}\n`)
}

/** Wraps a handler's work on an order in what the main process wants to hear. */
export async function told<T>(orderId: string, work: () => Promise<T>): Promise<T> {
  tell('begin', orderId)
  let outcome = 'failed'
  try {
    const result = await work()
    outcome = 'done'
    return result
  } finally {
    tell('end', orderId, outcome)
  }
}

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
