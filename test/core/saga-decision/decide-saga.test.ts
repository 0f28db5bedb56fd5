import { describe, expect, test } from 'vitest'
import { sagaStatusOf } from '../../../src/core/saga/image.ts'
import { outstandingOfSaga } from '../../../src/core/saga/outstanding.ts'
import { all, attempt, fakeProgram, loop, policy, seq, step } from './fake-program.ts'
import { call, Driven, LOG_MS, outcome, WALL_MS } from './fixtures.ts'

const pivot = policy('pivot', { class: 'pivot', compensation: undefined })
const ship = policy('ship', { class: 'retriable', compensation: undefined })
const [a, b, c] = ['a', 'b', 'c'].map((name) => policy(name)) as [
  ReturnType<typeof policy>,
  ReturnType<typeof policy>,
  ReturnType<typeof policy>,
]
const done = outcome('done')
const refused = outcome('refused')
const failed = outcome('failed')
const unknown = outcome('unknown')
const statusOf = (driven: Driven): string => sagaStatusOf(driven.image as NonNullable<Driven['image']>)
const noBarrier = { routeOf: () => ({ databaseId: '' }) }

describe('forward', () => {
  test('two steps take three decisions, each dispatching in the same record', () => {
    const saga = new Driven(fakeProgram({ flow: seq(step('a'), step('b')), policies: [a, b] })).start()
    expect(saga.last.effects).toEqual([call(1)])
    expect(saga.action(1)).toMatchObject({
      firstDispatchAtMs: WALL_MS,
      attemptDeadlineAtMs: LOG_MS + 50,
      databaseId: 'db1',
    })
    saga.answer(1, outcome('done', { result: '{"reserved":3}' }))
    expect(saga.last.effects).toEqual([call(2)])
    saga.answer(2, done)
    expect(saga.last.effects).toEqual([])
    expect(saga.state).toMatchObject({
      phase: 'completed',
      finishedAtMs: WALL_MS,
      output: '"finished"',
      active: [],
    })
    expect(outstandingOfSaga(saga.image!)).toEqual([])
  })

  test('where nobody takes it, it is outstanding, and leaves by dispatchStep', () => {
    const program = fakeProgram({ flow: step('a'), policies: [a] })
    const saga = new Driven(program, { routeOf: () => undefined }).start()
    expect(saga.effects).toEqual([])
    expect(outstandingOfSaga(saga.image!)).toEqual([
      { what: 'step', n: 1, operation: 'action', clock: 'log', atMs: LOG_MS },
      { what: 'stepDeadline', n: 1, clock: 'wall', atMs: saga.action(1)?.lastDispatchAtMs },
    ])
    saga.moment = { ...saga.moment, routeOf: () => ({ databaseId: 'db2' }) }
    saga.do({ type: 'dispatchStep', n: 1, operation: 'action' })
    expect(saga.last.effects).toEqual([call(1)])
    expect(saga.action(1)).toMatchObject({ databaseId: 'db2', isUncertain: false })
  })

  test('I4: what is dispatched while it is in flight was lost from memory, so its outcome is uncertain', () => {
    const saga = new Driven(fakeProgram({ flow: step('a'), policies: [a] })).start()
    saga.do({ type: 'dispatchStep', n: 1, operation: 'action' })
    expect(saga.last.effects).toEqual([call(1)])
    expect(saga.action(1)).toMatchObject({ isUncertain: true })
  })

  test('a failed attempt is tried again after full jitter, up to its last one', () => {
    const saga = new Driven(fakeProgram({ flow: step('a'), policies: [a] })).start().answer(1, failed)
    expect(saga.action(1)).toMatchObject({
      status: 'running',
      attempts: 1,
      nextAttemptAtMs: LOG_MS + 50,
      attemptDeadlineAtMs: 0,
    })
    saga.do({ type: 'dispatchStep', n: 1, operation: 'action' }).answer(1, failed)
    expect(saga.action(1)).toMatchObject({ attempts: 2, nextAttemptAtMs: LOG_MS + 100 })
    saga.do({ type: 'dispatchStep', n: 1, operation: 'action' })
    expect(saga.last.effects).toEqual([call(1, 'action', 3)])
    saga.answer(1, failed)
    expect(saga.action(1)).toMatchObject({ status: 'failed', code: 'attemptsExhausted' })
    // No refusal: the barrier is told to turn away what may still arrive.
    expect(saga.last.effects).toEqual([call(1, 'compensation')])
  })

  test('a code that is not to be tried again fails the step at once', () => {
    const saga = new Driven(fakeProgram({ flow: step('a'), policies: [a] }), noBarrier).start()
    saga.answer(1, outcome('failed', { code: 'HOPELESS' }))
    // Without a barrier its participant is believed: nothing happened, nothing is to be undone.
    expect(saga.state).toMatchObject({ phase: 'compensated', reason: 'a step failed' })
  })

  test('noSession is no attempt: the dispatch is as if it had not been', () => {
    const saga = new Driven(fakeProgram({ flow: step('a'), policies: [a] })).start().answer(1, 'noSession')
    expect(saga.action(1)).toMatchObject({
      attempts: 0,
      firstDispatchAtMs: 0,
      databaseId: '',
      isUncertain: false,
      nextAttemptAtMs: LOG_MS,
    })
    const outcome = { outcome: 'noSession', error: 'too many wait', isPostponed: true } as const
    saga.do({ type: 'dispatchStep', n: 1, operation: 'action' })
    saga.do({ type: 'answerStep', n: 1, operation: 'action', attempt: 1, outcome })
    expect(saga.action(1), 'postponed').toMatchObject({ attempts: 0, nextAttemptAtMs: LOG_MS + 750 })
  })

  test('a late, doubled or foreign answer changes nothing', () => {
    const saga = new Driven(fakeProgram({ flow: seq(step('a'), step('b')), policies: [a, b] }))
      .start()
      .answer(1, done)
    const before = saga.image
    saga.answer(1, done).answer(1, refused).answer(9, done)
    saga.do({ type: 'answerStep', n: 2, operation: 'action', attempt: 2, outcome: failed })
    saga.answer(2, done, 'compensation')
    expect(saga.image).toBe(before)
  })

  test('a completion that is told twice is none of what undoes it', () => {
    const flow = seq(step('a'), step('b'))
    const saga = new Driven(fakeProgram({ flow, policies: [a, b] })).start().answer(1, outcome('later'))
    const complete = { type: 'completeStep', executionId: 'e1.1', attempt: 0, outcome: done } as const
    saga.do(complete).answer(2, refused)
    expect(saga.last.effects).toEqual([call(1, 'compensation')])
    saga.do(complete)
    expect([saga.last, saga.compensation(1)?.status]).toEqual([{ effects: [] }, 'running'])
    saga.answer(1, outcome('later'), 'compensation')
    expect(saga.compensation(1), 'it answers when it is done').toMatchObject({ attempts: 1, isLater: false })
    saga.do(complete)
    expect(saga.compensation(1)?.status).toBe('running')
  })

  test('what is postponed is due after a pause; what was lost in flight may have happened', () => {
    const program = fakeProgram({ flow: step('a'), policies: [a] })
    const postponed = { outcome: 'noSession', error: 'too many wait', isPostponed: true } as const
    const held = new Driven(program, { routeOf: () => undefined }).start()
    held.do({ type: 'answerStep', n: 1, operation: 'action', attempt: 1, outcome: postponed })
    expect(held.action(1)).toMatchObject({ nextAttemptAtMs: LOG_MS + 750, isUncertain: false })
    const lost = new Driven(program).start()
    lost.do({ type: 'answerStep', n: 1, operation: 'action', attempt: 1, outcome: postponed })
    expect(lost.action(1)).toMatchObject({ attemptDeadlineAtMs: 0, isUncertain: true, databaseId: 'db1' })
  })

  test('later is waited for until complete, or the time-out of the step', () => {
    const program = fakeProgram({ flow: step('a'), policies: [policy('a', { stepTimeoutMs: 500 })] })
    const saga = new Driven(program).start().answer(1, outcome('later'))
    expect(outstandingOfSaga(saga.image!)).toEqual([
      { what: 'stepDeadline', n: 1, clock: 'log', atMs: LOG_MS + 500 },
      { what: 'stepDeadline', n: 1, clock: 'wall', atMs: saga.action(1)?.lastDispatchAtMs },
    ])
    saga.do({ type: 'dispatchStep', n: 1, operation: 'action' })
    expect(saga.last.effects).toEqual([])
    const completed = new Driven(program)
    completed.image = saga.image
    completed.do({ type: 'completeStep', executionId: 'e1.1', attempt: 0, outcome: done })
    expect(statusOf(completed)).toBe('completed')
    completed.do({ type: 'completeStep', executionId: 'e1.1', attempt: 0, outcome: done })
    expect(completed.last).toEqual({ effects: [] })
    completed.do({ type: 'completeStep', executionId: 'e1.7', attempt: 0, outcome: done })
    expect(completed.last.refused?.code).toBe('unknownExecution')
    saga.pass(500).do({ type: 'stepDeadlineDue', n: 1 })
    // It may happen yet: the barrier is told to turn it away.
    expect(saga.last.effects).toEqual([call(1, 'compensation')])
    expect(saga.state.executions.get(1)).toMatchObject({
      isDone: false,
      action: { status: 'failed', code: 'stepTimeout', isUncertain: true },
    })
  })

  test('what answered later and is never completed parks at the last-dispatch deadline', () => {
    const saga = new Driven(fakeProgram({ flow: step('a'), policies: [a] }))
      .start()
      .answer(1, outcome('later'))
    saga.pass(saga.moment.limits.lastDispatchMsMax).do({ type: 'stepDeadlineDue', n: 1 })
    expect(saga.action(1)).toMatchObject({ status: 'parked', error: 'nobody completed it in time' })
  })

  test('I6: what nobody takes parks at the last-dispatch deadline', () => {
    const program = fakeProgram({ flow: step('a'), policies: [a] })
    const saga = new Driven(program, { routeOf: () => undefined }).start()
    saga.pass(saga.moment.limits.lastDispatchMsMax).do({ type: 'stepDeadlineDue', n: 1 })
    expect(saga.action(1)).toMatchObject({ status: 'parked', error: 'nobody could take it in time' })
  })

  test('a step that sends a message is a Publication', () => {
    const notice = policy('notice', {
      class: 'retriable',
      compensation: undefined,
      destination: 'kafka:notices',
    })
    const saga = new Driven(fakeProgram({ flow: step('notice'), policies: [notice] })).start()
    expect(saga.last.effects).toEqual([{ type: 'Publication', n: 1, attempt: 1 }])
    saga.answer(1, done)
    expect(statusOf(saga)).toBe('completed')
  })

  test('past its last-dispatch deadline a step parks, and is retried only if a duplicate is accepted', () => {
    const saga = new Driven(fakeProgram({ flow: step('a'), policies: [a] })).start().answer(1, unknown)
    saga.pass(saga.moment.limits.lastDispatchMsMax).do({ type: 'dispatchStep', n: 1, operation: 'action' })
    expect(statusOf(saga)).toBe('parked')
    saga.do({ type: 'retryExecution', executionId: 'e1.1', acceptPossibleDuplicate: false })
    expect(saga.last.refused?.code).toBe('possibleDuplicate')
    saga.do({ type: 'retryExecution', executionId: 'e1.1', acceptPossibleDuplicate: true })
    expect(saga.last.effects).toEqual([call(1)])
  })
})

