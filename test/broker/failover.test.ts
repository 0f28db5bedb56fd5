/** Each broker is killed in the midst of transactions; `FAILOVER_COUNT` asks for more or fewer of them. */
import { test } from 'vitest'
import { brokerKinds } from '../../examples/shop/broker.ts'
import { brokerOfTest } from '../services/brokers.ts'
import { killed, survives } from './failover.ts'

const count = Number(process.env.FAILOVER_COUNT ?? 10_000)

test.for(brokerKinds)(
  `%s killed in the midst of ${count} transactions: each committed message arrives, no other, in order`,
  async (kind, context) => {
    await survives({ kind, broker: await brokerOfTest(kind, context), count, trouble: killed })
  },
)
