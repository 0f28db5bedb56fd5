import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, describe, expect, test } from 'vitest'
import type { Broker, BrokerMessage } from '../../src/broker/broker.ts'
import { type RocketmqOptions, rocketmq } from '../../src/broker/rocketmq.ts'
import { until } from '../harness/until.ts'
import { service } from '../services/require.ts'
import { brokerContract } from './contract.ts'
import { message, publish, rejected, TIMEOUT_MS } from './contract-world.ts'

const server = await service('rocketmq')

const connection = () => ({
  endpoints: `${server.host}:${server.port}`,
  credentials: server.credentials,
  nameServers: server.nameServers,
})

brokerContract(async () => ({
  open: (policy) => rocketmq({ ...connection(), ...policy }),
  createTopic: (topic) => server.createTopic(topic, 'FIFO'),
  service: server,
  notReplicated: /broker-a: brokerRole is ASYNC_MASTER; broker-a: inSyncReplicas is 1/,
  tooLargeBytes: (4 << 20) + 1,
  openUnauthorized: () =>
    rocketmq({ ...connection(), credentials: { accessKey: 'escrow', accessSecret: 'wrong' } }),
}))

const opened: Broker[] = []

afterEach(async () => {
  await Promise.all(opened.splice(0).map((broker) => broker.close()))
})

function open(options: Partial<RocketmqOptions> = {}): Broker {
  const broker = rocketmq({ ...connection(), ...options })
  opened.push(broker)
  return broker
}

const soon = () => AbortSignal.timeout(TIMEOUT_MS)

describe('options', () => {
  test.each([
    [{ endpoints: 'localhost' }, 'endpoints', 'host:port'],
    [{ endpoints: 'a:1,b:2' }, 'endpoints', 'IPv4'],
    [{ endpoints: 'user:secret@host:1' }, 'endpoints', 'host:port'],
    [{ nameServers: '' }, 'nameServers', 'host:port'],
    [{ credentials: { accessKey: 'a' } }, 'credentials.accessSecret', 'a text'],
    [{ credentials: { accessKey: 'a', accessSecret: 'secret', user: 1 } }, 'credentials.user', 'known are'],
    [{ tls: { ca: 'secret' } }, 'tls.ca', 'PEM'],
    [{ tls: { cert: '-----BEGIN' } }, 'tls', 'belong together'],
    [{ requestTimeoutMs: 999 }, 'requestTimeoutMs', '1000-60000'],
    [{ durability: 'all' }, 'durability', 'any, replicated'],
    [{ missingTopics: 'make' }, 'missingTopics', 'refuse, create'],
    [{ durability: 'replicated', nameServers: undefined }, 'durability', 'nameServers'],
    [{ missingTopics: 'create', nameServers: undefined }, 'missingTopics', 'nameServers'],
    [{ retries: 3 }, 'retries', 'known are'],
  ])('%o is refused by name', async (wrong, option, bound) => {
    const options = { endpoints: '127.0.0.1:1', nameServers: '127.0.0.1:2', ...wrong }
    const error = await rejected((async () => rocketmq(options as RocketmqOptions))())
    expect(error).toMatchObject({ code: 'invalidArgument', details: { option } })
    expect(error.message).toContain(bound)
    expect(error.message).not.toContain('secret')
  })
})

