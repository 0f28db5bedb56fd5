/** A coordinator with the broker that BROKER_KIND and BROKER_URL name. */
import { type BrokerKind, brokerAt } from '../../examples/shop/broker.ts'
import { defineConfig } from '../../src/index.ts'

const { BROKER_KIND: kind = '', BROKER_URL: url = '' } = process.env

export default defineConfig({
  brokers: { [kind]: await brokerAt(kind as BrokerKind, url) },
  checkBack: { delayMs: 1_000, delayMsMax: 2_000 },
  retry: { attemptTimeoutMs: 5_000, delayMsMax: 1_000 },
})
