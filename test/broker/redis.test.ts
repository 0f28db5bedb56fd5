import { redis } from '../../src/broker/redis.ts'
import { service } from '../services/require.ts'
import { brokerContract } from './contract.ts'
import { redisCommand } from './redis-command.ts'

const server = await service('redis')

brokerContract(async () => {
  const { host, port, password } = server
  const url = `redis://:${password}@${host}:${port}`
  return {
    open: (policy) => redis({ url, ...policy }),
    async createTopic(topic) {
      await redisCommand(server, ['XGROUP', 'CREATE', topic, 'made', '$', 'MKSTREAM'])
    },
    service: server,
    notReplicated: /min-replicas-to-write is 0.*connected_slaves is 0/,
    tooLargeBytes: 1_100_000,
    openUnauthorized: () => redis({ url, password: 'wrong' }),
  }
})