describe('topics', () => {
  test.each(['DELAY', 'TRANSACTION'] as const)(
    'one of type %s is refused: Escrow holds those',
    async (type) => {
      await server.createTopic(`of-${type}`, type)
      const error = await rejected(open().register(`of-${type}`, soon()))
      expect(error).toMatchObject({ code: 'unsupported' })
      expect(error.message).toContain(type)
    },
  )

  test('one that changes its type is asked about again', async () => {
    await server.createTopic('changing', 'NORMAL')
    const broker = open()
    expect((await broker.register('changing', soon())).isOrdered).toBe(false)
    expect(await publish(broker, [message('changing', 'one', 'k')])).toEqual(['published'])
    await server.createTopic('changing', 'FIFO')
    await until(
      'the proxy knows',
      async () => (await publish(broker, [message('changing', 'two', 'k')]))[0] === 'failed' || undefined,
      TIMEOUT_MS,
    )
    expect(await publish(broker, [message('changing', 'three', 'k')])).toEqual(['published'])
    expect((await broker.register('changing', soon())).isOrdered).toBe(true)
  })

  test('one of mixed type takes messages with a key in order, and others', async () => {
    await server.createTopic('mixed', 'MIXED')
    const broker = open()
    expect((await broker.register('mixed', soon())).isOrdered).toBe(true)
    const batch = [message('mixed', 'one', 'k'), message('mixed', 'two', ''), message('mixed', 'three', 'k')]
    expect(await publish(broker, batch)).toEqual(['published', 'published', 'published'])
  })

  test('another broker: its TLS is checked, and its settings are told one by one', async (context) => {
    const folder = mkdtempSync(join(tmpdir(), 'escrow-rocketmq-tls-'))
    context.onTestFinished(() => rmSync(folder, { recursive: true }))
    const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')]
    const request = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', cert]
    execFileSync('openssl', [...request, '-subj', '/CN=test', '-addext', 'subjectAltName=IP:127.0.0.1'], {
      stdio: 'ignore',
    })
    const proxy = { tlsTestModeEnable: false, tlsKeyPath: key, tlsCertPath: cert }
    const settings = { flushDiskType: 'ASYNC_FLUSH', brokerRole: 'SYNC_MASTER', inSyncReplicas: 2 }
    const other = await service('rocketmq', { broker: settings, proxy }, context)
    const at = { endpoints: `${other.host}:${other.port}`, nameServers: other.nameServers }
    await other.createTopic('orders', 'NORMAL')
    const distrustful = open({ ...at, tls: true })
    const error = await rejected(distrustful.register('orders', soon()))
    expect(error).toMatchObject({ code: 'brokerUnavailable' })
    expect(error.message).toContain('tls')
    expect(await publish(distrustful, [message('orders', 'never', 'k')])).toEqual(['unreachable'])
    const broker = open({ ...at, tls: { ca: readFileSync(cert, 'utf8') }, durability: 'replicated' })
    const { shortfalls } = await broker.register('orders', soon())
    expect(shortfalls).toEqual(['broker-a: flushDiskType is ASYNC_FLUSH'])
    // Its replica isn't there: nothing is confirmed.
    expect(await publish(broker, [message('orders', 'one', 'k')])).toEqual(['failed'])
  })

  test('without name servers the settings are not known, and the lag is not told', async () => {
    await server.createTopic('unseen', 'NORMAL')
    const broker = open({ nameServers: undefined })
    const { shortfalls } = await broker.register('unseen', soon())
    expect(shortfalls.join()).toContain('nameServers')
    const error = await rejected(broker.lag('unseen', 'anybody'))
    expect(error).toMatchObject({ code: 'unsupported' })
    expect(error.message).toContain('nameServers')
  })
})

describe('publishing', () => {
  test('a batch with messages that the broker will never take: the others are published', async () => {
    await server.createTopic('plain', 'NORMAL')
    const broker = open()
    const batch = Array.from({ length: 200 }, (_, at) => message('plain', `m${at}`, 'k'))
    batch[50] = { ...(batch[50] as BrokerMessage), headers: { KEYS: "RocketMQ's own" } }
    batch[70] = { ...(batch[70] as BrokerMessage), headers: { 'x-line': 'two\nlines' } }
    batch[90] = { ...(batch[90] as BrokerMessage), body: new Uint8Array((4 << 20) + 1) }
    const outcomes = await publish(broker, batch)
    const refused = outcomes.flatMap((outcome, at) => (outcome === 'refused' ? [at] : []))
    expect(refused).toEqual([50, 70, 90])
    expect(outcomes.filter((outcome) => outcome === 'published').length).toBe(197)
    const got = await read(broker, 'plain', 197)
    expect(new Set(got.map(({ id }) => id)).size).toBe(197)
  })

  test('any key arrives as it was: long, or with what RocketMQ takes for no group', async () => {
    await server.createTopic('keyed', 'FIFO')
    const broker = open()
    const keys = ['k'.repeat(63), 'k'.repeat(64), 'k'.repeat(1024), ' ', 'Schlüssel', 'a/b{c}']
    const batch = keys.map((key, at) => message('keyed', `m${at}`, key))
    expect(new Set(await publish(broker, batch))).toEqual(new Set(['published']))
    const got = await read(broker, 'keyed', keys.length)
    expect(got.map(({ key }) => key).sort()).toEqual(keys.toSorted())
  })
})

