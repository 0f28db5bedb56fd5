import { rocketmq } from '../../src/broker/rocketmq.ts'
import { service } from '../services/require.ts'
import { brokerContract } from './contract.ts'

const server = await service('rocketmq')

brokerContract(async () => {
  const options = { endpoints: `${server.host}:${server.port}`, nameServers: server.nameServers }
  return {
    open: (policy) => rocketmq({ ...options, ...policy }),
    createTopic: (topic) => server.createTopic(topic, 'FIFO'),
    service: server,
    notReplicated: /broker-a: brokerRole is ASYNC_MASTER; broker-a: inSyncReplicas is 1/,
    tooLargeBytes: (4 << 20) + 1,
    openUnauthorized: undefined,
  }
})
