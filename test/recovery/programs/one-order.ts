/**
 * Places one order and dies, or stands still, at a chosen point: `one-order.ts ID POINT`.
 *
 * | point         | what happens there                                                             |
 * |---------------|--------------------------------------------------------------------------------|
 * | before-commit | SIGKILL with the local transaction open                                        |
 * | after-commit  | SIGKILL between the local commit and the word to the coordinator               |
 * | before-begin  | SIGSTOP before the local transaction begins; when it goes on, it is a zombie   |
 * | inside        | SIGSTOP with the local transaction open                                        |
 *
 * It tells `stopping` just before, and how it ended: `ended CODE`, with `committed` for none.
 */
import { writeSync } from 'node:fs'
import { Pool } from 'pg'
import { connect, EscrowError, postgresBarrier } from '../../../src/index.ts'

const { ESCROW_ADDRESS = '', DATABASE_URL = '' } = process.env
const [id = '', point] = process.argv.slice(2)
const pool = new Pool({ connectionString: DATABASE_URL, max: 2 })
pool.on('error', () => {})
const barrier = await postgresBarrier(pool)
const session = await connect(ESCROW_ADDRESS, { service: 'order-desk' })
await session.registerChecker('orders', barrier.checker)

/** Ends or stops the process here and now: nothing that is written afterwards leaves before. */
function reach(here: string): void {
  if (here !== point) return
  writeSync(1, 'stopping\n')
  process.kill(process.pid, point.endsWith('-commit') ? 'SIGKILL' : 'SIGSTOP')
}

const messages = [{ to: 'inventory/take', body: { id } }]
const checkBack = { delayMs: 300, delayMsMax: 600, checksMax: 1_000 }
let code = 'committed'
try {
  await session.sendInTransaction({ id, checker: 'orders', messages, checkBack }, async (tx) => {
    reach('before-begin')
    await new Promise((resolve) => setTimeout(resolve, 50))
    await barrier.run(tx, pool, async (client) => {
      await client.query('insert into orders values ($1)', [id])
      reach('before-commit')
      reach('inside')
      await new Promise((resolve) => setTimeout(resolve, 50))
    })
    reach('after-commit')
  })
} catch (error) {
  code = EscrowError.from(error).code
}
console.log(`ended ${code}`)
