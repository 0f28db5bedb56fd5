import { beforeEach, describe, expect, test } from 'vitest'
import type { CheckBackRequest, DeliverRequest } from '../../src/core/api.ts'
import type { Destination, Namespace } from '../../src/core/ids.ts'
import type { CheckBackOutcome, DeliveryOutcome } from '../../src/engine/outlet.ts'
import { type Caller, Participants } from '../../src/rpc/participants.ts'
import { ABANDONED_MS_MAX, DELIVERY_BYTES_MAX } from '../../src/rpc/session-calls.ts'
import type { CoordinatorItem } from '../../src/wire/items.ts'
import { FakeRuntime } from './fake-time.ts'
import { checkBack, deliver } from './session-fixture.ts'

let runtime: FakeRuntime
let participants: Participants
let room: string[]
beforeEach(() => {
  runtime = new FakeRuntime()
  participants = new Participants(runtime)
  room = []
  participants.onRoom((namespace, what) =>
    room.push(`${namespace} ${'destination' in what ? what.destination : what.checker}`),
  )
})

const namespace = 'default' as Namespace
const destination = 'inventory/reserve' as Destination
const names = (databaseId = '', handlers = ['reserve'], checkers = ['orders']) => ({
  handlers,
  checkers,
  databaseId,
})

function join(databaseId = '', { deliveriesMax = 2, checkBacksMax = 2, register = true } = {}) {
  const sent: CoordinatorItem[] = []
  const participation = participants.join(namespace, 'inventory', {
    deliveriesMax,
    checkBacksMax,
    stepsMax: 1,
    send: (item) => void sent.push(item),
  })
  if (register) participation.register(names(databaseId))
  const answer = (outcome: 'delivered' | 'failed' = 'delivered') => {
    const item = sent.shift()
    if (item?.type === 'delivery') participation.calls.deliveryAnswered(item.callId, { outcome, error: '' })
    else if (item?.type === 'checkBack') {
      participation.calls.checkBackAnswered(item.callId, { resolution: 'commit', bodies: [], error: '' })
    } else throw new Error('nothing was sent')
  }
  return { sent, participation, answer }
}

const route = (databaseId?: string) => participants.route(namespace, destination, databaseId)
const outcomeOf = (outcomes: DeliveryOutcome[]) => {
  runtime.turn()
  return outcomes[0]?.outcome
}

describe('sessions that serve the same name', () => {
  test('are called in turns', () => {
    const [one, two] = [join(), join()]
    for (let i = 0; i < 4; i++) deliver(participants)
    expect([one.sent.length, two.sent.length]).toEqual([2, 2])
  })

  test('are passed over while their window is full', () => {
    const [one, two] = [join('', { deliveriesMax: 1 }), join('', { deliveriesMax: 5 })]
    for (let i = 0; i < 6; i++) deliver(participants)
    expect([one.sent.length, two.sent.length]).toEqual([1, 5])
    expect(route()).toBe(undefined)
    expect(outcomeOf(deliver(participants))).toBe('noSession')
  })

  test('are no route for another namespace, another destination, or after they have left', () => {
    const one = join()
    expect(route()).toEqual(expect.objectContaining({ databaseId: '' }))
    expect(participants.route('shop' as Namespace, destination, undefined)).toBe(undefined)
    expect(participants.route(namespace, 'inventory/other' as Destination, undefined)).toBe(undefined)
    expect(outcomeOf(deliver(participants, { namespace: 'shop' }))).toBe('noSession')
    one.participation.leave()
    expect(route()).toBe(undefined)
  })

  test('are no route while they are paused, and their answers still count', () => {
    const one = join()
    const outcomes = deliver(participants)
    one.participation.pause()
    expect(route()).toBe(undefined)
    one.answer()
    expect(outcomes).toMatchObject([{ outcome: 'delivered' }])
  })
})

