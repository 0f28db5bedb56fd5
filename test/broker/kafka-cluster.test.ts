/** Three nodes, two of which must have a message before it is confirmed: one of them dies. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, expect, test } from 'vitest'
import type { Broker, BrokerMessage } from '../../src/broker/broker.ts'
import { kafka } from '../../src/broker/kafka.ts'
import { kafkaPlatformatic } from '../../src/broker/kafka-platformatic.ts'
import { until } from '../harness/until.ts'
import { service } from '../services/require.ts'
import { message } from './contract-world.ts'

const PARTITIONS = 6
const KEYS = 20
const MESSAGES = 10_000
const BATCH = 200
const KILLED_AFTER = 3_000
const ATTEMPT_MS = 30_000
const TIMEOUT_MS = 120_000

const cluster = await service('kafka-cluster', { nodes: 3 })
const adapters = [
  ['kafkajs', kafka],
  ['@platformatic/kafka', kafkaPlatformatic],
] as const

afterEach(async () => {
  await Promise.all(cluster.nodes.map(({ server }) => server.start()))
})

test.each(adapters)(
  '%s: the leader is lost in the middle, and nothing that was confirmed',
  async (name, open) => {
    const topic = `lost-leader-${name.replace(/\W/g, '')}`
    await cluster.createTopic(topic, {
      partitions: PARTITIONS,
      replicas: 3,
      configs: { 'min.insync.replicas': '2' },
    })
    const broker = open({ brokers: cluster.brokers, durability: 'replicated' })
    try {
      expect(await broker.register(topic, AbortSignal.timeout(ATTEMPT_MS))).toMatchObject({ shortfalls: [] })
      const sent = Array.from({ length: MESSAGES }, (_, at) => message(topic, `m${at}`, `key-${at % KEYS}`))
      let lost = { server: { start: async () => {} } } as Awaited<ReturnType<typeof cluster.leader>>
      const report = await publishAll(broker, sent, async () => {
        lost = await cluster.leader(topic, 0)
        await lost.server.kill()
      })
      const seen = await readAll(broker, topic, sent.length)
      // Each key in its order, what came twice aside.
      for (let key = 0; key < KEYS; key++) {
        const ids = [...new Set(seen.filter((each) => each.key === `key-${key}`).map(({ id }) => id))]
        expect(ids).toEqual(sent.filter((each) => each.key === `key-${key}`).map(({ id }) => id))
      }
      const duplicates = seen.length - sent.length
      console.log(
        `${name}: leader of partition 0 killed after ${KILLED_AFTER} of ${MESSAGES}; ${report}; ${duplicates} duplicates`,
      )
      expect(duplicates).toBeLessThanOrEqual(BATCH)
      await lost.server.start()
    } finally {
      await broker.close()
    }
  },
  300_000,
)

/** Publishes batch after batch, each until it is confirmed, and says how long the longest of them took. */
async function publishAll(
  broker: Broker,
  sent: readonly BrokerMessage[],
  trouble: () => Promise<void>,
): Promise<string> {
  let longestMs = 0
  let failed = 0
  for (let from = 0; from < sent.length; from += BATCH) {
    if (from === KILLED_AFTER) {
      // While this batch is under way.
      const killing = sleep(2).then(trouble)
      longestMs = Math.max(longestMs, await publishOne())
      await killing
      continue
    }
    longestMs = Math.max(longestMs, await publishOne())

    async function publishOne(): Promise<number> {
      const begun = performance.now()
      let left = sent.slice(from, from + BATCH)
      while (left.length > 0) {
        const outcomes = await broker.publish(left, AbortSignal.timeout(ATTEMPT_MS))
        left = left.filter((_, at) => outcomes[at]?.outcome !== 'published')
        failed += left.length
        if (left.length > 0) await sleep(50)
      }
      return performance.now() - begun
    }
  }
  return `recovered in ${Math.round(longestMs)} ms, ${failed} had to be published again`
}

async function readAll(broker: Broker, topic: string, count: number): Promise<readonly BrokerMessage[]> {
  const seen: BrokerMessage[] = []
  const ids = new Set<string>()
  const subscription = await broker.subscribe({ topic, group: 'readers' }, async (one) => {
    seen.push(one)
    ids.add(one.id)
  })
  await until('all arrive', () => ids.size === count, TIMEOUT_MS)
  await until('nothing is left', async () => (await broker.lag(topic, 'readers')) === 0, TIMEOUT_MS)
  await subscription.close()
  return seen
}
