import { kafka } from '../../src/broker/kafka.ts'
import { service } from '../services/require.ts'
import { brokerContract } from './contract.ts'

const credentials = { username: 'escrow', password: 'secret' }
const server = await service('kafka', { credentials })

brokerContract(async () => {
  const options = { brokers: server.brokers, sasl: { mechanism: 'plain', ...credentials } } as const
  return {
    open: (policy) => kafka({ ...options, ...policy }),
    openUnauthorized: () => kafka({ ...options, sasl: { ...options.sasl, password: 'wrong' } }),
    createTopic: (topic) => server.createTopic(topic, { partitions: 3 }),
    service: server,
    notReplicated: /replication\.factor is 1.*min\.insync\.replicas is 1/,
    tooLargeBytes: 2_000_000,
  }
})
