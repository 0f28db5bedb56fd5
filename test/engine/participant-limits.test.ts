/** What a participant is held to, over all definitions and routing slips; and the gates that do it. */
import { describe, expect, test } from 'vitest'
import { EscrowError } from '../../src/core/errors.ts'
import type { Namespace } from '../../src/core/ids.ts'
import { Admissions } from '../../src/engine/admissions.ts'
import type { Entry } from '../../src/engine/entry.ts'
import { Gate, type ParticipantLimits, WaitingLine } from '../../src/engine/gates.ts'
import { answerOf } from './fake-step-outlet.ts'
import { bytes, endOf, line, openSagas, sagaOf, startSaga, undoable, view } from './saga-world.ts'
import type { World } from './world.ts'

const shopTo = (limits: { concurrencyMax?: number; ratePerSecond?: number }): ParticipantLimits[] => [
  { namespace: 'default' as Namespace, service: 'shop', concurrencyMax: 0, ratePerSecond: 0, ...limits },
]

/** Everybody takes a tenth of a second. */
const slow = (world: World): void => {
  world.steps.take = () =>
    new Promise((resolve) => world.clock.setTimer(() => resolve(answerOf('done')), 100))
}

const wide = sagaOf((all) => [
  all.parallel(undoable(all, 'a'), undoable(all, 'b'), undoable(all, 'c')),
  undoable(all, 'd'),
])
const other = sagaOf(line(['x']), { name: 'other' })
const slip = bytes({ steps: [{ name: 's', action: 'shop/x', compensation: true }] })

test('concurrencyMax: no more calls are under way at once, of all definitions and slips together, and all are done', async () => {
  const world = await openSagas([wide, other], { participantLimits: shopTo({ concurrencyMax: 2 }) })
  slow(world)
  const ids: string[] = []
  for (let at = 0; at < 5; at++) {
    ids.push(await startSaga(world), await startSaga(world, { saga: 'other' }))
    ids.push(await startSaga(world, { saga: '', slip }))
  }
  for (const id of ids) expect((await endOf(world, id)).status).toBe('completed')
  expect([world.steps.unansweredMax, world.steps.calls.length]).toEqual([2, 30])
  // Nobody waited where there was room: as much was done at any time as was allowed.
  const [first, last] = [world.steps.calls[0], world.steps.calls.at(-1)]
  expect((last?.atMs ?? 0) - (first?.atMs ?? 0)).toBeLessThan(1_700)
})

test('ratePerSecond: a second’s worth at once, then at that pace, whatever the definition', async () => {
  const world = await openSagas([wide, other], { participantLimits: shopTo({ ratePerSecond: 5 }) })
  for (let at = 0; at < 15; at++) {
    world.ask('startSaga', { saga: 'other' })
    world.ask('startSaga', { saga: '', slip })
  }
  await world.clock.advance(20)
  expect(world.steps.calls.length).toBe(5)
  await world.clock.advance(2_000)
  expect(world.steps.calls.length).toBeGreaterThanOrEqual(14)
  expect(world.steps.calls.length, 'no faster').toBeLessThanOrEqual(15)
  await world.clock.advance(4_000)
  expect(world.steps.calls.length).toBe(30)
})

test('what waits is no attempt, and its time-out has not begun', async () => {
  const quick = sagaOf(line(['a'], { attemptTimeoutMs: 150, retry: { attemptsMax: 1 } }))
  const world = await openSagas([quick], { participantLimits: shopTo({ concurrencyMax: 1 }) })
  slow(world)
  const ids: string[] = []
  for (let at = 0; at < 20; at++) ids.push(await startSaga(world))
  for (const id of ids) expect((await endOf(world, id)).status).toBe('completed')
  expect(world.steps.calls.map(({ request }) => request.attempt)).toEqual(ids.map(() => 1))
})

test('another participant is not held up, nor is a step of this one that others serve', async () => {
  const bank = sagaOf((all) => [all.step('pay', { action: 'bank/pay', compensation: true })], {
    name: 'bank',
  })
  const world = await openSagas([other, bank], { participantLimits: shopTo({ concurrencyMax: 1 }) })
  world.steps.take = ({ service }) => (service === 'shop' ? 'silence' : answerOf('done'))
  for (let at = 0; at < 5; at++) await startSaga(world, { saga: 'other' })
  expect((await endOf(world, await startSaga(world, { saga: 'bank' }))).status).toBe('completed')
  expect(world.steps.names.filter((name) => name === 'x')).toEqual(['x'])
})

test('a step that nobody serves holds up none of the same participant', async () => {
  const world = await openSagas([wide, other], { participantLimits: shopTo({ concurrencyMax: 1 }) })
  for (const name of ['a', 'b', 'c']) world.steps.steps.delete(`shop/${name}`)
  for (let at = 0; at < 3; at++) await startSaga(world)
  const ids = [await startSaga(world, { saga: 'other' }), await startSaga(world, { saga: 'other' })]
  for (const id of ids) expect((await endOf(world, id)).status).toBe('completed')
})

