/**
 * A coordinator with the broker that BENCH_BROKER and BENCH_BROKER_URL name. What the broker has confirmed is told to the
 * load, which connects to BENCH_ARRIVALS: the numbers of its slots, which are the keys, a frame a batch.
 */
import { createServer, type Socket } from 'node:net'
import { type BrokerKind, brokerAt } from '../../examples/shop/broker.ts'
import { defineConfig } from '../../src/config.ts'

const { BENCH_BROKER: kind = '', BENCH_BROKER_URL: url = '', BENCH_ARRIVALS: port } = process.env
const broker = await brokerAt(kind as BrokerKind, url)
let load: Socket | undefined
// Neither keeps the coordinator from ending.
createServer((socket) => {
  load = socket.on('error', () => {}).unref()
})
  .listen(Number(port), '127.0.0.1')
  .unref()

const publish = broker.publish.bind(broker)
broker.publish = async (batch, signal) => {
  const outcomes = await publish(batch, signal)
  const arrived = batch.filter((_, at) => outcomes[at]?.outcome === 'published')
  const frame = Buffer.alloc(2 + 2 * arrived.length)
  frame.writeUInt16LE(arrived.length)
  for (const [at, { key }] of arrived.entries()) frame.writeUInt16LE(Number(key), 2 + 2 * at)
  load?.write(frame)
  return outcomes
}

export default defineConfig({ brokers: { [kind]: broker } })