describe('results', () => {
  test('a later step sees the result of the entry that began last', () => {
    const seen: unknown[] = []
    const program = fakeProgram({
      flow: seq(loop(2, step('a')), step('b')),
      policies: [a, b],
      guard: (event, results) => void (event !== 'start' && seen.push(results.get('a'))),
    })
    const saga = new Driven(program).start()
    saga
      .answer(1, outcome('done', { result: '1' }))
      .answer(2, outcome('done', { result: '2' }))
      .answer(3, done)
    expect(seen).toEqual([1, 2, 2])
  })

  test.each([
    ['is no JSON', '{'],
    ['is too large', JSON.stringify('x'.repeat(1 << 20))],
  ])('a result that %s fails the step, which is undone because it happened', (_, result) => {
    const saga = new Driven(fakeProgram({ flow: step('a'), policies: [a] })).start()
    saga.answer(1, outcome('done', { result }))
    expect(saga.action(1)).toMatchObject({ status: 'failed', code: 'invalidResult' })
    expect(saga.last.effects).toEqual([call(1, 'compensation')])
    expect(saga.state.executions.get(1)?.isDone).toBe(true)
  })

  test('where there is no way back, a result that fails its schema parks', () => {
    const parseResult = (): never => {
      throw new Error('not this shape')
    }
    const saga = new Driven(fakeProgram({ flow: step('ship'), policies: [ship], parseResult }))
      .start()
      .answer(1, done)
    expect(saga.action(1)).toMatchObject({
      status: 'parked',
      error: "invalidResult: its result can't be used: not this shape",
    })
    saga.do({ type: 'skipExecution', executionId: 'e1.1' })
    expect(statusOf(saga)).toBe('completed')
  })
})

