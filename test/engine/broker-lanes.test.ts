import { beforeEach, describe, expect, test } from 'vitest'
import type { BrokerMessage, PublishOutcome } from '../../src/broker/broker.ts'
import type { Destination, Namespace } from '../../src/core/ids.ts'
import { BrokerLanes } from '../../src/engine/broker-lanes.ts'
import type { DeliveryOutcome } from '../../src/engine/outlet.ts'
import { FakeRuntime } from './fake-runtime.ts'

const namespace = 'default' as Namespace
const orders = 'bus:orders' as Destination
const audit = 'bus:audit' as Destination

interface Batch {
  readonly ids: readonly string[]
  readonly signal: AbortSignal
  /** Ends it: every message so, or each as told. */
  end(outcome: PublishOutcome | readonly PublishOutcome[]): Promise<void>
}

const published: PublishOutcome = { outcome: 'published' }
const failed: PublishOutcome = { outcome: 'failed', error: 'no leader' }
const unreachable: PublishOutcome = { outcome: 'unreachable', error: 'connection refused' }

let clock: FakeRuntime
let batches: Batch[]
let rooms: string[]
let logged: string[]
let outcomes: Record<string, DeliveryOutcome>
let lanes: BrokerLanes

beforeEach(() => {
  clock = new FakeRuntime()
  batches = []
  rooms = []
  logged = []
  outcomes = {}
  lanes = new BrokerLanes({
    name: 'bus',
    broker: { publish },
    runtime: clock,
    log: (level, text) => logged.push(`${level}: ${text}`),
    room: (_, destination) => rooms.push(destination),
  })
})

function publish(batch: readonly BrokerMessage[], signal: AbortSignal): Promise<readonly PublishOutcome[]> {
  return new Promise((resolve) => {
    batches.push({
      ids: batch.map(({ id }) => id),
      signal,
      async end(outcome) {
        resolve(Array.isArray(outcome) ? outcome : batch.map(() => outcome as PublishOutcome))
        await clock.settle()
      },
    })
  })
}

async function send(destination: Destination, ...ids: string[]): Promise<void> {
  for (const id of ids) {
    lanes.add(destination, {
      message: {
        topic: destination.slice(4),
        id,
        key: '',
        body: new Uint8Array(0),
        headers: {},
        contentType: '',
      },
      timeoutMs: 1_000,
      done: (outcome) => {
        outcomes[id] = outcome
      },
    })
  }
  await clock.settle()
}

const last = (): Batch => batches.at(-1) as Batch
const hasRoom = (destination = orders): boolean => lanes.hasRoom(namespace, destination)

describe('lanes', () => {
  test('one batch a destination is unconfirmed; what comes meanwhile is the next one', async () => {
    await send(orders, 'a', 'b')
    await send(orders, 'c')
    await send(orders, 'd')
    expect(batches.map(({ ids }) => ids)).toEqual([['a', 'b']])
    await last().end(published)
    expect(batches.map(({ ids }) => ids)).toEqual([
      ['a', 'b'],
      ['c', 'd'],
    ])
    expect(outcomes).toMatchObject({ a: { outcome: 'delivered' }, b: { outcome: 'delivered' } })
    expect(outcomes.c).toBeUndefined()
  })

  test('a destination that is slow keeps no other one waiting', async () => {
    await send(orders, 'slow')
    await send(audit, 'quick')
    await last().end(published)
    expect(outcomes).toEqual({ quick: { outcome: 'delivered', error: '' } })
  })

  test('each message of a batch has the outcome that the broker tells of it', async () => {
    await send(orders, 'a', 'b', 'c')
    await last().end([published, { outcome: 'refused', error: 'too large' }, failed])
    expect(outcomes).toMatchObject({
      a: { outcome: 'delivered' },
      b: { outcome: 'refused', error: 'too large' },
      c: { outcome: 'failed', error: 'no leader' },
    })
  })

  test('a batch is bounded in bytes, and a message that is larger goes alone', async () => {
    const large = new Uint8Array(3 << 20)
    for (const id of ['a', 'b', 'c']) {
      const message = { topic: 'orders', id, key: '', body: large, headers: {}, contentType: '' }
      lanes.add(orders, { message, timeoutMs: 1_000, done: () => {} })
    }
    await clock.settle()
    expect(last().ids).toEqual(['a'])
  })

  test('a broker that is silent is told to stop, and what it then knows counts', async () => {
    await send(orders, 'a', 'b')
    await clock.advance(999)
    expect(last().signal.aborted).toBe(false)
    await clock.advance(1)
    expect(last().signal.aborted).toBe(true)
    expect(outcomes).toEqual({})
    await last().end([published, failed])
    expect(outcomes).toMatchObject({ a: { outcome: 'delivered' }, b: { outcome: 'failed' } })
  })

  test('a broker that never returns, rejects or throws stops no lane', async () => {
    await send(orders, 'a')
    await send(orders, 'b')
    await clock.advance(3_000)
    expect(outcomes.a).toMatchObject({ outcome: 'failed', error: 'no confirmation within 1000 ms' })
    expect(last().ids).toEqual(['b'])
    lanes = new BrokerLanes({
      name: 'bus',
      broker: { publish: () => Promise.reject(new Error('broken')) },
      runtime: clock,
      log: () => {},
      room: () => {},
    })
    await send(orders, 'c')
    expect(outcomes.c).toMatchObject({ outcome: 'failed', error: 'broken' })
  })

  test('so many are unconfirmed at the most, and whoever was turned away is told of room', async () => {
    await send(orders, ...Array.from({ length: 4_095 }, (_, at) => `m${at}`))
    expect(hasRoom(audit)).toBe(true)
    await send(orders, 'last')
    expect(hasRoom(audit)).toBe(false)
    expect(rooms).toEqual([])
    await last().end(published)
    expect(rooms).toEqual([audit])
    expect(hasRoom(audit)).toBe(true)
  })
})

