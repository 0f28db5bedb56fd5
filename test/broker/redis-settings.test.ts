/** What of Redis alone is checked, and how its own errors end. */
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Broker, BrokerMessage } from '../../src/broker/broker.ts'
import { type RedisOptions, redis } from '../../src/broker/redis.ts'
import type { ErrorCode } from '../../src/core/errors.ts'
import { until } from '../harness/until.ts'
import type { RedisService } from '../services/redis.ts'
import { service } from '../services/require.ts'
import { message, publish, rejected } from './contract-world.ts'
import { redisCommand } from './redis-command.ts'

const primary = await service('redis')
const replica = await service('redis', {
  settings: { masterauth: 'secret-of-the-test', 'repl-diskless-sync-delay': '0' },
})

const open: Broker[] = []
let topic = ''
let topics = 0
beforeEach(async () => {
  topic = `own-${++topics}`
  await createStream(topic)
})
afterEach(async () => {
  await Promise.all(open.splice(0).map((broker) => broker.close()))
})

function connect(options: RedisOptions = {}, { host, port, password }: RedisService = primary): Broker {
  const broker = redis({ url: `redis://:${password}@${host}:${port}/0`, ...options })
  open.push(broker)
  return broker
}

async function createStream(name: string): Promise<void> {
  await redisCommand(primary, ['XGROUP', 'CREATE', name, 'made', '$', 'MKSTREAM'])
}

async function register(broker: Broker) {
  return await broker.register(topic, AbortSignal.timeout(20_000))
}

async function length(): Promise<number> {
  return Number(await redisCommand(primary, ['XLEN', topic]))
}

/** Changes settings of the primary for a while. */
async function withSettings(settings: Record<string, string>, run: () => Promise<void>): Promise<void> {
  const before: string[] = []
  for (const name of Object.keys(settings))
    before.push(...((await redisCommand(primary, ['CONFIG', 'GET', name])) as string[]))
  try {
    await redisCommand(primary, ['CONFIG', 'SET', ...Object.entries(settings).flat()])
    await run()
  } finally {
    await redisCommand(primary, ['CONFIG', 'SET', ...before])
  }
}