describe('undoing', () => {
  const three = fakeProgram({ flow: seq(step('a'), step('b'), step('c')), policies: [a, b, c] })

  test('in reverse, one at a time, with what the actions gave', () => {
    const saga = new Driven(three)
      .start()
      .answer(1, outcome('done', { result: '1' }))
      .answer(2, done)
    saga.answer(3, refused)
    expect(saga.last.effects).toEqual([call(2, 'compensation')])
    expect(statusOf(saga)).toBe('compensating')
    saga.answer(2, done, 'compensation')
    expect(saga.last.effects).toEqual([call(1, 'compensation')])
    saga.answer(1, done, 'compensation')
    expect(saga.state).toMatchObject({ phase: 'compensated', finishedAtMs: WALL_MS, reason: 'a step failed' })
  })

  test('branches at once, each in reverse, before what came earlier', () => {
    const flow = seq(step('a'), all(seq(step('b'), step('c')), seq(step('b'), step('c'))), step('d'))
    const saga = new Driven(fakeProgram({ flow, policies: [a, b, c, policy('d')] })).start()
    saga.answer(1, done).answer(2, done).answer(3, done).answer(4, done).answer(5, done).answer(6, refused)
    const branchOf = (n: number): string | undefined => saga.state.executions.get(n)?.branch[0]?.region
    expect([2, 3, 4, 5].map(branchOf)).toEqual(['0', '1', '0', '1'])
    expect(saga.last.effects).toEqual([call(5, 'compensation'), call(4, 'compensation')])
    saga.answer(4, done, 'compensation')
    expect(saga.last.effects).toEqual([call(2, 'compensation')])
    saga.answer(2, done, 'compensation')
    expect(saga.last.effects).toEqual([])
    saga.answer(5, done, 'compensation').answer(3, done, 'compensation')
    expect(saga.last.effects).toEqual([call(1, 'compensation')])
  })

  test('what is in flight is awaited; what it did is undone; what waits for its next attempt is not made', () => {
    const flow = all(step('a'), step('b'), step('c'))
    const saga = new Driven(fakeProgram({ flow, policies: [a, b, c] }))
      .start()
      .answer(2, failed)
      .answer(3, refused)
    expect(saga.last.effects).toEqual([])
    expect(saga.action(1)).toMatchObject({ status: 'stopping' })
    expect(saga.action(2)).toMatchObject({ status: 'stopped' })
    expect(outstandingOfSaga(saga.image!)).toEqual([
      { what: 'stepDeadline', n: 1, clock: 'log', atMs: LOG_MS + 50 },
    ])
    saga.do({ type: 'stepDeadlineDue', n: 1 })
    expect(saga.last).toEqual({ effects: [] })
    saga.answer(1, outcome('done', { result: '7' }))
    expect(saga.last.effects).toEqual([call(1, 'compensation'), call(2, 'compensation')])
    expect(saga.state.executions.get(1)).toMatchObject({ isDone: true, result: '7' })
  })

  test('I4: an outcome that never comes is undone as unknown, where a barrier can tell', () => {
    const flow = all(step('a'), step('b'))
    const saga = new Driven(fakeProgram({ flow, policies: [a, b] })).start().answer(2, refused)
    saga.pass(50).do({ type: 'stepDeadlineDue', n: 1 })
    expect(saga.last.effects).toEqual([call(1, 'compensation')])
    expect(saga.state.executions.get(1)).toMatchObject({
      isDone: false,
      action: { status: 'stopped', isUncertain: true },
    })
  })

  test('without a barrier it parks, until somebody says whether it happened', () => {
    const flow = all(step('a'), step('b'))
    const parked = () => {
      const saga = new Driven(fakeProgram({ flow, policies: [a, b] }), noBarrier).start().answer(2, refused)
      saga.answer(1, unknown)
      expect(saga.last.effects).toEqual([])
      expect(statusOf(saga)).toBe('parked')
      return saga
    }
    const retry = { type: 'retryExecution', executionId: 'e1.1' } as const
    expect(parked().do({ ...retry, acceptPossibleDuplicate: false }).last.refused?.code).toBe(
      'possibleDuplicate',
    )
    expect(parked().do({ ...retry, acceptPossibleDuplicate: true }).last.effects).toEqual([
      call(1, 'compensation'),
    ])
    expect(statusOf(parked().do({ type: 'skipExecution', executionId: 'e1.1' }))).toBe('compensated')
    const said = parked().do({ type: 'compensateExecution', executionId: 'e1.1' })
    expect(said.last.effects).toEqual([call(1, 'compensation')])
    expect(said.state.executions.get(1)?.isDone).toBe(true)
    const told = parked().answer(1, done)
    expect(told.last.effects).toEqual([call(1, 'compensation')])
    expect(told.state.executions.get(1)?.isDone).toBe(true)
  })

  test('a compensation that fails is repeated, then parks, and nothing before it is undone until it is settled', () => {
    const saga = new Driven(three).start().answer(1, done).answer(2, done).answer(3, refused)
    for (let attempts = 1; attempts < 3; attempts++) {
      saga.answer(2, failed, 'compensation').do({ type: 'dispatchStep', n: 2, operation: 'compensation' })
      expect(saga.last.effects).toEqual([call(2, 'compensation', attempts + 1)])
    }
    saga.answer(2, failed, 'compensation')
    expect(saga.compensation(2)).toMatchObject({ status: 'parked', error: 'attempts exhausted: it failed' })
    expect(statusOf(saga)).toBe('parked')
    expect(outstandingOfSaga(saga.image!)).toEqual([])
    saga.do({ type: 'retryExecution', executionId: 'e1.2', acceptPossibleDuplicate: false })
    expect(saga.last.effects).toEqual([call(2, 'compensation')])
    saga.answer(2, refused, 'compensation')
    expect(saga.compensation(2)).toMatchObject({ status: 'parked', error: 'refused: it refused' })
    saga.do({ type: 'skipExecution', executionId: 'e1.2' })
    expect(saga.last.effects).toEqual([call(1, 'compensation')])
  })

  test('I4: a step that failed without anybody knowing whether it happened is undone, while the flow goes on', () => {
    const flow = seq(attempt(step('a'), step('b')), step('c'))
    const once = policy('a', { retry: { delayMs: 1, delayMsMax: 1, attemptsMax: 1 } })
    const saga = new Driven(fakeProgram({ flow, policies: [once, b, c] })).start().answer(1, unknown)
    expect(saga.last.effects).toEqual([call(2), call(1, 'compensation')])
    saga.answer(2, done).answer(3, done)
    expect(saga.state).toMatchObject({ phase: 'running', isMachineDone: true })
    saga.answer(1, done, 'compensation')
    expect(statusOf(saga)).toBe('completed')
  })

  test('a step whose state was left is stopped, and undone if it happened', () => {
    const flow = seq(step('a', 10), step('b'))
    const saga = new Driven(fakeProgram({ flow, policies: [a, b] })).start()
    expect(outstandingOfSaga(saga.image!)).toContainEqual({
      what: 'timer',
      timer: '0',
      clock: 'log',
      atMs: LOG_MS + 10,
    })
    saga.do({ type: 'timerDue', timer: '0' })
    expect(saga.last).toEqual({ effects: [] })
    saga.pass(10).do({ type: 'timerDue', timer: '0' })
    expect(saga.last.effects).toEqual([call(2)])
    saga.answer(2, done)
    expect(statusOf(saga)).toBe('running')
    saga.answer(1, done)
    expect(saga.last.effects).toEqual([call(1, 'compensation')])
    saga.answer(1, done, 'compensation')
    expect(statusOf(saga)).toBe('completed')
  })

  test('a refusal that overtakes an unanswered attempt is final with a barrier, and unknown without', () => {
    const program = fakeProgram({ flow: seq(step('a'), step('b')), policies: [a, b] })
    const overtaken = (changes: object) =>
      new Driven(program, changes)
        .start()
        .answer(1, unknown)
        .do({ type: 'dispatchStep', n: 1, operation: 'action' })
        .answer(1, refused)
    expect(statusOf(overtaken({}))).toBe('compensated')
    const unclear = overtaken(noBarrier)
    expect(statusOf(unclear)).toBe('parked')
    expect(unclear.compensation(1)?.status).toBe('parked')
  })
})

