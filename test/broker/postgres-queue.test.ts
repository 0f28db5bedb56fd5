import { postgresQueue } from '../../src/broker/postgres-queue.ts'
import { service } from '../services/require.ts'
import { brokerContract } from './contract.ts'

const postgres = await service('postgres-queue')

brokerContract(async () => ({
  open: (policy) => postgresQueue({ url: postgres.url, leaseMs: 2_000, ...policy }),
  createTopic: async (topic) => {
    const broker = postgresQueue({ url: postgres.server.url, missingTopics: 'create' })
    await broker.register(topic, AbortSignal.timeout(10_000))
    await broker.close()
  },
  service: postgres,
  notReplicated: /synchronous_standby_names/,
  tooLargeBytes: (64 << 20) + 1,
  openUnauthorized: () => {
    const url = new URL(postgres.url)
    url.password = 'wrong'
    return postgresQueue({ url: url.href })
  },
}))