describe("the broker's breaker", () => {
  test('opens at once when it is unreachable: that was no attempt, and nothing more is sent', async () => {
    await send(orders, 'a')
    await send(orders, 'queued')
    await last().end(unreachable)
    expect(outcomes).toMatchObject({ a: { outcome: 'noSession' }, queued: { outcome: 'noSession' } })
    expect([hasRoom(orders), hasRoom(audit)]).toEqual([false, false])
    expect(batches.length).toBe(1)
    expect(logged).toEqual([expect.stringMatching(/^warn: broker bus takes nothing \(connection refused\)/)])
  })

  test('lets one pass after its pause, and all after that one has arrived', async () => {
    await send(orders, 'a')
    await last().end(unreachable)
    hasRoom(orders)
    hasRoom(audit)
    await clock.advance(500)
    expect(rooms).toEqual([orders, audit])
    expect(hasRoom(orders)).toBe(true)
    // Sent at once, as the crowd behind a door is: only one goes on trial.
    await send(orders, 'b', 'c', 'd')
    expect(last().ids).toEqual(['b'])
    expect(hasRoom(audit)).toBe(false)
    await last().end(published)
    expect(last().ids).toEqual(['c', 'd'])
    expect(hasRoom(audit)).toBe(true)
    expect(logged.at(-1)).toBe('info: broker bus takes messages again')
  })

  test('a trial that fails costs one attempt, and the pause grows up to its bound', async () => {
    await send(orders, 'first')
    await last().end(unreachable)
    const pauses: number[] = []
    for (let trial = 0; trial < 10; trial++) {
      const from = clock.monotonic()
      hasRoom()
      rooms = []
      while (rooms.length === 0) await clock.advance(50)
      pauses.push(clock.monotonic() - from)
      await send(orders, `trial ${trial}`, `behind ${trial}`)
      expect(last().ids).toEqual([`trial ${trial}`])
      await last().end(unreachable)
      expect(outcomes[`behind ${trial}`]).toMatchObject({ outcome: 'noSession' })
    }
    expect(pauses[0]).toBeLessThanOrEqual(550)
    expect(pauses.at(-1)).toBeGreaterThanOrEqual(15_000)
    expect(Math.max(...pauses)).toBeLessThanOrEqual(30_050)
    // It was told once.
    expect(logged.length).toBe(1)
  })
})

describe("a destination's breaker", () => {
  test('opens after five batches in a row that failed, and no other destination suffers', async () => {
    for (let batch = 1; batch <= 5; batch++) {
      expect(hasRoom(orders)).toBe(true)
      await send(orders, `f${batch}`)
      await last().end(failed)
    }
    expect([hasRoom(orders), hasRoom(audit)]).toEqual([false, true])
    expect(logged).toEqual([expect.stringMatching(/^warn: bus:orders takes nothing \(no leader\)/)])
    await clock.advance(500)
    expect(rooms).toEqual([orders])
    await send(orders, 'trial')
    await last().end(published)
    expect(hasRoom(orders)).toBe(true)
  })

  test('counts anew after a success, and a refusal is one: the broker has answered', async () => {
    for (let batch = 1; batch <= 12; batch++) {
      await send(orders, `m${batch}`)
      await last().end(batch % 4 === 0 ? { outcome: 'refused', error: 'too large' } : failed)
    }
    expect(hasRoom(orders)).toBe(true)
  })
})
