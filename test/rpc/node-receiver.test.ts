import { beforeEach, describe, expect, test } from 'vitest'
import type { Destination, Namespace } from '../../src/core/ids.ts'
import { type NodeParticipation, Participants } from '../../src/rpc/participants.ts'
import type { Offer } from '../../src/rpc/roster.ts'
import type { CallItem, CoordinatorItem } from '../../src/wire/items.ts'
import { FakeRuntime } from './fake-time.ts'
import { checkBack, deliver } from './session-fixture.ts'

const namespace = 'default' as Namespace
const reserve = 'inventory/reserve' as Destination
const serving = (databaseId = '', handlers = ['reserve'], checkers: string[] = []) => ({
  handlers,
  checkers,
  steps: [],
  databaseId,
})

let runtime: FakeRuntime
let participants: Participants
let rooms: number
beforeEach(() => {
  runtime = new FakeRuntime()
  participants = new Participants(runtime)
  rooms = 0
  participants.onRoom(() => {
    rooms++
  })
})

/** Another node, of which the test decides what room it has. */
class Elsewhere {
  readonly sent: CallItem[] = []
  readonly participation: NodeParticipation
  constructor(callsMax = 1000) {
    this.participation = participants.joinNode({
      deliveriesMax: callsMax,
      checkBacksMax: callsMax,
      stepsMax: callsMax,
      send: (item: CoordinatorItem) => void this.sent.push(item as CallItem),
    })
  }
  serve(databaseId = ''): this {
    this.participation.serve(namespace, 'inventory', serving(databaseId))
    runtime.turn()
    return this
  }
  answer(count = 1): void {
    for (const { callId } of this.sent.splice(0, count))
      this.participation.calls.deliveryAnswered(callId, { outcome: 'delivered', error: '' })
    runtime.turn()
  }
  turnAway(count = 1): void {
    for (const { callId } of this.sent.splice(this.sent.length - count))
      this.participation.calls.noSession(callId, 'full')
    runtime.turn()
  }
}

const hasRoom = () => participants.route(namespace, reserve, undefined) !== undefined
/** Sends what a crowd that waits would send now. */
function sendAll(max = 2000): number {
  let count = 0
  for (; count < max && hasRoom(); count++) deliver(participants)
  return count
}

