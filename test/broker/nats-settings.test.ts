/** What of NATS alone is checked, and how its own errors end. */
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { DiscardPolicy, RetentionPolicy, StorageType, type StreamConfig } from '@nats-io/jetstream'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Broker, BrokerMessage } from '../../src/broker/broker.ts'
import { type NatsOptions, nats } from '../../src/broker/nats.ts'
import type { ErrorCode } from '../../src/core/errors.ts'
import { until } from '../harness/until.ts'
import { service } from '../services/require.ts'
import { message, publish, rejected } from './contract-world.ts'
import { natsStreams } from './nats-streams.ts'

const server = await service('nats')

const open: Broker[] = []
let topic = ''
let topics = 0
beforeEach(() => {
  topic = `own-${++topics}`
})
afterEach(async () => {
  await Promise.all(open.splice(0).map((broker) => broker.close()))
})

function connect(options: NatsOptions = {}): Broker {
  const { host, port, user, password } = server
  const broker = nats({ servers: `${host}:${port}`, user, password, ...options })
  open.push(broker)
  return broker
}

async function createStream(config: Partial<StreamConfig> = {}): Promise<void> {
  await natsStreams(server, (streams) => streams.add({ name: topic, subjects: [topic], ...config }))
}

async function register(broker: Broker) {
  return await broker.register(topic, AbortSignal.timeout(20_000))
}

async function stored(): Promise<string[]> {
  return await natsStreams(server, async (streams) => {
    const { state } = await streams.info(topic)
    const ids: string[] = []
    for (let seq = state.first_seq; seq <= state.last_seq; seq++) {
      const one = await streams.getMessage(topic, { seq })
      if (one !== null) ids.push(one.header.get('escrow-id'))
    }
    return ids
  })
}

function sized(id: string, key: string, bytes: number): BrokerMessage {
  return { ...message(topic, id, key), body: new Uint8Array(bytes) }
}

test.each([
  ['servers', { servers: 'nats://user:secret@127.0.0.1' }],
  ['servers', { servers: [] }],
  ['password', { user: 'me' }],
  ['token', { user: 'me', password: 'secret', token: 'secret' }],
  ['durability', { durability: 'some' }],
  ['missingTopics', { missingTopics: true }],
  ['replicas', { replicas: 6 }],
  ['ackWaitMs', { ackWaitMs: 10 }],
  ['connectTimeoutMs', { connectTimeoutMs: 1.5 }],
  ['tls', { tls: 'yes' }],
  ['url', { url: 'nats://127.0.0.1' }],
])('a wrong option is refused by name: %s', (name, options) => {
  let error: unknown
  try {
    nats(options as NatsOptions)
  } catch (thrown) {
    error = thrown
  }
  expect(error).toMatchObject({
    code: 'invalidArgument' satisfies ErrorCode,
    details: { option: name },
    message: expect.stringContaining(name),
  })
  expect(String(error)).not.toContain('secret')
})

test.each<[string, Partial<StreamConfig>, RegExp]>([
  ['storage', { storage: StorageType.Memory }, /storage is memory/],
  ['retention', { retention: RetentionPolicy.Interest }, /retention is interest/],
  ['max_age', { max_age: 60e9 }, /max_age is 60 s/],
  ['max_msgs', { max_msgs: 10 }, /max_msgs is 10 and discard is old/],
  ['max_bytes', { max_bytes: 10_000 }, /max_bytes is 10000 and discard is old/],
  ['max_msgs_per_subject', { max_msgs_per_subject: 10 }, /max_msgs_per_subject is 10 and discard is old/],
  ['no_ack', { no_ack: true }, /no_ack is set/],
])('a setting by which messages may be lost is told: %s', async (_, config, expected) => {
  await createStream(config)
  expect((await register(connect())).shortfalls.join('; ')).toMatch(expected)
})

test('a stream that refuses new messages when it is full loses none', async () => {
  await createStream({ max_msgs: 10, max_bytes: 100_000, discard: DiscardPolicy.New })
  expect((await register(connect())).shortfalls).toEqual([expect.stringContaining('num_replicas is 1')])
})

