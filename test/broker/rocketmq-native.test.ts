/** RocketMQ's own half messages with Escrow's checker: a real broker, which asks back every two seconds. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { PoolClient } from 'pg'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { Broker, BrokerMessage } from '../../src/broker/broker.ts'
import { rocketmq } from '../../src/broker/rocketmq.ts'
import {
  type NativeTransaction,
  type RocketmqNative,
  rocketmqNative,
} from '../../src/broker/rocketmq-native.ts'
import type { CheckBackRequest } from '../../src/core/api.ts'
import { postgresBarrier } from '../../src/participant/barrier/postgres-barrier.ts'
import type { CheckerInput } from '../../src/participant/checker.ts'
import { until } from '../harness/until.ts'
import { BarrierWorld } from '../participant/barrier-world.ts'
import { service } from '../services/require.ts'
import { rejected } from './contract-world.ts'

const server = await service('rocketmq')
const TOPIC = 'orders'
const WAIT_MS = 40_000
/** In which the broker would have asked several times. */
const QUIET_MS = 8_000
const opened: (RocketmqNative | Broker)[] = []
const children: ChildProcess[] = []
let endpoints = ''
let folder = ''
let got: readonly BrokerMessage[] = []

beforeAll(async () => {
  endpoints = `${server.host}:${server.port}`
  folder = mkdtempSync(join(tmpdir(), 'escrow-native-'))
  await server.createTopic(TOPIC, 'TRANSACTION')
  await server.createTopic('plain', 'NORMAL')
  const broker = rocketmq({ endpoints, credentials: server.credentials, nameServers: server.nameServers })
  const all: BrokerMessage[] = []
  got = all
  await broker.subscribe({ topic: TOPIC, group: 'readers' }, async (message) => {
    all.push(message)
  })
  return async () => {
    await broker.close()
    rmSync(folder, { recursive: true, force: true })
  }
}, 120_000)

afterEach(async () => {
  server.proxy.heal()
  for (const child of children.splice(0)) child.kill('SIGKILL')
  await Promise.all(opened.splice(0).map((each) => each.close()))
})

async function open(checker: CheckerInput, requestTimeoutMs?: number): Promise<RocketmqNative> {
  const native = await rocketmqNative({
    endpoints,
    credentials: server.credentials,
    topics: [TOPIC],
    checker,
    requestTimeoutMs,
  })
  opened.push(native)
  return native
}

const arrived = (executionId: string) => got.find(({ id }) => id === `${executionId}.0`)
const arrives = (executionId: string) => until(`${executionId} arrives`, () => arrived(executionId), WAIT_MS)

describe('sending', () => {
  test('what commits is delivered, with its id, key, headers and content type', async () => {
    const native = await open(() => 'unknown')
    const headers = {
      traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
      'x-shop': 'größe',
    }
    const message = { topic: TOPIC, body: { order: 7 }, key: 'customer 7', headers }
    const { executionId, ...result } = await native.sendInTransaction(message, () => 'done')
    expect(result).toEqual({ acknowledged: true, value: 'done', error: undefined })
    const { body, ...received } = await arrives(executionId)
    expect(received).toEqual({
      topic: TOPIC,
      id: `${executionId}.0`,
      key: 'customer 7',
      headers,
      contentType: 'application/json',
    })
    expect(JSON.parse(Buffer.from(body).toString())).toEqual({ order: 7 })
  })

  test('what throws comes through; the checker decides: rolled back, it is never delivered', async () => {
    const asked: CheckBackRequest[] = []
    const native = await open((question) => {
      asked.push(question)
      return 'rollback'
    })
    const before = Date.now()
    let executionId = ''
    const error = await rejected(
      native.sendInTransaction({ topic: TOPIC, body: 'x' }, (tx) => {
        executionId = tx.executionId
        throw new Error('no stock')
      }),
    )
    expect(error.message).toBe('no stock')
    await until('the checker is asked', () => asked.length > 0 || undefined, WAIT_MS)
    expect(asked[0]).toMatchObject({ executionId, attempt: 1, checker: TOPIC, namespace: 'rocketmq' })
    expect(asked[0]?.preparedAtMs).toBeGreaterThanOrEqual(before)
    await sleep(QUIET_MS)
    expect(arrived(executionId)).toBeUndefined()
    expect(asked.length).toBe(1)
  })

  test('a throw in COMMIT is unknown and no rollback: where it had committed, the message is delivered', async () => {
    const committed = new Set<string>()
    const native = await open(({ executionId }) => (committed.has(executionId) ? 'commit' : 'rollback'))
    let executionId = ''
    await rejected(
      native.sendInTransaction({ topic: TOPIC, body: 'x' }, (tx) => {
        executionId = tx.executionId
        committed.add(executionId)
        throw new Error('the connection broke in COMMIT')
      }),
    )
    await arrives(executionId)
  })

  test('a commit that does not get there is not acknowledged, and settled by a check-back', async () => {
    const committed = new Set<string>()
    const native = await open(({ executionId }) => (committed.has(executionId) ? 'commit' : 'unknown'), 1_000)
    const result = await native.sendInTransaction({ topic: TOPIC, body: 'x' }, (tx) => {
      committed.add(tx.executionId)
      server.proxy.blackhole()
    })
    expect(result).toMatchObject({ acknowledged: false, error: { code: 'brokerUnavailable' } })
    server.proxy.reset()
    server.proxy.heal()
    await arrives(result.executionId)
  })
})