describe('a database', () => {
  test('that is asked for is the only one that counts, for deliveries and for check-backs', () => {
    const [one, two] = [join('d1'), join('d2')]
    expect(route('d2')?.databaseId).toBe('d2')
    expect(route('d3')).toBe(undefined)
    for (let i = 0; i < 2; i++) checkBack(participants, { databaseId: 'd2' })
    expect([one.sent.length, two.sent.length]).toEqual([0, 2])
    const outcomes = checkBack(participants, { databaseId: 'd3' })
    runtime.turn()
    expect(outcomes).toEqual([
      { outcome: 'noSession', error: 'nobody who serves checker orders is connected with database d3' },
    ])
  })

  test('is that of the registration, and changes with it', () => {
    const one = join('d1')
    one.participation.register(names('d2', [], ['audit']))
    expect(route('d1')).toBeDefined()
    one.participation.register(names('d2'))
    expect(route('d1')).toBe(undefined)
    expect(route('d2')).toBeDefined()
  })

  test('that was none is preferred as none, and else any will do', () => {
    const with1 = join('d1', { deliveriesMax: 9 })
    const without = join('', { deliveriesMax: 2 })
    for (let i = 0; i < 3; i++) deliver(participants)
    expect([with1.sent.length, without.sent.length]).toEqual([1, 2])
  })
})

describe('room', () => {
  test('is told once a turn, after a new receiver came', () => {
    join()
    expect(room).toEqual([])
    runtime.turn()
    expect(room).toEqual(['default inventory/reserve', 'default orders'])
  })

  test('is told for every name that had none, whichever call gave its place back', () => {
    const one = join('', { deliveriesMax: 1, register: false })
    one.participation.register(names('', ['reserve', 'release', 'idle'], []))
    deliver(participants)
    runtime.turn()
    room.length = 0
    expect(participants.route(namespace, 'inventory/release' as Destination, undefined)).toBe(undefined)
    one.answer()
    runtime.turn()
    expect(room).toEqual(['default inventory/reserve', 'default inventory/release'])
  })

  test('is told after whoever was turned away has heard so: a wake-up cannot be lost', () => {
    const one = join('', { deliveriesMax: 1 })
    runtime.turn()
    const heard: string[] = []
    participants.onRoom(() => heard.push('room'))
    deliver(participants)
    participants.deliver(destination, { namespace: 'default' } as DeliverRequest, '', ({ outcome }) =>
      heard.push(outcome),
    )
    one.answer()
    runtime.turn()
    expect(heard).toEqual(['noSession', 'room'])
  })

  test('is a matter of bytes, too, and one body always has it', () => {
    const one = join('', { deliveriesMax: 100 })
    const body = new Uint8Array(DELIVERY_BYTES_MAX)
    deliver(participants, { body })
    expect(route()).toBe(undefined)
    one.answer()
    expect(route()).toBeDefined()
    deliver(participants, { body: new Uint8Array(DELIVERY_BYTES_MAX - 1) })
    deliver(participants, { body })
    expect(one.sent).toHaveLength(2)
  })
})

describe('an attempt whose time is over', () => {
  test('is unknown, once, within a tick', () => {
    const one = join()
    const [delivered, checked] = [
      deliver(participants, { timeoutMs: 1000 }),
      checkBack(participants, { timeoutMs: 2000 }),
    ]
    runtime.pass(999)
    expect(delivered).toEqual([])
    runtime.pass(101)
    expect(delivered).toEqual([{ outcome: 'unknown', error: 'no answer within 1000 ms' }])
    runtime.pass(1000)
    expect(checked).toEqual([{ resolution: 'unknown', bodies: [], error: 'no answer within 2000 ms' }])
    one.answer()
    expect([delivered.length, participants.answersDropped]).toEqual([1, 1])
  })

  test('keeps its place until its answer, or for a minute at most', () => {
    const one = join('', { deliveriesMax: 1 })
    deliver(participants, { timeoutMs: 1000 })
    runtime.pass(1100)
    expect(route()).toBe(undefined)
    one.answer()
    expect(route()).toBeDefined()
    deliver(participants, { timeoutMs: 1000 })
    runtime.pass(1100 + ABANDONED_MS_MAX - 200)
    expect(route()).toBe(undefined)
    room.length = 0
    runtime.pass(400)
    expect(route()).toBeDefined()
    expect(room).toContain('default inventory/reserve')
  })

  test('is unknown also when it began while another one was given up', () => {
    // Sessions are looked at in the order in which they came: this one is through when the other's time-out gives it a call.
    const one = join('', { register: false })
    const two = join()
    const begun: DeliveryOutcome[][] = []
    const request = { namespace: 'default', body: new Uint8Array(3), timeoutMs: 1_000 } as DeliverRequest
    participants.deliver(destination, request, '', () => {
      two.participation.pause()
      one.participation.register(names())
      begun.push(deliver(participants, { timeoutMs: 500 }))
    })
    runtime.pass(1_100)
    expect([begun.length, begun[0]?.length, one.sent.length]).toEqual([1, 0, 1])
    runtime.pass(600)
    expect(begun[0]).toMatchObject([{ outcome: 'unknown' }])
  })

  test('costs no timer while nothing is in flight', () => {
    const one = join()
    deliver(participants, { timeoutMs: 1000 })
    deliver(participants, { timeoutMs: 1000 })
    expect(runtime.timers).toBe(1)
    one.answer()
    runtime.pass(200)
    expect(runtime.timers).toBe(1)
    one.answer()
    runtime.pass(100)
    expect(runtime.timers).toBe(0)
    // And it begins again.
    const outcomes = deliver(participants, { timeoutMs: 1000 })
    runtime.pass(1100)
    expect(outcomes).toMatchObject([{ outcome: 'unknown' }])
  })

  test('is not told twice when the session is lost afterwards', () => {
    const one = join()
    const outcomes = deliver(participants, { timeoutMs: 1000 })
    runtime.pass(1100)
    one.participation.leave()
    runtime.turn()
    expect(outcomes).toHaveLength(1)
  })
})

