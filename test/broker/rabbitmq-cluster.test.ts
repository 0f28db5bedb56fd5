import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, expect, test } from 'vitest'
import type { Broker, BrokerMessage } from '../../src/broker/broker.ts'
import { rabbitmq } from '../../src/broker/rabbitmq.ts'
import { until } from '../harness/until.ts'
import type { RabbitService } from '../services/rabbitmq.ts'
import { service } from '../services/require.ts'
import { message } from './contract-world.ts'

const cluster = await service('rabbitmq-cluster')

const MESSAGES = 10_000
const BATCH = 250
const KEYS = 20
const TIMEOUT_MS = 120_000

const closing: Broker[] = []
afterEach(async () => {
  await Promise.all(closing.splice(0).map((broker) => broker.close()))
  await Promise.all(cluster.nodes.map((node) => node.start()))
})

/** Connects to the nodes in that order. */
function open(nodes: readonly RabbitService[]): Broker {
  const broker = rabbitmq({
    url: nodes.map(({ url }) => url),
    managementUrl: nodes[0]!.managementUrl,
    durability: 'replicated',
    missingTopics: 'create',
  })
  closing.push(broker)
  return broker
}

async function leaderOf(queue: string): Promise<RabbitService> {
  const listed = await cluster.nodes[0]!.control('list_queues', 'name', 'leader', '--formatter=json')
  const row = (JSON.parse(listed) as { name: string; leader: string }[]).find(({ name }) => name === queue)
  return cluster.nodes.find(({ node }) => node === row?.leader)!
}

/** Publishes all, each again until it is published; kills `victim` in the middle. */
async function publishThrough(broker: Broker, queue: string, victim: RabbitService) {
  const ids: string[] = []
  const counts = { published: 0, failed: 0, unreachable: 0, refused: 0 }
  let killedAt = 0
  let recoveredMs = 0
  for (let from = 0; from < MESSAGES; from += BATCH) {
    let left: BrokerMessage[] = Array.from({ length: BATCH }, (_, at) =>
      message(queue, String(from + at), `k${(from + at) % KEYS}`),
    )
    ids.push(...left.map(({ id }) => id))
    let isKilling: Promise<void> | undefined
    if (from === MESSAGES / 2) {
      killedAt = performance.now()
      isKilling = victim.kill()
    }
    while (left.length > 0) {
      const outcomes = await broker.publish(left, AbortSignal.timeout(20_000))
      for (const { outcome } of outcomes) counts[outcome] += 1
      left = left.filter((_, at) => outcomes[at]?.outcome !== 'published')
      if (left.length > 0) await sleep(20)
    }
    await isKilling
    if (killedAt > 0 && recoveredMs === 0) recoveredMs = performance.now() - killedAt
  }
  return { ids, counts, recoveredMs }
}

test.each([
  ['the node that it is connected to', (nodes: readonly RabbitService[]) => nodes],
  ['another node', ([leader, ...others]: readonly RabbitService[]) => [...others, leader!]],
])(
  'the leader of a quorum queue is lost in the middle, %s: nothing confirmed is lost, order per key holds',
  async (what, ordered) => {
    const queue = `led-by-${what.replaceAll(' ', '-')}`
    const signal = AbortSignal.timeout(TIMEOUT_MS)
    expect(await open(cluster.nodes).register(queue, signal)).toMatchObject({ shortfalls: [] })
    const leader = await leaderOf(queue)
    const others = cluster.nodes.filter((node) => node !== leader)
    const broker = open(ordered([leader, ...others]))
    const { ids, counts, recoveredMs } = await publishThrough(broker, queue, leader)
    expect(counts.refused).toBe(0)

    const got: BrokerMessage[] = []
    const seen = new Set<string>()
    await open(others).subscribe({ topic: queue, group: '' }, async (one) => {
      got.push(one)
      seen.add(one.id)
    })
    await until('all arrive', () => seen.size >= ids.length, TIMEOUT_MS)
    expect([...seen].sort()).toEqual(ids.toSorted())
    for (let key = 0; key < KEYS; key++) {
      const first = [...new Set(got.filter((one) => one.key === `k${key}`).map(({ id }) => Number(id)))]
      expect(first).toEqual(first.toSorted((a, b) => a - b))
    }
    console.log(
      `${what} lost: ${Math.round(recoveredMs)} ms to recover, ${got.length - seen.size} duplicates;`,
      counts,
    )
  },
)
