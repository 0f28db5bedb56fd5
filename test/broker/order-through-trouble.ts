/** What a group's only reader is promised through whatever happens to its server: every message, in order for each key. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import type { Broker } from '../../src/broker/broker.ts'
import { until } from '../harness/until.ts'
import type { BrokerService } from '../services/broker-service.ts'
import { message, TIMEOUT_MS } from './contract-world.ts'

const BATCHES = 40
const BATCH = 50
const KEYS = 7

/** Publishes and reads at once, while the server is killed and its connections are reset. */
export async function staysInOrder(broker: Broker, topic: string, service: BrokerService): Promise<void> {
  const seen = new Map<string, number[]>()
  let duplicates = 0
  await broker.subscribe({ topic, group: 'through' }, async ({ id, key }) => {
    await sleep(1)
    const numbers = seen.get(key) ?? []
    seen.set(key, numbers)
    if (numbers.includes(Number(id))) duplicates += 1
    else numbers.push(Number(id))
  })
  const publishing = publishAll(broker, topic)
  for (let times = 0; times < 3; times++) {
    await sleep(200)
    service.proxy.reset()
    await sleep(200)
    await service.kill()
    await service.start()
  }
  await publishing
  const count = () => [...seen.values()].reduce((sum, { length }) => sum + length, 0)
  await until('all arrive', () => count() === BATCHES * BATCH, TIMEOUT_MS)
  for (const numbers of seen.values()) expect(numbers).toEqual(numbers.toSorted((a, b) => a - b))
  console.log(`${service.version}: ${count()} read in order, ${duplicates} duplicates`)
}

/** Each batch again until it is published, as the engine does. */
async function publishAll(broker: Broker, topic: string): Promise<void> {
  for (let batch = 0; batch < BATCHES; batch++) {
    const numbers = Array.from({ length: BATCH }, (_, at) => batch * BATCH + at)
    let left = numbers.map((number) => message(topic, String(number), `k${number % KEYS}`))
    while (left.length > 0) {
      const outcomes = await broker.publish(left, AbortSignal.timeout(10_000))
      left = left.filter((_, at) => outcomes[at]?.outcome !== 'published')
    }
    await sleep(20)
  }
}