test('a call that cannot be sent has failed, later, and holds no place', () => {
  const participation = participants.join(namespace, 'inventory', {
    deliveriesMax: 1,
    checkBacksMax: 1,
    stepsMax: 1,
    send: () => {
      throw new Error('too large')
    },
  })
  participation.register(names())
  const [delivered, checked] = [deliver(participants), checkBack(participants)]
  expect([delivered, checked]).toEqual([[], []])
  runtime.turn()
  expect(delivered).toMatchObject([{ outcome: 'failed', error: 'too large' }])
  expect(checked).toMatchObject([{ resolution: 'unknown', error: 'too large' }])
  expect(participation.calls.size).toBe(0)
})

describe('a participant that listens', () => {
  class FakeCaller implements Caller {
    room = 2
    isClosed = false
    readonly calls: ((outcome: DeliveryOutcome & CheckBackOutcome) => void)[] = []
    deliver(_: DeliverRequest, done: (outcome: DeliveryOutcome) => void): void {
      this.calls.push(done)
    }
    checkBack(_: CheckBackRequest, done: (outcome: CheckBackOutcome) => void): void {
      this.calls.push(done)
    }
    step(): void {
      throw new Error('no steps here')
    }
    close(): void {
      this.isClosed = true
    }
    end(outcome: DeliveryOutcome): void {
      this.calls.shift()?.(outcome as DeliveryOutcome & CheckBackOutcome)
    }
  }
  const noSession: DeliveryOutcome = { outcome: 'noSession', error: 'refused' }
  const delivered: DeliveryOutcome = { outcome: 'delivered', error: '' }

  test('is called as long as it has room, in turns with sessions', () => {
    const caller = new FakeCaller()
    participants.addListener(namespace, 'inventory', names(), caller)
    const one = join()
    const outcomes = deliver(participants)
    deliver(participants)
    expect([caller.calls.length, one.sent.length]).toEqual([1, 1])
    caller.end(delivered)
    expect(outcomes).toEqual([delivered])
    one.participation.leave()
    caller.room = 0
    expect(route()).toBe(undefined)
  })

  test('that cannot be reached is left alone for a pause that doubles, then tried with one call', () => {
    const caller = new FakeCaller()
    participants.addListener(namespace, 'inventory', names(), caller)
    const outcomes = deliver(participants)
    deliver(participants)
    caller.end(noSession)
    caller.end(noSession)
    expect(outcomes).toEqual([noSession])
    for (const pauseMs of [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]) {
      expect(route()).toBe(undefined)
      runtime.turn()
      room.length = 0
      runtime.pass(pauseMs - 1)
      expect([room, route()]).toEqual([[], undefined])
      runtime.pass(1)
      expect(room).toEqual(['default inventory/reserve', 'default orders'])
      expect(route()).toBeDefined()
      deliver(participants)
      expect(route()).toBe(undefined)
      caller.end(noSession)
    }
    runtime.pass(10_000)
    deliver(participants)
    caller.end({ outcome: 'unknown', error: '' })
    deliver(participants)
    expect(route()).toBeDefined()
  })

  test('is called no more once it is taken back', () => {
    const caller = new FakeCaller()
    const takeBack = participants.addListener(namespace, 'inventory', names(), caller)
    deliver(participants)
    caller.end(noSession)
    takeBack()
    expect([route(), caller.isClosed, runtime.timers]).toEqual([undefined, true, 0])
    runtime.pass(60_000)
    expect(route()).toBe(undefined)
  })
})
