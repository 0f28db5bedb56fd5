/** Three servers of NATS, and a stream that all of them have. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { nats } from '../../src/broker/nats.ts'
import { until } from '../harness/until.ts'
import { freePorts } from '../services/native-process.ts'
import { service } from '../services/require.ts'
import { message, TIMEOUT_MS } from './contract-world.ts'
import { natsStreams } from './nats-streams.ts'

const NODES = [0, 1, 2]
const first = await freePorts(NODES.length)
const routes = NODES.map((node) => `nats://127.0.0.1:${first + node}`).join(', ')
const servers = await Promise.all(
  NODES.map((node) =>
    service('nats', {
      configuration: `server_name: node-${node}
cluster { name: escrow, listen: "127.0.0.1:${first + node}", routes: [${routes}] }`,
    }),
  ),
)

test('replicated: a stream is made with three replicas, and the loss of its leader loses nothing', async () => {
  const topic = 'replicated'
  const broker = nats({
    servers: servers.map(({ host, port }) => `${host}:${port}`),
    user: servers[0]?.user,
    password: servers[0]?.password,
    durability: 'replicated',
    missingTopics: 'create',
  })
  onTestFinished(() => broker.close())
  const registered = await until(
    'the cluster has a leader',
    async () => await broker.register(topic, AbortSignal.timeout(5_000)),
    TIMEOUT_MS,
  )
  expect(registered.shortfalls).toEqual([])
  const seen = new Set<number>()
  const order: number[] = []
  await broker.subscribe({ topic, group: 'g' }, async ({ id }) => {
    if (!seen.has(Number(id))) order.push(Number(id))
    seen.add(Number(id))
  })
  let published = 0
  let isOver = false
  const publishing = (async () => {
    while (!isOver) {
      const batch = Array.from({ length: 50 }, (_, at) => message(topic, String(published + at), 'k'))
      for (let left = batch; left.length > 0; ) {
        const outcomes = await broker.publish(left, AbortSignal.timeout(5_000))
        left = left.filter((_, at) => outcomes[at]?.outcome !== 'published')
      }
      published += batch.length
    }
  })()
  await sleep(500)
  const leader = await natsStreams(
    servers[0]!,
    async (streams) => (await streams.info(topic)).cluster?.leader,
  )
  const from = performance.now()
  await servers[Number(leader?.split('-')[1])]?.kill()
  const before = published
  await until('it goes on', () => published > before + 50, TIMEOUT_MS)
  console.log(`published again ${Math.round(performance.now() - from)} ms after the leader was killed`)
  isOver = true
  await publishing
  await until('all arrive', () => seen.size === published, TIMEOUT_MS)
  expect(order).toEqual(order.toSorted((a, b) => a - b))
})