describe('cancel, time-out and pivot', () => {
  const flow = seq(step('a'), step('pivot'), step('ship'))
  const program = fakeProgram({ flow, policies: [a, pivot, ship] })

  test('cancel undoes, up to the first dispatch of the pivot', () => {
    const saga = new Driven(program).start().answer(1, done)
    expect(saga.state.pivot).toBe(2)
    const before = saga.image
    saga.do({ type: 'cancelSaga', reason: 'no more' })
    expect(saga.last.refused?.code).toBe('pastPivot')
    saga.do({ type: 'deadlineDue' })
    expect(saga.image).toBe(before)
    const early = new Driven(program).start().do({ type: 'cancelSaga', reason: 'no more' })
    expect(early.state).toMatchObject({ phase: 'compensating', reason: 'cancelled: no more' })
    early.do({ type: 'cancelSaga', reason: 'again' })
    expect(early.last).toEqual({ effects: [] })
  })

  test('a pivot that nobody takes leaves the way back open', () => {
    const routeOf = ({ policy: { step: name } }: { policy: { step: string } }) =>
      name === 'pivot' ? undefined : { databaseId: 'db1' }
    const saga = new Driven(program, { routeOf }).start().answer(1, done)
    saga.do({ type: 'cancelSaga', reason: 'no more' })
    expect(saga.last.effects).toEqual([call(1, 'compensation')])
    const dispatched = new Driven(program).start().answer(1, done).answer(2, 'noSession')
    expect(dispatched.state.pivot).toBe(0)
  })

  test('a refused pivot leads to compensation; one of which nothing is known parks', () => {
    const saga = new Driven(program).start().answer(1, done).answer(2, refused)
    expect(saga.last.effects).toEqual([call(1, 'compensation')])
    expect(saga.state.pivot).toBe(0)
    const unclear = new Driven(program).start().answer(1, done)
    for (let attempts = 0; attempts < 3; attempts++)
      unclear.answer(2, unknown).do({ type: 'dispatchStep', n: 2, operation: 'action' })
    expect(unclear.action(2)).toMatchObject({ status: 'parked', isUncertain: true })
    unclear.do({ type: 'cancelSaga', reason: 'no more' })
    expect(unclear.last.refused?.code).toBe('pastPivot')
    unclear.do({ type: 'compensateExecution', executionId: 'e1.2' })
    expect(unclear.last.effects).toEqual([call(1, 'compensation')])
  })

  test('a pivot that is skipped counts as done: from it the saga only goes forward', () => {
    const routeOf = ({ policy: { step: name } }: { policy: { step: string } }) =>
      name === 'pivot' ? undefined : { databaseId: 'db1' }
    const saga = new Driven(program, { routeOf }).start().answer(1, done)
    saga.pass(saga.moment.limits.lastDispatchMsMax).do({ type: 'stepDeadlineDue', n: 2 })
    saga.do({ type: 'skipExecution', executionId: 'e1.2' })
    expect(saga.last.effects).toEqual([call(3)])
    saga.do({ type: 'cancelSaga', reason: 'no more' })
    expect(saga.last.refused?.code).toBe('pastPivot')
  })

  test('without a barrier, a refusal of the pivot that overtakes an unanswered attempt parks it', () => {
    const saga = new Driven(program, noBarrier).start().answer(1, done).answer(2, unknown)
    saga.do({ type: 'dispatchStep', n: 2, operation: 'action' }).answer(2, refused)
    expect(saga.action(2)).toMatchObject({ status: 'parked', isUncertain: true })
    expect(saga.state.pivot).toBe(2)
  })

  test('after the pivot a step that gives up parks, and only goes forward', () => {
    const saga = new Driven(program).start().answer(1, done).answer(2, done).answer(3, refused)
    expect(saga.action(3)).toMatchObject({ status: 'parked', error: 'refused: it refused' })
    saga.do({ type: 'compensateExecution', executionId: 'e1.3' })
    expect(saga.last.refused?.code).toBe('pastPivot')
    saga.do({ type: 'retryExecution', executionId: 'e1.3', acceptPossibleDuplicate: false }).answer(3, done)
    expect(statusOf(saga)).toBe('completed')
  })

  test('where the flow fails after the pivot, the step that led there parks', () => {
    const policies = [pivot, a]
    const saga = new Driven(fakeProgram({ flow: seq(step('pivot'), step('a')), policies })).start()
    saga.answer(1, done).answer(2, refused)
    expect(saga.action(2)).toMatchObject({ status: 'parked', error: 'failed after the pivot: a step failed' })
    saga.do({ type: 'retryExecution', executionId: 'e1.2', acceptPossibleDuplicate: false }).answer(2, done)
    expect(statusOf(saga)).toBe('completed')
  })

  test("the saga's own deadline is the wall clock's, and undoes", () => {
    const saga = new Driven(program).start({ deadlineAtMs: WALL_MS + 100 })
    expect(outstandingOfSaga(saga.image!)).toContainEqual({
      what: 'deadline',
      clock: 'wall',
      atMs: WALL_MS + 100,
    })
    saga.do({ type: 'deadlineDue' })
    expect(saga.last).toEqual({ effects: [] })
    saga.pass(100).do({ type: 'deadlineDue' })
    expect(saga.state).toMatchObject({ phase: 'compensating', reason: 'timed out' })
  })
})
