import { rabbitmq } from '../../src/broker/rabbitmq.ts'
import { service } from '../services/require.ts'
import { brokerContract } from './contract.ts'

const server = await service('rabbitmq')

brokerContract(async () => ({
  open: (policy) =>
    rabbitmq({ url: server.url, managementUrl: server.managementUrl, messageBytesMax: 1_048_576, ...policy }),
  createTopic: (topic) => server.declareQueue(topic),
  service: server,
  notReplicated: /1 member, of 3 at least \(x-quorum-initial-group-size\)/,
  tooLargeBytes: 1_100_000,
  openUnauthorized: () => rabbitmq({ url: server.url.replace('rabbit-secret', 'wrong') }),
}))
