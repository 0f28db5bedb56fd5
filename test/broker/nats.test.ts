import { nats } from '../../src/broker/nats.ts'
import { service } from '../services/require.ts'
import { brokerContract } from './contract.ts'
import { natsStreams } from './nats-streams.ts'

const server = await service('nats')

brokerContract(async () => {
  const { host, port, user, password } = server
  const address = { servers: `${host}:${port}`, user, password }
  return {
    open: (policy) => nats({ ...address, ...policy }),
    async createTopic(topic) {
      await natsStreams(server, (streams) => streams.add({ name: topic, subjects: [topic] }))
    },
    service: server,
    notReplicated: /num_replicas is 1/,
    tooLargeBytes: 1_100_000,
    openUnauthorized: () => nats({ ...address, password: 'wrong' }),
  }
})
