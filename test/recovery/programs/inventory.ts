/**
 * A participant that takes orders: connected, or with LISTEN=grpc or http on the port PORT.
 *
 * It notes each attempt outside of any transaction, and makes its effect behind the barrier. DIE=inside: the first attempt
 * of an order kills the process with its local transaction open. DIE=after: committed, but not yet answered.
 */
import { Pool } from 'pg'
import { participant, postgresBarrier } from '../../../src/index.ts'

const { ESCROW_ADDRESS = '', DATABASE_URL = '', LISTEN, PORT = '0', DIE } = process.env
const pool = new Pool({ connectionString: DATABASE_URL, max: 8 })
pool.on('error', () => {})
const barrier = await postgresBarrier(pool)

const inventory = participant(
  'inventory',
  {
    take: async (message) => {
      const { id } = message.json<{ id: string }>()
      await pool.query('insert into attempts values ($1, $2, $3)', [message.executionId, id, message.attempt])
      const isFirst = message.attempt === 1
      await barrier.run(message, pool, async (client) => {
        await client.query('insert into effects values ($1, $2)', [message.executionId, id])
        if (DIE === 'inside' && isFirst) process.kill(process.pid, 'SIGKILL')
      })
      if (DIE === 'after' && isFirst) process.kill(process.pid, 'SIGKILL')
    },
  },
  { barrier },
)

if (LISTEN === 'grpc' || LISTEN === 'http') {
  await inventory.listen(Number(PORT), { protocol: LISTEN, register: ESCROW_ADDRESS })
} else await inventory.connect(ESCROW_ADDRESS)
console.log('ready')