describe('another node', () => {
  test('is sent what its window has room for, and then as much as it has taken', () => {
    const node = new Elsewhere(100).serve()
    expect(sendAll()).toBe(100)
    node.turnAway(90)
    expect(hasRoom()).toBe(false)
    node.answer()
    expect(sendAll()).toBe(1)
    expect(node.sent.length).toBe(10)
  })

  test('is probed for more room as it answers, seldom: a crowd is not sent again and again', () => {
    const node = new Elsewhere().serve()
    sendAll(20)
    node.turnAway(16)
    let turnedAway = 0
    for (let i = 0; i < 800; i++) {
      node.answer()
      sendAll()
      const over = node.sent.length - 4
      turnedAway += over
      if (over > 0) node.turnAway(over)
    }
    expect(turnedAway).toBe(100)
    // Now it has room for all.
    for (let i = 0; i < 2000; i++) {
      node.answer()
      sendAll()
    }
    expect(node.sent.length).toBeGreaterThan(100)
  })

  test('that has room for nobody is left alone for pauses that double up to a second, and whoever waits is told of their end', () => {
    const node = new Elsewhere().serve()
    for (const pauseMs of [50, 100, 200, 400, 800, 1000, 1000]) {
      expect(sendAll(1)).toBe(1)
      rooms = 0
      node.turnAway()
      runtime.pass(pauseMs - 1)
      expect([hasRoom(), rooms]).toEqual([false, 0])
      runtime.pass(1)
      expect([hasRoom(), rooms]).toEqual([true, 1])
    }
    // One at a time, until one is taken.
    expect(sendAll()).toBe(1)
    node.answer()
    expect(sendAll(1)).toBe(1)
    node.turnAway()
    runtime.pass(50)
    expect(hasRoom()).toBe(true)
  })

  test('that lets calls run out of time has room again for others', () => {
    const node = new Elsewhere().serve()
    deliver(participants, { timeoutMs: 1000 })
    deliver(participants)
    node.turnAway()
    expect(hasRoom()).toBe(false)
    rooms = 0
    runtime.pass(1200)
    expect([hasRoom(), rooms]).toEqual([true, 1])
  })

  test('is called with the database that it told, and keeps what it knows of its room when it tells more names', () => {
    const node = new Elsewhere().serve('d1')
    deliver(participants, { databaseId: 'd1' })
    expect(node.sent[0]).toMatchObject({ type: 'delivery', databaseId: 'd1' })
    node.turnAway()
    node.participation.serve(namespace, 'inventory', serving('d1', ['reserve', 'release']))
    expect(hasRoom()).toBe(false)
    expect(participants.route(namespace, 'inventory/release' as Destination, 'd1')).toBeDefined()
    node.participation.serve(namespace, 'inventory', serving('d1', ['release']))
    runtime.pass(1000)
    expect(hasRoom()).toBe(false)
  })

  test('without a database is preferred to somebody here with one, by who asks for none', () => {
    const here = new Elsewhere()
    const calls: CoordinatorItem[] = []
    const window = {
      deliveriesMax: 9,
      checkBacksMax: 9,
      stepsMax: 9,
      send: (item: CoordinatorItem) => void calls.push(item),
    }
    participants.join(namespace, 'inventory', window).register(serving('d1', ['reserve'], ['orders']))
    here.participation.serve(namespace, 'inventory', serving('', ['reserve'], ['orders']))
    deliver(participants)
    checkBack(participants)
    deliver(participants, { databaseId: 'd1' })
    expect(here.sent.map(({ type }) => type)).toEqual(['delivery', 'checkBack'])
    expect(calls.length).toBe(1)
  })

  test('that leaves leaves nothing behind: no timer, and no name though it was told twice', () => {
    const node = new Elsewhere()
    node.participation.serve(namespace, 'inventory', serving('', ['reserve', 'reserve']))
    runtime.turn()
    deliver(participants)
    node.turnAway()
    // That of the pause, and the one that looks after all calls.
    expect(runtime.timers).toBe(2)
    node.participation.leave()
    expect([runtime.timers, hasRoom()]).toEqual([1, false])
    runtime.pass(1000)
    expect(runtime.timers).toBe(0)
  })
})

describe('what other nodes are told', () => {
  let offers: Offer[]
  beforeEach(() => {
    offers = []
    participants.roster.onOffer((offer) => offers.push(offer))
  })
  const join = (service = 'inventory') =>
    participants.join(namespace, service, { deliveriesMax: 1, checkBacksMax: 1, stepsMax: 1, send: () => {} })

  test('is each service and database once, when its names change and not when its sessions do', () => {
    const one = join()
    one.register(serving('d1', ['reserve'], ['orders']))
    one.register(serving('d2', ['release']))
    runtime.turn()
    expect(offers).toEqual([
      { namespace, service: 'inventory', registration: serving('d1', ['reserve'], ['orders']) },
      { namespace, service: 'inventory', registration: serving('d2', ['release']) },
    ])
    offers.length = 0
    const two = join()
    two.register(serving('d1'))
    one.leave()
    runtime.turn()
    expect(offers).toEqual([
      { namespace, service: 'inventory', registration: serving('d1', ['reserve']) },
      { namespace, service: 'inventory', registration: serving('d2', []) },
    ])
    expect(participants.roster.offers).toEqual([
      { namespace, service: 'inventory', registration: serving('d1', ['reserve']) },
    ])
    two.pause()
    runtime.turn()
    expect(offers.length).toBe(3)
    two.leave()
    runtime.turn()
    expect(offers.length).toBe(3)
    expect(offers[2]?.registration).toEqual(serving('d1', []))
    expect(participants.roster.offers).toEqual([])
  })

  test('is neither what other nodes serve nor what listens', () => {
    new Elsewhere().serve()
    const caller = { room: 1, deliver() {}, checkBack() {}, step() {}, close() {} }
    participants.addListener(namespace, 'inventory', serving('d1'), caller)
    runtime.turn()
    expect([offers, participants.roster.offers]).toEqual([[], []])
  })
})
