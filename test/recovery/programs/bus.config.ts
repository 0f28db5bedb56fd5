/** A coordinator with an in-memory broker whose messages are also written to the file BUS_FILE, a line each. */
import { appendFileSync } from 'node:fs'
import { type BrokerMessage, defineConfig, memory } from '../../../src/index.ts'

const broker = memory()
const publish = broker.publish.bind(broker)
broker.publish = async (batch: readonly BrokerMessage[]) => {
  const lines = batch.map(({ topic, id, key, headers }) => `${JSON.stringify({ topic, id, key, headers })}\n`)
  appendFileSync(process.env.BUS_FILE ?? '/dev/null', lines.join(''))
  return await publish(batch)
}

export default defineConfig({ brokers: { bus: broker } })
