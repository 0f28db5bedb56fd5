/** Each broker is killed in the midst of transactions; `FAILOVER_COUNT` asks for more of them. */
import { test } from 'vitest'
import { brokerUrl } from '../services/brokers.ts'
import { service } from '../services/require.ts'
import { killed, survives } from './failover.ts'

const count = Number(process.env.FAILOVER_COUNT ?? 10_000)

test.for(['redis'] as const)(
  `%s killed in the midst of ${count} transactions: each committed message arrives, no other, in order`,
  async (kind, context) => {
    const server = await service(kind, {}, context)
    await survives({
      kind,
      broker: { service: server, url: brokerUrl(kind, server) },
      count,
      trouble: killed,
    })
  },
)
