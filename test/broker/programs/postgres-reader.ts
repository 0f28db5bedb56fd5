/** Reads a topic for a group, handles messages whose id begins with `quick`, says what it gets, and holds all others for ever. */
import { postgresQueue } from '../../../src/broker/postgres-queue.ts'

const [url = '', topic = '', group = ''] = process.argv.slice(2)
const broker = postgresQueue({ url, leaseMs: 1_500 })
await broker.subscribe({ topic, group }, async ({ id }) => {
  console.log(`got ${id}`)
  if (!id.startsWith('quick')) await new Promise(() => {})
})
