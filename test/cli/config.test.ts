import { resolve } from 'node:path'
import { inspect } from 'node:util'
import { describe, expect, test } from 'vitest'
import { MemoryBroker, memory } from '../../src/broker/memory.ts'
import {
  DEFAULT_CHECK_BACK,
  DEFAULT_RETRY,
  defineConfig,
  type EscrowOptions,
  isConfig,
  optionsOfEnvironment,
  parseConfig,
} from '../../src/config.ts'
import { DEFAULT_LIMITS } from '../../src/core/envelope.ts'
import { EscrowError } from '../../src/core/errors.ts'
import { DEFAULT_SAGA_LIMITS } from '../../src/core/saga/decision.ts'

const DAY_MS = 86_400_000

describe('options', () => {
  test('every option has a default', () => {
    expect(parseConfig()).toMatchObject({
      namespaces: ['default'],
      store: { kind: 'embedded', path: resolve('.escrow') },
      listen: true,
      grpc: { host: '127.0.0.1', port: 7411 },
      http: { host: '127.0.0.1', port: 7410 },
      limits: DEFAULT_LIMITS,
      sagaLimits: DEFAULT_SAGA_LIMITS,
      checkBack: DEFAULT_CHECK_BACK,
      retry: DEFAULT_RETRY,
      retentionMs: DAY_MS,
      participants: [],
      participantLimits: [],
    })
  })

  test('an earlier layer wins, option by option within a group', () => {
    const flags = { grpc: { port: 1 }, store: undefined }
    const environment = optionsOfEnvironment({
      ESCROW_GRPC_PORT: '2',
      ESCROW_HTTP_PORT: '3',
      ESCROW_HOST: '::1',
      ESCROW_STORE: '',
    })
    const file = {
      grpc: { port: 4, host: 'a' },
      http: { port: 5 },
      store: { path: 'b' },
      retry: { attemptsMax: 6 },
    }
    const config = parseConfig(flags, environment, file)
    expect(config.grpc).toEqual({ host: '::1', port: 1 })
    expect(config.http).toEqual({ host: '::1', port: 3 })
    expect(config.store).toEqual({ kind: 'embedded', path: resolve('b') })
    expect(config.retry).toEqual({ ...DEFAULT_RETRY, attemptsMax: 6 })
  })

  test('what was parsed is frozen to the bottom, and known as parsed', () => {
    const config = parseConfig({ participants: { audit: { url: 'http://a', handlers: ['log'] } } })
    expect(() => Object.assign(config, { listen: false })).toThrow(TypeError)
    expect(() => Object.assign(config.limits, { messagesMax: 0 })).toThrow(TypeError)
    expect(() => Object.assign(config.sagaLimits, { activeMax: 0 })).toThrow(TypeError)
    expect(() => (config.participants[0]!.registration.handlers as string[]).push('x')).toThrow(TypeError)
    expect(isConfig(config)).toBe(true)
    expect(isConfig(defineConfig({}))).toBe(false)
  })

  test('the options that were given stay the caller’s own', () => {
    const options = { namespaces: ['a'], checkBack: { delayMs: 1 } }
    parseConfig(options)
    options.namespaces.push('b')
    options.checkBack.delayMs = 2
    expect(options).toEqual({ namespaces: ['a', 'b'], checkBack: { delayMs: 2 } })
  })

  test('brokers are given as they are, or as what makes them', async () => {
    const broker = memory()
    const { brokers } = parseConfig({ brokers: { one: broker, two: memory } })
    expect(await brokers.get('one')?.()).toBe(broker)
    expect(await brokers.get('two')?.()).toBeInstanceOf(MemoryBroker)
  })

  test('participants that listen are parsed to where they are called', () => {
    const { participants } = parseConfig({
      namespaces: ['default', 'eu'],
      participants: {
        audit: {
          url: 'http://audit',
          handlers: ['log'],
          steps: ['reserve'],
          namespace: 'eu',
          databaseId: 'd',
        },
      },
    })
    expect(participants).toEqual([
      {
        namespace: 'eu',
        service: 'audit',
        url: 'http://audit:80',
        registration: { handlers: ['log'], steps: ['reserve'], checkers: [], databaseId: 'd' },
      },
    ])
  })
})