test('what is sent again is stored once', async () => {
  await createStream()
  const broker = connect()
  await register(broker)
  const batch = ['a', 'b'].map((id) => message(topic, id, 'k'))
  expect(await publish(broker, batch)).toEqual(['published', 'published'])
  expect(await publish(broker, batch)).toEqual(['published', 'published'])
  expect(await stored()).toEqual(['a', 'b'])
})

test('what is behind a message of its key that was refused for now does not overtake it', async () => {
  await createStream({ max_bytes: 2_000, discard: DiscardPolicy.New })
  const broker = connect()
  await register(broker)
  const batch = [sized('a', 'k', 100), sized('b', 'k', 5_000), sized('c', 'k', 100), sized('d', 'other', 100)]
  expect(await publish(broker, batch)).toEqual(['published', 'failed', 'failed', 'published'])
  await natsStreams(server, (streams) => streams.update(topic, { max_bytes: 100_000 }))
  expect(new Set(await publish(broker, batch))).toEqual(new Set(['published']))
  expect((await stored()).filter((id) => id !== 'd')).toEqual(['a', 'b', 'c'])
})

test("a message over the stream's own limit is refused, and the limit is told", async () => {
  await createStream({ max_msg_size: 2_000 })
  const broker = connect()
  expect(await publish(broker, [sized('large', 'k', 3_000), sized('small', 'k', 10)])).toEqual([
    'refused',
    'published',
  ])
  expect((await register(broker)).messageBytesMax).toBeLessThan(2_000)
})

test.each([
  ['a line break', { note: 'one\r\ntwo' }],
  ['white space at an end', { note: 'one ' }],
  ["a header of the server's own", { 'Nats-Rollup': 'all' }],
  ['a colon in its name', { 'no:te': 'one' }],
])('a header that NATS can not carry is refused: %s', async (_, headers) => {
  await createStream()
  const broker = connect()
  const outcomes = await publish(broker, [{ ...message(topic, 'a', 'k'), headers }, message(topic, 'b', 'k')])
  expect(outcomes).toEqual(['refused', 'published'])
})

test('a subject with wildcards is no topic', async () => {
  topic = 'orders.*'
  expect(await rejected(register(connect()))).toMatchObject({ code: 'unknownDestination' })
})

test('who may not publish is told at once', async () => {
  topic = 'forbidden'
  await natsStreams(server, (streams) => streams.add({ name: topic, subjects: ['forbidden.>'] }))
  topic = 'forbidden.fruit'
  const broker = connect({ user: 'narrow', password: 'narrow' })
  const outcomes = await broker.publish([message(topic, 'a', 'k')], AbortSignal.timeout(20_000))
  expect(outcomes).toMatchObject([{ outcome: 'failed', error: expect.stringMatching(/permission/i) }])
})

test('a stream that is gone, or another one in its place, confirms nothing', async () => {
  await createStream()
  const broker = connect()
  await register(broker)
  await natsStreams(server, (streams) => streams.delete(topic))
  expect(await broker.publish([message(topic, 'a', 'k')], AbortSignal.timeout(20_000))).toMatchObject([
    { outcome: 'failed', error: expect.stringContaining('no stream binds') },
  ])
  await natsStreams(server, (streams) => streams.add({ name: `${topic}-new`, subjects: [topic] }))
  expect(await broker.publish([message(topic, 'a', 'k')], AbortSignal.timeout(20_000))).toMatchObject([
    { outcome: 'failed', error: expect.stringContaining('expected stream') },
  ])
})

test('a server that is silent is given up in time, and no connection to it stays', async () => {
  const silent = createServer((socket) => socket.on('error', () => {}).resume())
  silent.listen(0, '127.0.0.1')
  await once(silent, 'listening')
  const { port } = silent.address() as AddressInfo
  const broker = connect({ servers: `127.0.0.1:${port}`, connectTimeoutMs: 200 })
  expect(await rejected(register(broker))).toMatchObject({ code: 'brokerUnavailable' })
  const connections = () =>
    new Promise<number>((resolve) => silent.getConnections((_, count) => resolve(count)))
  await until('it is gone', async () => (await connections()) === 0)
  silent.close()
})