test('the barrier of a service serves it as it serves Escrow: work and message, or neither', async (context) => {
  const postgres = await service('postgres', {}, context)
  const world = new BarrierWorld(await postgres.database('native'), 4)
  await world.prepare()
  const barrier = await postgresBarrier(world.pool)
  const native = await open(barrier.checker)
  const send = (work: (client: PoolClient, id: string) => Promise<unknown>) => {
    const ran = Promise.withResolvers<NativeTransaction>()
    const sent = native.sendInTransaction({ topic: TOPIC, body: 'x' }, (tx) => {
      ran.resolve(tx)
      return barrier.run(tx, world.pool, (client) => work(client, tx.executionId))
    })
    return { sent, ran: ran.promise }
  }
  const insert = (client: PoolClient, id: string) => client.query('insert into work values ($1)', [id])
  const { executionId } = await send(insert).sent
  await arrives(executionId)
  expect(await world.done(executionId)).toBe(1)
  const failing = send(async (client, id) => {
    await insert(client, id)
    throw new Error('no stock')
  })
  expect((await rejected(failing.sent)).message).toBe('no stock')
  const tx = await failing.ran
  await until(
    'the checker has settled it',
    async () => (await world.row(tx))?.outcome === 'rolledBack' || undefined,
    WAIT_MS,
  )
  await sleep(QUIET_MS)
  expect(arrived(tx.executionId)).toBeUndefined()
  expect(await world.done(tx.executionId)).toBe(0)
  await world.pool.end()
})

describe('check-backs', () => {
  test('a checker that throws, answers nonsense or does not know is asked again', async () => {
    const attempts: number[] = []
    const answers = [
      () => {
        throw new Error('the database is away')
      },
      () => 'Commit' as 'commit',
      () => 'unknown' as const,
      () => 'commit' as const,
    ]
    const native = await open(({ attempt }) => {
      attempts.push(attempt)
      return (answers[attempts.length - 1] ?? (() => 'commit' as const))()
    })
    let executionId = ''
    await rejected(
      native.sendInTransaction({ topic: TOPIC, body: 'x' }, (tx) => {
        executionId = tx.executionId
        throw new Error('no answer to COMMIT')
      }),
    )
    await arrives(executionId)
    expect(attempts.length).toBe(4)
    expect(attempts.slice(1)).toEqual(attempts.slice(1).toSorted((a, b) => a - b))
  })

  test('a checker of another database is not asked', async () => {
    const asked: string[] = []
    const checker = (databaseId: string, answer: 'rollback' | 'commit') => ({
      databaseId,
      check: () => {
        asked.push(databaseId)
        return answer
      },
    })
    const first = await open({ databaseId: 'one', check: () => 'unknown' as const })
    const sending = first.sendInTransaction({ topic: TOPIC, body: 'x' }, async (tx) => {
      expect(tx.databaseId).toBe('one')
      throw Object.assign(new Error('no answer to COMMIT'), { executionId: tx.executionId })
    })
    const { executionId } = (await rejected(sending)) as unknown as { executionId: string }
    await first.close()
    await open(checker('two', 'rollback'))
    await sleep(QUIET_MS)
    expect(asked).toEqual([])
    await open(checker('one', 'commit'))
    await arrives(executionId)
    expect(new Set(asked)).toEqual(new Set(['one']))
  })

  test('killed between the local commit and the commit of the message: another process has it delivered', async () => {
    const file = join(folder, 'committed')
    const died = await producer('afterCommit', file)
    expect(died.signal).toBe('SIGKILL')
    const rolledBack = await producer('beforeCommit', file)
    expect(rolledBack.signal).toBe('SIGKILL')
    expect(arrived(died.executionId)).toBeUndefined()
    const serving = start('serve', file)
    const message = await arrives(died.executionId)
    expect(message.key).toBe('afterCommit')
    await until(
      'the other one is asked for',
      () => serving.said().includes(`rollback ${rolledBack.executionId}`) || undefined,
      WAIT_MS,
    )
    await sleep(QUIET_MS)
    expect(arrived(rolledBack.executionId)).toBeUndefined()
    expect(got.filter(({ id }) => id === `${died.executionId}.0`).length).toBe(1)
  })

  test('they come again after the broker has been killed', async () => {
    let isKnown = false
    const native = await open(() => (isKnown ? 'commit' : 'unknown'))
    let executionId = ''
    await rejected(
      native.sendInTransaction({ topic: TOPIC, body: 'x' }, (tx) => {
        executionId = tx.executionId
        throw new Error('no answer to COMMIT')
      }),
    )
    await server.kill()
    await server.start()
    isKnown = true
    await arrives(executionId)
  })
})