test('participants are held to limits, whether they listen or connect by themselves', () => {
  const { participants, participantLimits } = parseConfig({
    namespaces: ['default', 'eu'],
    participants: {
      payments: { concurrencyMax: 50, ratePerSecond: 100 },
      audit: { url: 'http://audit', steps: ['log'], namespace: 'eu', ratePerSecond: 7 },
      free: { url: 'http://free' },
    },
  })
  expect(participants.map(({ service }) => service)).toEqual(['audit', 'free'])
  expect(participantLimits).toEqual([
    { namespace: 'default', service: 'payments', concurrencyMax: 50, ratePerSecond: 100 },
    { namespace: 'eu', service: 'audit', concurrencyMax: 0, ratePerSecond: 7 },
  ])
})

const small = { transactionBytesMax: 1_024, bodyBytesMax: 1, frameBytesMax: 100_000 }

test('what a saga may carry by default is less where frames, or all that a saga keeps, hold less', () => {
  const payloadOf = (options: EscrowOptions) => parseConfig(options).sagaLimits.payloadBytesMax
  expect(payloadOf({ limits: small })).toBe(17_232)
  expect(payloadOf({ sagaLimits: { sagaBytesMax: 100_000 } })).toBe(100_000)
})

describe('a wrong option is named, with its value and its bound', () => {
  test.each<[string, unknown, string]>([
    [
      'an unknown option',
      { checkback: {} },
      'option options: "checkback" is not an option: known are namespaces, store, cluster',
    ],
    [
      'an unknown option of a group',
      { grpc: { prot: 1 } },
      'option grpc: "prot" is not an option: known are host, port',
    ],
    ['a port', { grpc: { port: 65_536 } }, 'option grpc.port: 65536 is not a whole number, 0-65535'],
    [
      'a port that is no number',
      { http: { port: '80' } },
      'option http.port: "80" is not a whole number, 0-65535',
    ],
    ['a host', { grpc: { host: 'a b' } }, 'option grpc.host: "a b" is not a host name or an IP address'],
    ['a group that is no object', { grpc: 7411 }, 'option grpc: 7411 is not an object'],
    [
      'a bound of sagas',
      { sagaLimits: { payloadBytesMax: 2 << 20 } },
      'option sagaLimits.payloadBytesMax: 2097152 is not a whole number, 1024-1048576',
    ],
    [
      'an unknown bound of sagas',
      { sagaLimits: { VALUE_BYTES_MAX: 1 } },
      'option sagaLimits: "VALUE_BYTES_MAX" is not an option: known are payloadBytesMax',
    ],
    [
      'payloads of sagas of which two fit into no frame',
      { limits: small, sagaLimits: { payloadBytesMax: 20_000 } },
      'option sagaLimits.payloadBytesMax: 20000 is not a whole number, 1-17232',
    ],
    [
      'payloads of sagas that are larger than all that a saga keeps',
      { sagaLimits: { sagaBytesMax: 100_000, payloadBytesMax: 200_000 } },
      'option sagaLimits.payloadBytesMax: 200000 is not a whole number, 1-100000',
    ],
    ['listen', { listen: 'no' }, 'option listen: "no" is not one of true, false'],
    ['a namespace', { namespaces: ['A'] }, 'option namespaces[0]: "A" is not a name of 1-63 characters'],
    ['no namespace', { namespaces: [] }, 'option namespaces: "0 of them" is not 1-1000 names'],
    ['namespaces that are no list', { namespaces: 'a' }, 'option namespaces: "a" is not a list of names'],
    [
      'a body',
      { limits: { bodyBytesMax: 3 << 20 } },
      'option limits.bodyBytesMax: 3145728 is not a whole number, 1-2097152',
    ],
    [
      'a transaction',
      { limits: { transactionBytesMax: 4 << 20 } },
      'option limits.transactionBytesMax: 4194304 is not a whole number, 1024-3145728',
    ],
    [
      'a frame that is smaller than a transaction',
      { limits: { frameBytesMax: 2 << 20 } },
      'option limits.frameBytesMax: 2097152 is not a whole number, 2162688-4128768',
    ],
    [
      'a fraction',
      { checkBack: { delayMs: 1.5 } },
      'option checkBack.delayMs: 1.5 is not a whole number, 1-31536000000',
    ],
    [
      'onExhausted',
      { checkBack: { onExhausted: 'retry' } },
      'option checkBack.onExhausted: "retry" is not one of park, commit, rollback',
    ],
    [
      'attempts',
      { retry: { attemptsMax: 0 } },
      'option retry.attemptsMax: 0 is not a whole number, 1-1000000',
    ],
    [
      'retention',
      { retentionMs: 1000 },
      'option retentionMs: 1000 is not a whole number, 86400000-2678400000',
    ],
    [
      'a broker',
      { brokers: { events: 'kafka' } },
      'option brokers.events: "kafka" is not a broker, or a function that makes one',
    ],
    ['a broker’s name', { brokers: { 'a:b': memory } }, 'brokers: name "a:b" is not a name'],
    ['a URL', { participants: { audit: { url: 'https://a' } } }, 'url "https://a" has another scheme'],
    [
      'a participant without a URL',
      { participants: { audit: {} } },
      'option participants.audit.url: undefined is not a string',
    ],
    [
      'a participant’s concurrency',
      { participants: { audit: { concurrencyMax: -1 } } },
      'option participants.audit.concurrencyMax: -1 is not a whole number, 0-1000000',
    ],
    [
      'a participant’s rate',
      { participants: { audit: { ratePerSecond: 0.5 } } },
      'option participants.audit.ratePerSecond: 0.5 is not a whole number, 0-1000000',
    ],
    [
      'steps of a participant that connects by itself',
      { participants: { audit: { concurrencyMax: 1, steps: ['log'] } } },
      'option participants.audit.steps: log is not known without a url: it registers by itself',
    ],
    [
      'a participant’s namespace',
      { participants: { audit: { url: 'http://a', namespace: 'eu' } } },
      'option participants.audit.namespace: "eu" is not one of namespaces: default',
    ],
    [
      'a participant that is no object',
      { participants: { audit: 'http://a' } },
      'option participants.audit: "http://a" is not an object',
    ],
    [
      'a store without a folder',
      { store: 'embedded:' },
      'option store: "embedded:…" is not "embedded:FOLDER"',
    ],
    ['options that are no object', null, 'option options: null is not an object'],
  ])('%s', (_, options, message) => {
    let thrown: unknown
    try {
      parseConfig(options as EscrowOptions)
    } catch (error) {
      thrown = error
    }
    expect(thrown).toBeInstanceOf(EscrowError)
    expect(thrown).toMatchObject({ code: 'invalidArgument', message: expect.stringContaining(message) })
  })

  test('a PostgreSQL is a store, and its password is not shown', () => {
    const { store } = parseConfig({ store: 'postgres://me:secret@host:5433/db?sslmode=require' })
    expect(store).toMatchObject({
      kind: 'postgres',
      schema: 'escrow',
      logs: 16,
      migrate: true,
    })
    expect(`${JSON.stringify(store)} ${inspect(store, { depth: 9, showHidden: true })}`).not.toContain(
      'secret',
    )
    expect(store.kind === 'postgres' && store.url.reveal()).toContain('secret')
    expect(store.kind === 'postgres' && String(store.url)).toBe('postgres://host:5433/db')
    for (const bad of [
      'mysql://me:secret@host/db',
      'postgres://me:secret@one,two/db',
      'postgres:secret',
      { url: 'postgres://me:secret@host/db', schema: 'No' },
      { url: 'postgres://me:secret@host/db', logs: 0 },
      { url: 'postgres://me:secret@host/db', shards: 2 },
    ]) {
      const parse = (): unknown => parseConfig({ store: bad as EscrowOptions['store'] })
      expect(parse, JSON.stringify(bad)).toThrow(/^option store/)
      expect(parse).not.toThrow('secret')
    }
  })

  test('a node says where it is reached, and how long it may be silent', () => {
    expect(parseConfig().cluster).toEqual({ advertise: '', leaseMs: 5_000 })
    expect(
      parseConfig({ cluster: { leaseMs: 1_000 } }, { cluster: { advertise: 'a.b:7411' } }).cluster,
    ).toEqual({
      advertise: 'a.b:7411',
      leaseMs: 1_000,
    })
    for (const advertise of ['a', 'http://a:1', 'a:b', '::1:7411', ':7411'])
      expect(() => parseConfig({ cluster: { advertise } })).toThrow(
        /^option cluster.advertise: .* is not HOST:PORT/,
      )
    expect(() => parseConfig({ cluster: { leaseMs: 10 } })).toThrow('option cluster.leaseMs')
    expect(() => parseConfig({ store: 'postgres://h/d', listen: false })).toThrow(
      'option listen: false is not true',
    )
  })

  test.each(['0x1', '-1', '65536', '1e3', ' 1'])('the port %j of the environment', (text) => {
    expect(() => optionsOfEnvironment({ ESCROW_HTTP_PORT: text })).toThrow(
      `option ESCROW_HTTP_PORT: ${JSON.stringify(text)} is not a port`,
    )
  })
})
