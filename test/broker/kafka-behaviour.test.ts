/** What both adapters of Kafka do beyond every broker's contract. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, describe, expect, test } from 'vitest'
import type { Broker, BrokerMessage } from '../../src/broker/broker.ts'
import type { KafkaOptions } from '../../src/broker/kafka/options.ts'
import { kafka } from '../../src/broker/kafka.ts'
import { kafkaPlatformatic } from '../../src/broker/kafka-platformatic.ts'
import type { ErrorCode } from '../../src/core/errors.ts'
import { until } from '../harness/until.ts'
import type { KafkaTopicSettings } from '../services/kafka.ts'
import { service } from '../services/require.ts'
import { message, publish, published, rejected } from './contract-world.ts'

const server = await service('kafka')
const open: Broker[] = []
let topics = 0

afterEach(async () => {
  server.proxy.heal()
  await Promise.all(open.splice(0).map((broker) => broker.close()))
})

async function newTopic(settings?: KafkaTopicSettings): Promise<string> {
  topics += 1
  const topic = `behaviour-${topics}`
  await server.createTopic(topic, settings)
  return topic
}

const soon = () => AbortSignal.timeout(20_000)
const idsOf = (messages: readonly BrokerMessage[]) => messages.map(({ id }) => id)

describe.each([
  ['kafkajs', kafka],
  ['@platformatic/kafka', kafkaPlatformatic],
] as const)('%s', (_, adapter) => {
  function connect(options: Partial<KafkaOptions> = {}): Broker {
    const broker = adapter({ brokers: server.brokers, ...options })
    open.push(broker)
    return broker
  }

  test('each setting that falls short is named, and no other', async () => {
    const broker = connect()
    const shortfalls = async (configs: Record<string, string>) =>
      (await broker.register(await newTopic({ configs }), soon())).shortfalls.map(
        (each) => each.split(' ')[0],
      )
    // One server can have no second replica.
    expect(await shortfalls({ 'min.insync.replicas': '2' })).toEqual(['replication.factor'])
    expect(
      await shortfalls({ 'min.insync.replicas': '2', 'unclean.leader.election.enable': 'true' }),
    ).toEqual(['replication.factor', 'unclean.leader.election.enable'])
    expect(await shortfalls({})).toEqual(['replication.factor', 'min.insync.replicas'])
  })

  test('nothing is read of a topic that is not there, and nothing is counted', async () => {
    const broker = connect()
    const missing = { code: 'unknownDestination' satisfies ErrorCode }
    expect(await rejected(broker.lag('not-there', 'g'))).toMatchObject(missing)
    const reading = broker.subscribe({ topic: 'not-there', group: 'g' }, async () => {})
    expect(await rejected(reading)).toMatchObject(missing)
  })

  test('a replication that the cluster cannot give is no topic', async () => {
    const broker = connect({ missingTopics: 'create', durability: 'replicated' })
    topics += 1
    const error = await rejected(broker.register(`behaviour-${topics}`, soon()))
    expect(error).toMatchObject({ code: 'notDurable' satisfies ErrorCode })
  })

  test('a batch over the size of a record batch goes in several, each key in its order', async () => {
    const topic = await newTopic({ configs: { 'max.message.bytes': '20000' } })
    const broker = connect()
    const { messageBytesMax } = await broker.register(topic, soon())
    expect(messageBytesMax).toBe(20_000 - 2_048)
    const sent = Array.from({ length: 100 }, (_unused, at) => ({
      ...message(topic, `m${at}`, `k${at % 3}`),
      body: Buffer.alloc(1_000),
    }))
    expect(new Set(await publish(broker, sent))).toEqual(new Set(['published']))
    const got: BrokerMessage[] = []
    await broker.subscribe({ topic, group: 'split' }, async (one) => {
      got.push(one)
    })
    await until('all arrive', () => got.length >= sent.length)
    for (let key = 0; key < 3; key++) {
      const ofKey = (messages: readonly BrokerMessage[]) => messages.filter((each) => each.key === `k${key}`)
      expect(idsOf(ofKey(got))).toEqual(idsOf(ofKey(sent)))
    }
  })

  test('what only the server finds invalid is refused, and its neighbours are published', async () => {
    const topic = await newTopic({ configs: { 'cleanup.policy': 'compact' } })
    const broker = connect()
    await broker.register(topic, soon())
    const batch = ['a', 'b', '', 'd', 'e'].map((key, at) => message(topic, `m${at}`, key))
    const outcomes = await publish(broker, batch)
    expect(outcomes).toEqual(['published', 'published', 'refused', 'published', 'published'])
  })

  test('a batch in a transaction of Kafka arrives, and so does the next one', async () => {
    const topic = await newTopic({ partitions: 2 })
    const broker = connect({ transactional: { idPrefix: `coordinator-${topics}` } })
    await broker.register(topic, soon())
    const sent = Array.from({ length: 20 }, (_unused, at) => message(topic, `m${at}`, `k${at % 4}`))
    for (const batch of [sent.slice(0, 10), sent.slice(10)])
      expect(new Set(await publish(broker, batch))).toEqual(new Set(['published']))
    // What fences this one's producers off: its own successor, as after a crash.
    const successor = connect({ transactional: { idPrefix: `coordinator-${topics}` } })
    expect(await publish(successor, [message(topic, 'successor', 'k')])).toEqual(['published'])
    expect(await publish(broker, [message(topic, 'fenced', 'k')])).toEqual(['failed'])
    const got: BrokerMessage[] = []
    await broker.subscribe({ topic, group: 'readers' }, async (one) => {
      got.push(one)
    })
    await until('all arrive', () => got.length >= sent.length + 1)
    expect(idsOf(got).sort()).toEqual([...idsOf(sent), 'successor'].sort())
  })

  test('keys are handled side by side, each in its order, and no more than asked for', async () => {
    const topic = await newTopic({ partitions: 2 })
    const broker = connect()
    await broker.register(topic, soon())
    const sent = Array.from({ length: 60 }, (_unused, at) => message(topic, `m${at}`, `k${at % 6}`))
    await publish(broker, sent)
    const got: BrokerMessage[] = []
    const running = new Set<string>()
    let most = 0
    await broker.subscribe({ topic, group: 'wide', concurrencyMax: 4 }, async (one) => {
      expect(running.has(one.key)).toBe(false)
      running.add(one.key)
      most = Math.max(most, running.size)
      await sleep(5)
      running.delete(one.key)
      got.push(one)
    })
    await until('all are handled', () => got.length >= sent.length)
    expect(most).toBe(4)
    for (let key = 0; key < 6; key++) {
      const ofKey = (messages: readonly BrokerMessage[]) => messages.filter((each) => each.key === `k${key}`)
      expect(idsOf(ofKey(got))).toEqual(idsOf(ofKey(sent)))
    }
  })

  test('publishing at the same time loses nothing: each has its own producer', async () => {
    const topic = await newTopic()
    const broker = connect()
    await broker.register(topic, soon())
    const batches = Array.from({ length: 8 }, (_unused, batch) =>
      Array.from({ length: 10 }, (_each, at) => message(topic, `${batch}-${at}`, 'k')),
    )
    const resetting = sleep(3).then(() => server.proxy.reset())
    const outcomes = await Promise.all(batches.map((batch) => broker.publish(batch, soon())))
    await resetting
    const confirmed = batches.flat().filter((_one, at) => outcomes.flat()[at]?.outcome === 'published')
    const ids = new Set<string>()
    await broker.subscribe({ topic, group: 'all' }, async ({ id }) => {
      ids.add(id)
    })
    await until('what was confirmed arrives', () => confirmed.every(({ id }) => ids.has(id)))
  })

  test('once it is given up, nothing is sent any more', async () => {
    const topic = await newTopic()
    const broker = connect()
    await broker.register(topic, soon())
    await publish(broker, [message(topic, 'before', 'k')])
    // It is sent, and dies with the server unread; then it would be tried again.
    await server.pause()
    const publishing = broker.publish([message(topic, 'given up', 'k')], AbortSignal.timeout(1_000))
    await sleep(300)
    await server.kill()
    expect((await publishing)[0]?.outcome).toBe('failed')
    await server.start()
    await sleep(1_000)
    const ids: string[] = []
    await broker.subscribe({ topic, group: 'late' }, async ({ id }) => {
      ids.push(id)
    })
    await published(broker, message(topic, 'after', 'k'))
    await until('the last arrives', () => ids.includes('after'))
    expect(ids).toEqual(['before', 'after'])
  })
})

test('members on either adapter share a group', async () => {
  const topic = await newTopic({ partitions: 4 })
  const members = [kafka({ brokers: server.brokers }), kafkaPlatformatic({ brokers: server.brokers })]
  open.push(...members)
  const got = [new Set<string>(), new Set<string>()]
  for (const [at, member] of members.entries())
    await member.subscribe({ topic, group: 'mixed' }, async ({ id }) => {
      got[at]?.add(id)
    })
  let count = 0
  await until('both have had some', async () => {
    const batch = Array.from({ length: 16 }, () => message(topic, `m${count++}`, `k${count}`))
    await publish(members[0] as Broker, batch)
    return got.every(({ size }) => size > 0)
  })
  await until('all arrive', () => new Set([...(got[0] ?? []), ...(got[1] ?? [])]).size === count)
})
