/** Calls of steps: a class of calls of their own, on sessions. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { StepRequest, StepResponse } from '../../src/core/api.ts'
import { NO_TRACE } from '../../src/core/envelope.ts'
import { mintTransactionId, type Namespace } from '../../src/core/ids.ts'
import type { StepOutcome } from '../../src/engine/step-outlet.ts'
import { Participants } from '../../src/rpc/participants.ts'
import { STEP_BYTES_MAX } from '../../src/rpc/session-calls.ts'
import type { CoordinatorItem } from '../../src/wire/items.ts'
import { FakeRuntime } from './fake-time.ts'
import { deliver, hello, Peer, type SessionServer, startSessions } from './session-fixture.ts'

const namespace = 'default' as Namespace
const name = { service: 'inventory', step: 'reserve' }
const CALL: StepRequest = {
  namespace,
  transactionId: 'order-17',
  executionId: 'x.1',
  attempt: 1,
  ...name,
  operation: 'action',
  input: '{"sku":"A-1"}',
  result: '',
  isActionDone: false,
  saga: 'place-order',
  trace: NO_TRACE,
  timeoutMs: 1000,
}
const DONE: StepResponse = { outcome: 'done', result: Buffer.from('7'), code: '', error: '' }

function send(
  participants: Participants,
  { databaseId = '', ...more }: Partial<StepRequest> & { databaseId?: string } = {},
): StepOutcome[] {
  const outcomes: StepOutcome[] = []
  participants.step({ ...CALL, ...more }, databaseId, (outcome) => outcomes.push(outcome))
  return outcomes
}

describe('calls of steps', () => {
  let runtime: FakeRuntime
  let participants: Participants
  let room: string[]
  beforeEach(() => {
    runtime = new FakeRuntime()
    participants = new Participants(runtime)
    room = []
    participants.onStepRoom((where, { service, step }) => room.push(`${where} ${service}/${step}`))
  })

  function join({ databaseId = '', stepsMax = 2, deliveriesMax = 1, service = 'inventory' } = {}) {
    const sent: CoordinatorItem[] = []
    const participation = participants.join(namespace, service, {
      deliveriesMax,
      checkBacksMax: 1,
      stepsMax,
      send: (item) => void sent.push(item),
    })
    participation.register({ handlers: ['reserve'], checkers: [], steps: ['reserve'], databaseId })
    const answer = (response: StepResponse = DONE): void => {
      const item = sent.shift()
      if (item?.type !== 'step') throw new Error('no step was sent')
      participation.calls.stepAnswered(item.callId, response)
    }
    return { sent, participation, answer }
  }

  const route = (databaseId?: string) => participants.routeStep(namespace, name, databaseId)

  test('go to who serves that very step of that service in that namespace, and come back with the answer', () => {
    const one = join()
    const other = join({ service: 'payment' })
    const outcomes = send(participants)
    expect(one.sent).toEqual([{ type: 'step', callId: 1, request: CALL }])
    expect(other.sent).toEqual([])
    one.answer()
    expect(outcomes).toEqual([DONE])
    expect(participants.routeStep('shop' as Namespace, name, undefined)).toBe(undefined)
    expect(participants.routeStep(namespace, { ...name, step: 'release' }, undefined)).toBe(undefined)
    const unknown = send(participants, { step: 'release' })
    expect(unknown).toEqual([])
    runtime.turn()
    expect(unknown).toEqual([
      { outcome: 'noSession', error: 'nobody who serves step inventory/release is connected' },
    ])
  })

  test('have credits of their own, in turns', () => {
    const [one, two] = [join({ stepsMax: 1 }), join({ stepsMax: 2 })]
    for (let i = 0; i < 3; i++) send(participants)
    expect([one.sent.length, two.sent.length]).toEqual([1, 2])
    expect(route()).toBe(undefined)
    // Deliveries have theirs.
    expect(deliver(participants)).toEqual([])
    expect([...one.sent, ...two.sent].map(({ type }) => type)).toContain('delivery')
    const full = send(participants)
    runtime.turn()
    expect(full).toMatchObject([{ outcome: 'noSession' }])
  })

  test('with a database go only to who told the same one; without one, to those without first', () => {
    const [one, two] = [join({ databaseId: 'd1' }), join({ databaseId: 'd2' })]
    expect(route('d2')?.databaseId).toBe('d2')
    expect(route('d3')).toBe(undefined)
    send(participants, { databaseId: 'd2' })
    send(participants, { databaseId: 'd2' })
    expect([one.sent.length, two.sent.length]).toEqual([0, 2])
    expect(route('d2')).toBe(undefined)
    const without = join()
    send(participants)
    expect(without.sent).toHaveLength(1)
  })

  test('are told of room once a place is free, under the name of the step', () => {
    const one = join({ stepsMax: 1 })
    send(participants)
    runtime.turn()
    room.length = 0
    expect(route()).toBe(undefined)
    one.answer()
    runtime.turn()
    expect(room).toEqual(['default inventory/reserve'])
  })

  test('are unknown when their time is over or their session is lost, once', () => {
    const one = join()
    const slow = send(participants, { timeoutMs: 500 })
    const lost = send(participants)
    runtime.pass(700)
    expect(slow).toEqual([
      { outcome: 'unknown', result: undefined, code: '', error: 'no answer within 500 ms' },
    ])
    one.participation.leave()
    runtime.turn()
    expect(slow).toHaveLength(1)
    expect(lost).toMatchObject([{ outcome: 'unknown' }])
  })

  test('are bounded by the bytes that they carry, and one always has room', () => {
    const one = join({ stepsMax: 100 })
    send(participants, {
      input: '1'.repeat(STEP_BYTES_MAX / 2),
      result: '1'.repeat(STEP_BYTES_MAX / 2),
    })
    expect(route()).toBe(undefined)
    one.answer()
    expect(route()).toBeDefined()
  })

  test('are answered once, and by an answer of their own kind only', () => {
    const one = join()
    const outcomes = send(participants)
    one.participation.calls.deliveryAnswered(1, { outcome: 'delivered', error: '' })
    expect(outcomes).toEqual([])
    one.answer({ ...DONE, outcome: 'refused', code: 'c'.repeat(500), error: 'e'.repeat(5000) })
    expect(outcomes).toMatchObject([{ outcome: 'refused', code: 'c'.repeat(128), error: 'e'.repeat(1024) }])
    one.participation.calls.stepAnswered(1, DONE)
    expect([outcomes.length, participants.answersDropped]).toEqual([1, 2])
  })

  test('that fit no frame have failed, later, with the code that says why, and hold no place', () => {
    const participation = participants.join(namespace, 'inventory', {
      deliveriesMax: 1,
      checkBacksMax: 1,
      stepsMax: 1,
      send: () => {
        throw new Error('too large')
      },
    })
    participation.register({ handlers: [], checkers: [], steps: ['reserve'], databaseId: '' })
    const outcomes = send(participants)
    expect(outcomes).toEqual([])
    runtime.turn()
    expect(outcomes).toMatchObject([{ outcome: 'failed', code: 'internal', error: 'too large' }])
    expect(participation.calls.size).toBe(0)
  })
})

describe('on a session', () => {
  const servers: SessionServer[] = []
  const peers: Peer[] = []
  afterEach(async () => {
    for (const peer of peers.splice(0)) peer.stream.close()
    await Promise.all(servers.splice(0).map((server) => server.stop()))
  })
  const steps = { checkers: [], handlers: [], steps: ['reserve'], databaseId: 'd1' }

  async function start(): Promise<{ server: SessionServer; peer: Peer }> {
    const server = await startSessions()
    servers.push(server)
    const peer = await Peer.welcomed(server.target, { registration: steps })
    peers.push(peer)
    return { server, peer }
  }

  test('a step is called after the welcome, and its answer comes back', async () => {
    const { server, peer } = await start()
    expect(server.coordination.registered).toMatchObject([{ registration: steps }])
    const outcomes = send(server.participants, {
      databaseId: 'd1',
      operation: 'compensation',
      result: '1',
    })
    const [call] = await peer.next('step')
    expect(call).toMatchObject({
      request: { operation: 'compensation', isActionDone: false, saga: 'place-order' },
    })
    peer.send({ type: 'stepAnswer', callId: call?.callId as number, response: DONE })
    await expect.poll(() => outcomes).toMatchObject([{ outcome: 'done', result: Buffer.from('7') }])
  })

  test('steps without a window, and steps whose names are none, are refused', async () => {
    const { server } = await start()
    for (const [given, code] of [
      [{ registration: steps, stepsMax: 0 }, 'invalidArgument'],
      [{ registration: { ...steps, steps: ['Reserve It'] } }, 'invalidArgument'],
      [{ registration: { ...steps, steps: Array.from({ length: 1001 }, (_, i) => `s${i}`) } }, 'tooLarge'],
    ] as const) {
      const peer = new Peer(server.target)
      peer.send(hello(given))
      expect(await peer.end()).toBe(code)
    }
  })

  test('sagas are started, signalled, cancelled, completed and migrated; an id of the session’s own is fresh', async () => {
    const { server, peer } = await start()
    const id = mintTransactionId('r1', peer.welcome.session, 1)
    const response: StepResponse = { ...DONE, result: new Uint8Array([0x37]) }
    peer.command(1, 'startSaga', { saga: 'place-order', id, input: Buffer.from('{}') })
    peer.command(2, 'signal', { id, signal: 'paid', payload: Buffer.from('1'), signalId: 's1' })
    peer.command(3, 'cancel', { id, reason: 'changed my mind' })
    peer.command(4, 'complete', { id, executionId: 'x.1', attempt: 3, response })
    peer.command(5, 'migrateSaga', { id, toVersion: 4 })
    const { taken } = server.coordination
    await expect
      .poll(() => taken.map(({ op }) => op))
      .toEqual(['startSaga', 'signal', 'cancel', 'complete', 'migrateSaga'])
    expect(taken[4]).toMatchObject({ request: { id, toVersion: 4 } })
    expect(taken[0]).toMatchObject({
      request: { namespace: 'default', saga: 'place-order' },
      options: { fresh: true },
    })
    expect(taken[3]).toMatchObject({
      request: { executionId: 'x.1', attempt: 3, response: { outcome: 'done' } },
    })
    taken[0]?.reply(undefined, { id, executionId: 'x', status: 'running', version: 3 })
    taken[2]?.reply(undefined, { status: 'compensating' })
    taken[4]?.reply(undefined, { status: 'running' })
    const replies = await peer.next('reply', 3)
    expect(replies).toMatchObject([
      { commandId: 1, op: 'startSaga', response: { id, status: 'running', version: 3 } },
      { commandId: 3, op: 'cancel', response: { status: 'compensating' } },
      { commandId: 5, op: 'migrateSaga', response: { status: 'running' } },
    ])
  })
})