describe('refusing', () => {
  const checker = () => 'unknown' as const

  test.each([
    [{ topics: [] }, 'topics'],
    [{ topics: 'orders' }, 'topics'],
    [{ checker: {} }, 'checker'],
    [{ checkTimeoutMs: 26_000 }, 'checkTimeoutMs'],
    [{ endpoints: 'user:secret@host:1' }, 'endpoints'],
    [{ retries: 3 }, 'retries'],
  ])('the options %o', async (wrong, option) => {
    const options = { endpoints: '127.0.0.1:1', topics: [TOPIC], checker, ...wrong }
    const error = await rejected(rocketmqNative(options as never))
    expect(error).toMatchObject({ code: 'invalidArgument', details: { option } })
    expect(error.message).not.toContain('secret')
  })

  test('a topic that is not there, or takes no transactional messages', async () => {
    const missing = await rejected(
      rocketmqNative({ endpoints, credentials: server.credentials, topics: ['nowhere'], checker }),
    )
    expect(missing).toMatchObject({ code: 'unknownDestination' })
    const plain = await rejected(
      rocketmqNative({ endpoints, credentials: server.credentials, topics: ['plain'], checker }),
    )
    expect(plain).toMatchObject({ code: 'unsupported' })
    expect(plain.message).toContain('message.type=TRANSACTION')
  })

  test('a broker that is not there, in time', async () => {
    const from = performance.now()
    const error = await rejected(
      rocketmqNative({ endpoints: '127.0.0.1:1', topics: [TOPIC], checker, requestTimeoutMs: 1_000 }),
    )
    expect(error).toMatchObject({ code: 'brokerUnavailable', retryable: true })
    expect(performance.now() - from).toBeLessThan(4_000)
  })

  test('a message that RocketMQ does not take, before anything is done', async () => {
    const native = await open(checker)
    const work = () => expect.unreachable()
    const send = (message: object) =>
      rejected(native.sendInTransaction({ topic: TOPIC, body: 'x', ...message }, work))
    expect(await send({ topic: 'elsewhere' })).toMatchObject({ code: 'unknownDestination' })
    expect(await send({ body: new Uint8Array((4 << 20) + 1) })).toMatchObject({ code: 'tooLarge' })
    expect(await send({ headers: { KEYS: 'x' } })).toMatchObject({ code: 'invalidArgument' })
    expect(await send({ headers: { note: '' } })).toMatchObject({
      code: 'invalidArgument',
      message: 'rocketmq: header "note" is empty',
    })
  })
})

function start(mode: string, file: string) {
  const program = join(import.meta.dirname, 'programs/rocketmq-producer.ts')
  const child = spawn(
    process.execPath,
    [program, endpoints, JSON.stringify(server.credentials), TOPIC, file, mode],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  )
  children.push(child)
  let said = ''
  child.stdout.setEncoding('utf8').on('data', (text) => {
    said += text
  })
  return { child, said: () => said }
}

async function producer(mode: string, file: string) {
  const { child, said } = start(mode, file)
  const [, signal] = await once(child, 'close')
  return { signal, executionId: /sent (\S+)/.exec(said())?.[1] ?? '' }
}