test.each([
  ['url', { url: 'http://127.0.0.1' }],
  ['url', { url: 'redis://:secret@127.0.0.1/not-a-number' }],
  ['durability', { durability: 'some' }],
  ['missingTopics', { missingTopics: true }],
  ['replicasMin', { replicasMin: 0 }],
  ['claimIdleMs', { claimIdleMs: 99 }],
  ['connectTimeoutMs', { connectTimeoutMs: 1.5 }],
  ['maxAgeMs', { maxAgeMs: 5, maxLength: 5 }],
  ['tls', { tls: 'yes' }],
  ['consumer', { consumer: '' }],
  ['hosts', { hosts: [] }],
])('a wrong option is refused by name: %s', (name, options) => {
  let error: unknown
  try {
    redis(options as RedisOptions)
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

test.each([
  ['appendonly', { appendonly: 'no' }, /appendonly is no/],
  ['appendfsync', { appendfsync: 'everysec' }, /appendfsync is everysec/],
  [
    'maxmemory-policy',
    { maxmemory: '100mb', 'maxmemory-policy': 'allkeys-lru' },
    /maxmemory-policy is allkeys-lru/,
  ],
])('a setting by which messages may be lost is told: %s', async (_, settings, expected) => {
  expect((await register(connect())).shortfalls.join('; ')).not.toMatch(expected)
  await withSettings(settings as Record<string, string>, async () => {
    expect((await register(connect())).shortfalls.join('; ')).toMatch(expected)
  })
})

test('a stream that expires, or that is trimmed by an option, is told', async () => {
  await redisCommand(primary, ['PEXPIRE', topic, '600000'])
  expect((await register(connect())).shortfalls.join('; ')).toMatch(/expires in \d+ ms/)
  expect((await register(connect({ maxLength: 1_000 }))).shortfalls.join('; ')).toMatch(/maxLength/)
})

test('where CONFIG is not permitted, that is told, and nothing is taken for replicated', async () => {
  await redisCommand(primary, [
    'ACL',
    'SETUSER',
    'narrow',
    'on',
    '>narrow',
    '~*',
    '+@all',
    '-config',
    '-info',
    '-ping',
  ])
  const narrow = { username: 'narrow', password: 'narrow' }
  const { shortfalls, messageBytesMax } = await register(connect(narrow))
  expect(shortfalls.join('; ')).toMatch(/CONFIG GET is not permitted.*INFO is not permitted/)
  expect(messageBytesMax).toBe(536_870_912)
  expect(await rejected(register(connect({ ...narrow, durability: 'replicated' })))).toMatchObject({
    code: 'notDurable',
  })
})

test('who may not write is told so by Redis, and nothing is published', async () => {
  await redisCommand(primary, ['ACL', 'SETUSER', 'reader', 'on', '>reader', '~*', '+@all', '-xadd'])
  const broker = connect({ username: 'reader', password: 'reader' })
  const outcomes = await broker.publish(batch(2), AbortSignal.timeout(20_000))
  expect(outcomes).toMatchObject([
    { outcome: 'failed', error: expect.stringContaining('NOPERM') },
    { outcome: 'failed', error: expect.stringContaining('NOPERM') },
  ])
  expect(await length()).toBe(0)
})

test('a key that is no stream is no topic', async () => {
  topic = 'a-text'
  await redisCommand(primary, ['SET', topic, 'text'])
  const error = await rejected(register(connect()))
  expect(error).toMatchObject({ code: 'unknownDestination' })
  expect(error.message).toContain('WRONGTYPE')
  expect(await publish(connect(), batch(2))).toEqual(['failed', 'failed'])
})

test('a stream that was removed is not made again in silence', async () => {
  const broker = connect()
  await register(broker)
  await redisCommand(primary, ['DEL', topic])
  expect(await broker.publish(batch(1), AbortSignal.timeout(20_000))).toMatchObject([
    { outcome: 'failed', error: expect.stringContaining('not there any more') },
  ])
  expect(await length()).toBe(0)
})

test('a full server fails a batch as a whole, and takes it when there is room again', async () => {
  const broker = connect()
  await register(broker)
  await withSettings({ maxmemory: '1mb', 'maxmemory-policy': 'noeviction' }, async () => {
    const outcomes = await broker.publish(batch(3), AbortSignal.timeout(20_000))
    expect(outcomes).toMatchObject(
      batch(3).map(() => ({ outcome: 'failed', error: expect.stringContaining('OOM') })),
    )
    expect(await length()).toBe(0)
  })
  expect(await publish(broker, batch(3))).toEqual(['published', 'published', 'published'])
})

test('a batch of more bytes than one transaction holds arrives in order', async () => {
  const broker = connect()
  await register(broker)
  const large = batch(12).map((each) => ({ ...each, body: new Uint8Array(900_000) }))
  expect(new Set(await publish(broker, large))).toEqual(new Set(['published']))
  const entries = (await redisCommand(primary, ['XRANGE', topic, '-', '+'])) as [string, string[]][]
  expect(entries.map(([, fields]) => fields[fields.indexOf('escrow-id') + 1])).toEqual(
    large.map(({ id }) => id),
  )
})

test('a stream is trimmed where an option says so', async () => {
  const broker = connect({ maxLength: 100 })
  await register(broker)
  for (let times = 0; times < 4; times++) await publish(broker, batch(200))
  expect(await length()).toBeLessThan(300)
})

test('an entry that did not come from Escrow is handed over, with the id that Redis gave it', async () => {
  const id = await redisCommand(primary, ['XADD', topic, '*', 'from', 'elsewhere', 'body', 'text'])
  const broker = connect()
  const got: BrokerMessage[] = []
  await broker.subscribe({ topic, group: 'g' }, async (one) => {
    got.push(one)
  })
  await until('it comes', () => got.length > 0)
  expect({ ...got[0], body: String(got[0]?.body) }).toEqual({
    topic,
    id,
    key: '',
    body: 'text',
    headers: { from: 'elsewhere' },
    contentType: '',
  })
})

test('lag counts the whole stream where Redis does not know how far a group is', async () => {
  const broker = connect()
  await publish(broker, batch(5))
  const [first, second] = (await redisCommand(primary, ['XRANGE', topic, '-', '+'])) as [string][]
  await redisCommand(primary, ['XGROUP', 'CREATE', topic, 'unsure', first?.[0] ?? ''])
  await redisCommand(primary, ['XDEL', topic, second?.[0] ?? ''])
  expect(await broker.lag(topic, 'unsure')).toBe(4)
  expect(await broker.lag(topic, 'nobody')).toBe(4)
  expect(await rejected(broker.lag('nowhere', 'g'))).toMatchObject({ code: 'unknownDestination' })
})

test('a replica is not written to; once it is a primary, it is', async () => {
  await redisCommand(replica, ['REPLICAOF', '127.0.0.1', String(primary.directPort)])
  await until('it follows', async () =>
    String(await redisCommand(replica, ['INFO', 'replication'])).includes('master_link_status:up'),
  )
  const broker = connect({}, replica)
  const error = await rejected(register(broker))
  expect(error).toMatchObject({ code: 'brokerUnavailable' })
  expect(error.message).toContain('READONLY')
  expect(await publish(broker, batch(1))).toEqual(['unreachable'])
  await redisCommand(replica, ['REPLICAOF', 'NO', 'ONE'])
  expect(await publish(broker, batch(1))).toEqual(['published'])
  // And back again, under a connection that is open.
  await redisCommand(replica, ['REPLICAOF', '127.0.0.1', String(primary.directPort)])
  const [outcome] = await broker.publish(batch(1), AbortSignal.timeout(20_000))
  expect(outcome).toMatchObject({ outcome: 'failed', error: expect.stringContaining('READONLY') })
  expect(await publish(broker, batch(1))).toEqual(['unreachable'])
})

test('replicated: confirmed once a replica has it, and not where none has', async () => {
  await redisCommand(replica, ['REPLICAOF', '127.0.0.1', String(primary.directPort)])
  await withSettings({ 'min-replicas-to-write': '1', 'min-replicas-max-lag': '60' }, async () => {
    const broker = connect({ durability: 'replicated' })
    await until('it counts', async () =>
      String(await redisCommand(primary, ['INFO', 'replication'])).includes('min_slaves_good_slaves:1'),
    )
    expect((await register(broker)).shortfalls).toEqual([])
    expect(await publish(broker, batch(2))).toEqual(['published', 'published'])
    await replica.pause()
    try {
      const outcomes = await broker.publish(batch(2), AbortSignal.timeout(20_000))
      const failed = { outcome: 'failed', error: expect.stringContaining('on 0 replicas') }
      expect(outcomes).toMatchObject([failed, failed])
    } finally {
      await replica.resume()
    }
    await until('it is confirmed again', async () => (await publish(broker, batch(1)))[0] === 'published')
  })
})

function batch(count: number): readonly BrokerMessage[] {
  return Array.from({ length: count }, (_, at) => message(topic, `m${at}`, 'k'))
}

test('a server that is silent is given up in time, and no connection to it stays', async () => {
  const silent = createServer((socket) => socket.on('error', () => {}).resume())
  silent.listen(0, '127.0.0.1')
  await once(silent, 'listening')
  const { port } = silent.address() as AddressInfo
  const broker = connect({ url: `redis://127.0.0.1:${port}`, connectTimeoutMs: 200 })
  expect(await rejected(register(broker))).toMatchObject({ code: 'brokerUnavailable' })
  const connections = () =>
    new Promise<number>((resolve) => silent.getConnections((_, count) => resolve(count)))
  await until('it is gone', async () => (await connections()) === 0)
  silent.close()
})
