import { MemoryBroker } from '../../src/broker/memory.ts'
import { brokerContract } from './contract.ts'

brokerContract(async () => {
  // What is in memory is in one broker: the next test gets another one.
  let broker = new MemoryBroker()
  return {
    open: () => {
      if (broker.isClosed) broker = new MemoryBroker()
      return broker
    },
    createTopic: async () => {},
    hasAllTopics: true,
    service: undefined,
    notReplicated: undefined,
    tooLargeBytes: undefined,
    openUnauthorized: undefined,
  }
})