describe('receiving', () => {
  test('a group that does not consume in order is refused a FIFO topic, with the command', async () => {
    await server.createTopic('in-order', 'FIFO')
    const unseeing = open({ nameServers: undefined })
    const handle = async () => {}
    const error = await rejected(unseeing.subscribe({ topic: 'in-order', group: 'unordered' }, handle))
    expect(error).toMatchObject({ code: 'unsupported' })
    expect(error.message).toContain('updateSubGroup -g unordered -o true')
  })

  test('a group whose name RocketMQ does not take is refused', async () => {
    await server.createTopic('grouped', 'NORMAL')
    const error = await rejected(open().subscribe({ topic: 'grouped', group: 'two words' }, async () => {}))
    expect(error).toMatchObject({ code: 'invalidArgument' })
    expect(error.message).toContain('two words')
  })

  test('a new group begins where it is told, an old one where it was', async () => {
    await server.createTopic('begun', 'NORMAL')
    const broker = open()
    await publish(broker, [message('begun', 'early', '')])
    expect((await read(broker, 'begun', 1, 'from-start')).map(({ id }) => id)).toEqual(['early'])
    const late: string[] = []
    const options = { topic: 'begun', group: 'from-end', from: 'latest' } as const
    const subscription = await broker.subscribe(options, async ({ id }) => {
      late.push(id)
    })
    await publish(broker, [message('begun', 'late', '')])
    await until('the late one comes', () => late.length > 0 || undefined, TIMEOUT_MS)
    expect(late).toEqual(['late'])
    await subscription.close()
    expect((await read(broker, 'begun', 1, 'from-start')).map(({ id }) => id)).toEqual(['late'])
  })

  test('what is handled for longer than RocketMQ hides it does not come twice', async () => {
    await server.createTopic('slow', 'NORMAL')
    const broker = open()
    const begun: string[] = []
    await broker.subscribe({ topic: 'slow', group: 'thorough' }, async ({ id }) => {
      begun.push(id)
      await sleep(26_000)
    })
    await publish(broker, [message('slow', 'long', '')])
    await sleep(32_000)
    expect(begun).toEqual(['long'])
    expect(await broker.lag('slow', 'thorough')).toBe(0)
  })

  test('a plain topic: what a handler rejects comes again', async () => {
    await server.createTopic('rejected', 'NORMAL')
    const broker = open()
    const seen: string[] = []
    await broker.subscribe({ topic: 'rejected', group: 'stubborn' }, async ({ id }) => {
      seen.push(id)
      if (seen.length < 3) throw new Error('not now')
    })
    await publish(broker, [message('rejected', 'one', '')])
    await until('it is handled', () => seen.length >= 3 || undefined, TIMEOUT_MS)
    expect(seen).toEqual(['one', 'one', 'one'])
  })
})

/** Reads until so many have come, and leaves. */
async function read(
  broker: Broker,
  topic: string,
  count: number,
  group = `readers-of-${topic}`,
): Promise<readonly BrokerMessage[]> {
  const got: BrokerMessage[] = []
  const subscription = await broker.subscribe({ topic, group }, async (one) => {
    got.push(one)
  })
  await until('all have come', () => got.length >= count || undefined, TIMEOUT_MS)
  await subscription.close()
  return got
}