test('those that wait go in turns, definition by definition: a crowd of one lets the others through', async () => {
  const world = await openSagas([wide, other], { participantLimits: shopTo({ concurrencyMax: 1 }) })
  slow(world)
  for (let at = 0; at < 50; at++) world.ask('startSaga', { saga: 'order' })
  await world.clock.advance(50)
  await startSaga(world, { saga: 'other' })
  await world.clock.advance(1_000)
  expect(world.steps.names.slice(0, 8)).toContain('x')
})

test('who comes anew does not pass by those who wait', async () => {
  const world = await openSagas([other], { participantLimits: shopTo({ concurrencyMax: 1 }) })
  slow(world)
  const ids: string[] = []
  for (let at = 0; at < 30; at++) {
    ids.push(await startSaga(world, { saga: 'other' }))
    // While some wait and some come, so that there is room just when somebody comes.
    await world.clock.advance(at % 3 === 0 ? 100 : 30)
  }
  for (const id of ids) await endOf(world, id)
  expect(world.steps.calls.map(({ request }) => request.transactionId)).toEqual(ids)
})

test('compensations are held to the limit as well, and go first', async () => {
  const long = sagaOf(
    (all) => [
      undoable(all, 'a'),
      undoable(all, 'b'),
      all.waitFor('go', { timeoutMs: 3_600_000, onTimeout: 'fail' }),
    ],
    {
      signals: ['go'],
    },
  )
  const world = await openSagas([long, other], { participantLimits: shopTo({ concurrencyMax: 1 }) })
  const undone = await startSaga(world)
  await world.clock.advance(500)
  expect((await view(world, undone)).saga?.executions.map(({ status }) => status)).toEqual(['done', 'done'])
  slow(world)
  for (let at = 0; at < 20; at++) world.ask('startSaga', { saga: 'other' })
  await world.clock.advance(50)
  const before = world.steps.calls.length
  await world.call('cancel', { id: undone })
  await world.clock.advance(1_000)
  // One was under way already; the next step of the undoing follows on the first one's answer.
  expect(world.steps.names.slice(before).slice(0, 2)).toEqual(['-b', '-a'])
  expect(world.steps.unansweredMax).toBe(1)
})

test('a log that stops, as its store has to be reopened, leaves no call counted that nobody makes', async () => {
  const world = await openSagas([other], { participantLimits: shopTo({ concurrencyMax: 1 }) })
  slow(world)
  const ids: string[] = []
  for (let at = 0; at < 5; at++) ids.push(await startSaga(world, { saga: 'other', id: `o-${at}` }))
  let isBroken = false
  world.hook = ({ method, moment }) => {
    if (isBroken || method !== 'append' || moment !== 'before') return
    isBroken = true
    throw new EscrowError('storeCorrupt', 'the flush failed')
  }
  await world.clock.until(() => world.coordinator.engine.health().state === 'degraded')
  await world.clock.until(() => world.coordinator.engine.health().state === 'ready')
  for (const id of ids) expect((await endOf(world, id)).status).toBe('completed')
})

test('without limits nothing waits', async () => {
  const world = await openSagas([other])
  slow(world)
  for (let at = 0; at < 10; at++) world.ask('startSaga', { saga: 'other' })
  await world.clock.advance(50)
  expect(world.steps.unansweredMax).toBe(10)
})

describe('a gate', () => {
  const gateOf = (concurrencyMax: number) => new Gate({ concurrencyMax, ratePerSecond: 0 }, 0)

  test('a decision that came to nothing gives back what it took', () => {
    const gate = gateOf(1)
    const admissions = new Admissions()
    admissions.enter([gate])
    expect(gate.isOpen(0)).toBe(false)
    admissions.undecided()
    expect([gate.isOpen(0), gate.isIdle(0)]).toEqual([true, true])
  })

  test('a log that stops gives back what is under way; what ends later counts no second time', () => {
    const gate = gateOf(1)
    const admissions = new Admissions()
    const entry = {} as Entry
    admissions.enter([gate])
    admissions.decided(entry, 2)
    admissions.stop()
    expect(admissions.exit(entry, 2)).toEqual([])
    gate.enter()
    expect(gate.isOpen(0), 'one inside is one').toBe(false)
  })

  test('lines are served in turns, one call each, compensations first, up to the room that there is', () => {
    const gate = gateOf(5)
    const served: string[] = []
    const lineOf = (name: string, count: number, isCompensation = false) => {
      const calls = new WaitingLine<number>(isCompensation, (line) => {
        const [first = 0] = line
        line.delete(first)
        served.push(`${name}${first}`)
        gate.enter()
        return line.size > 0
      })
      for (let n = 1; n <= count; n++) calls.add(n)
      gate.wait(calls)
      return calls
    }
    const lines = [lineOf('a', 3), lineOf('b', 1), lineOf('u', 2, true), lineOf('c', 2)]
    gate.serve(0)
    expect(served).toEqual(['u1', 'u2', 'a1', 'b1', 'c1'])
    expect(lines.map(({ gate: at }) => at === gate)).toEqual([true, false, false, true])
    expect([gate.admits(false, 0), gate.admits(true, 0)]).toEqual([false, false])
    gate.leave()
    expect([gate.admits(false, 0), gate.admits(true, 0)], 'actions wait; no compensation does').toEqual([
      false,
      true,
    ])
    gate.serve(0)
    expect(served.at(-1)).toBe('a2')
  })
})
