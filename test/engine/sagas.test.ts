import { describe, expect, test } from 'vitest'
import type { StepRequest } from '../../src/core/api.ts'
import { answerOf, doneWith } from './fake-step-outlet.ts'
import {
  bytes,
  endOf,
  executionOf,
  executionsOf,
  line,
  openSagas,
  parsed,
  quick,
  restartWith,
  sagaOf,
  saying,
  startSaga,
  undoable,
  view,
} from './saga-world.ts'
import { failing, gate } from './world.ts'

const refused = answerOf('refused', { code: 'declined', error: 'no' })
const failed = answerOf('failed', { code: 'busy', error: 'not now' })

describe('forward', () => {
  test('I1: a saga is completed in order, and each call leaves when its record is durable', async () => {
    const world = await openSagas([sagaOf(line(['a', 'b', 'c']))])
    const events: string[] = []
    world.hook = async ({ method, moment }) => {
      if (method === 'append') events.push(`${moment} append`)
      if (method === 'append') await new Promise<void>((resolve) => world.clock.setTimer(resolve, 5))
    }
    world.steps.take = ({ step }) => {
      events.push(step)
      return doneWith(step)
    }
    const id = await startSaga(world)
    const end = await endOf(world, id)
    expect(end.status).toBe('completed')
    expect(executionsOf(end)).toEqual(['a done', 'b done', 'c done'])
    const durable = ['before append', 'after append']
    expect(events).toEqual([...durable, 'a', ...durable, 'b', ...durable, 'c', ...durable])
  })

  test('I1: nothing leaves while the store takes nothing', async () => {
    const world = await openSagas([sagaOf(line(['a', 'b']))])
    let isAway = true
    world.hook = failing('append', 'before', () => isAway)
    const asked = world.ask('startSaga', { saga: 'order' })
    await world.clock.advance(3_000)
    expect([asked.count, world.steps.names]).toEqual([0, []])
    isAway = false
    await world.clock.until(() => world.steps.calls.length === 2)
    expect(asked.response?.status).toBe('running')
  })

  test('I2: an answer tells of nothing that is not durable', async () => {
    const world = await openSagas([sagaOf(line(['a']))])
    const answer = Promise.withResolvers<ReturnType<typeof answerOf>>()
    world.steps.take = () => answer.promise
    const id = await startSaga(world)
    await world.clock.advance(100)
    const { hook, open } = gate('append')
    world.hook = hook
    answer.resolve(answerOf('done'))
    await world.clock.advance(100)
    const asked = world.ask('get', { id })
    await world.clock.advance(1_000)
    expect(asked.count, 'the answer to its step is decided, and not durable').toBe(0)
    open()
    await world.clock.until(() => asked.count > 0)
    expect(asked.response?.status).toBe('completed')
  })

  test('a step is called with what its mapping makes of the input and of results, and the output is kept', async () => {
    const saga = sagaOf(
      ({ step }) => [
        step('a', { action: 'shop/a', compensation: true }),
        step('b', { action: 'shop/b', readOnly: true, input: ({ results }) => ({ a: results('a') }) }),
      ],
      { output: () => ({ fine: true }) },
    )
    const world = await openSagas([saga])
    world.steps.take = ({ step }) => doneWith(`${step}!`)
    const id = await startSaga(world, { input: bytes({ order: 1 }) })
    const end = await endOf(world, id)
    expect(parsed(end.saga?.output)).toEqual({ fine: true })
    expect(world.steps.calls.map(({ request }) => JSON.parse(request.input))).toEqual([
      { order: 1 },
      { a: 'a!' },
    ])
    expect(world.steps.calls[0]?.request).toMatchObject({
      namespace: 'default',
      transactionId: id,
      executionId: `${end.executionId}.1`,
      attempt: 1,
      service: 'shop',
      saga: 'order',
      timeoutMs: 30_000,
    })
  })

  test('steps of parallel branches are under way at once', async () => {
    const world = await openSagas([
      sagaOf((all) => [all.parallel(undoable(all, 'a'), undoable(all, 'b')), undoable(all, 'c')]),
    ])
    const answers: ((answer: ReturnType<typeof answerOf>) => void)[] = []
    world.steps.take = () => new Promise((resolve) => answers.push(resolve))
    const id = await startSaga(world)
    await world.clock.advance(100)
    expect(world.steps.names).toEqual(['a', 'b'])
    answers[1]?.(answerOf('done'))
    await world.clock.advance(100)
    expect(world.steps.names).toEqual(['a', 'b'])
    answers[0]?.(answerOf('done'))
    await world.clock.advance(100)
    answers[2]?.(answerOf('done'))
    expect((await endOf(world, id)).status).toBe('completed')
    expect(world.steps.names).toEqual(['a', 'b', 'c'])
  })

  test('a message is sent through the outlet, tried until it is taken, at the database that it went to first', async () => {
    const saga = sagaOf(({ pivot, send }) => [
      pivot('confirm', { action: 'shop/confirm' }),
      send('tell', { to: 'shop/receive', body: () => ({ told: true }), ...quick }),
    ])
    const world = await openSagas([saga])
    world.participants.comes('shop/receive', 'one')
    let left = 2
    world.participants.deliver = () => {
      if (left === 2) world.participants.handlers.set('shop/receive', 'two')
      return { outcome: left-- > 0 ? 'failed' : 'delivered', error: '' }
    }
    const id = await startSaga(world, { id: '{k}1', orderingKey: 'k' })
    await world.clock.advance(5_000)
    expect(world.participants.deliveries.length, 'another database is not asked').toBe(1)
    world.participants.comes('shop/receive', 'one')
    expect((await endOf(world, id)).status).toBe('completed')
    const end = await view(world, id)
    expect(world.participants.deliveries.map(({ request }) => request.attempt)).toEqual([1, 2, 3])
    expect(world.participants.bodies('shop/receive')[0]).toBe('{"told":true}')
    expect(world.participants.deliveries[0]?.request).toMatchObject({
      executionId: executionOf(end, 'tell'),
      key: 'k',
      contentType: 'application/json',
    })
  })

  test('a routing slip is driven like any saga', async () => {
    const world = await openSagas([sagaOf(line(['a', 'b', 'c']))])
    const slip = {
      steps: [
        { name: 'one', action: 'shop/a', compensation: true },
        { parallel: [{ name: 'two', action: 'shop/b', compensation: 'shop/c' }] },
        { name: 'three', action: 'shop/c', pivot: true },
      ],
    }
    world.steps.take = saying({ c: () => refused })
    const { id } = await world.call('startSaga', { saga: '', slip: bytes(slip), input: bytes(7) })
    const end = await endOf(world, id)
    expect(end.status).toBe('compensated')
    expect(end.saga).toMatchObject({ name: '', version: 1 })
    expect(world.steps.names).toEqual(['a', 'b', 'c', '-c', '-a'])
    expect(world.steps.calls[0]?.request.input).toBe('7')
  })
})

describe('back', () => {
  test('a refused step has what was done undone in reverse, with its input and its result', async () => {
    const world = await openSagas([sagaOf(line(['a', 'b', 'c']))])
    world.steps.take = saying({ a: () => doneWith('A'), c: () => refused })
    const id = await startSaga(world, { input: bytes(1) })
    const end = await endOf(world, id)
    expect(end).toMatchObject({ status: 'compensated' })
    expect(end.saga?.error).toContain('declined')
    expect(executionsOf(end)).toEqual(['a done done', 'b done done', 'c failed'])
    expect(world.steps.names).toEqual(['a', 'b', 'c', '-b', '-a'])
    const undo = world.steps.calls.at(-1)?.request as StepRequest
    expect([undo.input, undo.result, undo.isActionDone]).toEqual(['1', '"A"', true])
    expect(undo.executionId).toBe(world.steps.calls[0]?.request.executionId)
  })

  test('a step that fails is tried again with pauses, then it has failed', async () => {
    const world = await openSagas([sagaOf(line(['a', 'b'], quick))])
    world.steps.take = saying({ b: () => failed })
    const end = await endOf(world, await startSaga(world))
    expect(end.status).toBe('compensated')
    const tries = world.steps.calls.filter(({ request }) => request.step === 'b')
    expect(tries.map(({ request }) => request.attempt)).toEqual([1, 2, 3])
    const [first, second, third] = tries.map(({ atMs }) => atMs) as [number, number, number]
    expect(second - first).toBeLessThanOrEqual(100 + 40)
    expect(third - second).toBeLessThanOrEqual(200 + 40)
    expect(third - first, 'there are pauses').toBeGreaterThan(20)
    expect(world.steps.names.at(-1)).toBe('-a')
  })

  test('an error that is not retryable ends the step at once', async () => {
    const world = await openSagas([sagaOf(line(['a', 'b'], { ...quick, nonRetryable: ['busy'] }))])
    world.steps.take = saying({ b: () => failed })
    await endOf(world, await startSaga(world))
    expect(world.steps.names).toEqual(['a', 'b', '-a'])
  })

  test('a silent participant: attempts time out, then its step is undone by the barrier', async () => {
    const world = await openSagas([sagaOf(line(['a', 'b'], quick))], { databaseId: 'db' })
    world.steps.take = saying({ b: () => 'silence' })
    const startedAtMs = world.clock.now()
    const end = await endOf(world, await startSaga(world))
    expect(end.status).toBe('compensated')
    expect(world.steps.names).toEqual(['a', 'b', 'b', 'b', '-b', '-a'])
    expect(world.clock.now() - startedAtMs).toBeGreaterThan(3_000)
    const undo = world.steps.calls[4]?.request
    expect([undo?.isActionDone, undo?.result]).toEqual([false, ''])
  })

  test('a silent participant without a barrier: nobody knows, so an operator is asked', async () => {
    const world = await openSagas([sagaOf(line(['a', 'b'], quick))])
    world.steps.take = saying({ b: () => 'silence' })
    const id = await startSaga(world)
    const end = await endOf(world, id)
    expect([end.status, ...executionsOf(end)]).toEqual(['parked', 'a done', 'b failed parked'])
    await world.call('compensate', { id, executionId: executionOf(end, 'b') })
    expect((await endOf(world, id)).status).toBe('compensated')
    expect(world.steps.names.slice(-2)).toEqual(['-b', '-a'])
  })

  test("a step's time-out counts all attempts, and the wait for somebody to take it", async () => {
    const world = await openSagas([sagaOf(line(['a', 'b'], { ...quick, stepTimeoutMs: 20_000 }))])
    world.steps.steps.delete('shop/b')
    const startedAtMs = world.clock.now()
    const id = await startSaga(world)
    await world.clock.advance(19_000)
    expect((await view(world, id)).status).toBe('running')
    const end = await endOf(world, id)
    expect(end.status).toBe('compensated')
    expect(world.steps.names).toEqual(['a', '-a'])
    expect(world.clock.now() - startedAtMs).toBeLessThan(21_000)
    world.steps.comes('shop/b')
    await world.clock.advance(5_000)
    expect(world.steps.names, 'what nobody took in time is not called later').toEqual(['a', '-a'])
  })

  test.each([0, 3_000])(
    "the saga's own time-out has it undone, also after an outage of %s ms",
    async (outageMs) => {
      const saga = sagaOf(line(['a', 'b']), { timeoutMs: 60_000 })
      const world = await openSagas([saga])
      world.steps.steps.delete('shop/b')
      const id = await startSaga(world)
      await world.clock.advance(10_000)
      await restartWith(world, [saga], outageMs)
      await world.clock.advance(49_000 - outageMs)
      expect((await view(world, id)).status).toBe('running')
      await world.clock.advance(2_000)
      expect((await view(world, id)).status).toBe('compensated')
      expect(world.steps.names).toEqual(['a', '-a'])
    },
  )

  test('a compensation that fails for good parks, and its saga is compensated once it is tried again', async () => {
    const world = await openSagas([sagaOf(line(['a', 'b', 'c'], quick))])
    let isBroken = true
    world.steps.take = saying({ c: () => refused, '-b': () => (isBroken ? failed : answerOf('done')) })
    const id = await startSaga(world)
    const parked = await endOf(world, id)
    expect([parked.status, ...executionsOf(parked)]).toEqual([
      'parked',
      'a done',
      'b done parked',
      'c failed',
    ])
    expect(world.steps.names).toEqual(['a', 'b', 'c', '-b', '-b', '-b'])
    isBroken = false
    await world.call('retry', { id, executionId: executionOf(parked, 'b') })
    expect((await endOf(world, id)).status).toBe('compensated')
    expect(world.steps.names.slice(-2)).toEqual(['-b', '-a'])
  })

  test('branches are undone each for themselves', async () => {
    const world = await openSagas([
      sagaOf((all) => [
        all.parallel([undoable(all, 'a'), undoable(all, 'b')], [undoable(all, 'c')]),
        undoable(all, 'd', quick),
      ]),
    ])
    const stuck = Promise.withResolvers<ReturnType<typeof answerOf>>()
    world.steps.take = saying({ d: () => refused, '-b': () => stuck.promise })
    const id = await startSaga(world)
    await world.clock.advance(1_000)
    expect(world.steps.names.slice(4).toSorted()).toEqual(['-b', '-c'])
    stuck.resolve(answerOf('done'))
    expect((await endOf(world, id)).status).toBe('compensated')
    expect(world.steps.names.at(-1)).toBe('-a')
  })
})

describe('cancel', () => {
  const flow = sagaOf((all) => [
    undoable(all, 'a', quick),
    all.pivot('p', { action: 'shop/p', ...quick }),
    all.step('z', { action: 'shop/z', ...quick }),
  ])

  test('before the pivot: what is in flight is awaited, then all is undone; again is the same', async () => {
    const world = await openSagas([flow])
    const answer = Promise.withResolvers<ReturnType<typeof answerOf>>()
    world.steps.take = saying({ a: () => answer.promise })
    const id = await startSaga(world)
    await world.clock.advance(100)
    expect(await world.call('cancel', { id, reason: 'changed my mind' })).toEqual({ status: 'compensating' })
    await world.clock.advance(100)
    expect(world.steps.names).toEqual(['a'])
    answer.resolve(answerOf('done'))
    const end = await endOf(world, id)
    expect([end.status, end.reason, world.steps.names]).toEqual([
      'compensated',
      'cancelled: changed my mind',
      ['a', '-a'],
    ])
    expect(await world.call('cancel', { id })).toEqual({ status: 'compensated' })
  })

  test('from the dispatch of the pivot on it is refused, until the pivot is refused', async () => {
    const world = await openSagas([flow])
    const answer = Promise.withResolvers<ReturnType<typeof answerOf>>()
    world.steps.take = saying({ p: () => answer.promise })
    const id = await startSaga(world)
    await world.clock.advance(100)
    expect(await world.codeOf('cancel', { id })).toBe('pastPivot')
    answer.resolve(refused)
    expect((await endOf(world, id)).status).toBe('compensated')
    expect(world.steps.names).toEqual(['a', 'p', '-a'])
  })

  test('what completed is not cancelled', async () => {
    const world = await openSagas([flow])
    const id = await startSaga(world)
    await endOf(world, id)
    expect(await world.codeOf('cancel', { id })).toBe('alreadyEnded')
  })

  test('one whose call waits for somebody is over at once, and nobody is called when he comes', async () => {
    const world = await openSagas([flow])
    world.steps.steps.delete('shop/a')
    const id = await startSaga(world)
    await world.clock.advance(100)
    await world.call('cancel', { id })
    expect((await endOf(world, id, 1_000)).status).toBe('compensated')
    world.steps.comes('shop/a')
    await world.clock.advance(2_000)
    expect(world.steps.names).toEqual([])
  })
})

describe('signals, completions, operators', () => {
  const waiting = sagaOf(
    (all) => [
      undoable(all, 'a'),
      all.waitFor('paid', { timeoutMs: 3_600_000, onTimeout: 'fail' }),
      all.step('b', {
        action: 'shop/b',
        readOnly: true,
        input: ({ results }) => results('wait-paid-1') ?? 'none',
      }),
    ],
    { signals: ['paid', 'other'] },
  )

  test('a signal goes to whom waits for it; one that came early is kept', async () => {
    const world = await openSagas([waiting])
    const late = await startSaga(world)
    await world.clock.advance(100)
    expect(await world.call('signal', { id: late, signal: 'other' })).toEqual({ status: 'running' })
    expect((await view(world, late)).saga?.signals).toEqual(['other'])
    await world.call('signal', { id: late, signal: 'paid', payload: bytes(5), signalId: 's1' })
    expect((await endOf(world, late)).status).toBe('completed')
    expect(await world.codeOf('signal', { id: late, signal: 'paid' })).toBe('alreadyEnded')
    world.steps.steps.delete('shop/a')
    const early = await startSaga(world)
    await world.call('signal', { id: early, signal: 'paid', payload: bytes(6) })
    world.steps.comes('shop/a')
    expect((await endOf(world, early)).status).toBe('completed')
  })

  test('a wait whose deadline passes fails, across restarts', async () => {
    const world = await openSagas([waiting])
    const id = await startSaga(world)
    await world.clock.advance(10_000)
    await restartWith(world, [waiting])
    await world.clock.advance(3_500_000)
    expect((await view(world, id)).status).toBe('running')
    await world.clock.advance(120_000)
    expect((await view(world, id)).status).toBe('compensated')
    expect(world.steps.names).toEqual(['a', '-a'])
  })

  test('a step that answers later is completed by its execution id, in memory or not', async () => {
    const world = await openSagas([sagaOf(line(['a', 'b']))])
    world.steps.take = saying({ a: () => answerOf('later') })
    const ids = [await startSaga(world), await startSaga(world)] as const
    await world.clock.advance(60_000)
    expect(world.steps.names, 'it is not called again').toEqual(['a', 'a'])
    const saga = await view(world, ids[0])
    const executionId = executionOf(saga, 'a')
    const complete = { id: ids[0], executionId, response: doneWith('in the end') }
    expect(await world.call('complete', complete)).toEqual({ status: 'running' })
    expect((await endOf(world, ids[0])).status).toBe('completed')
    expect(await world.call('complete', complete), 'twice is once').toEqual({ status: 'completed' })
    expect(await world.codeOf('complete', { ...complete, executionId: `${saga.executionId}.9` })).toBe(
      'unknownExecution',
    )
    expect(await world.codeOf('complete', { ...complete, response: answerOf('later') })).toBe(
      'invalidArgument',
    )
    expect(await world.codeOf('complete', { ...complete, attempt: -1 })).toBe('invalidArgument')
    const other = executionOf(await view(world, ids[1]), 'a')
    const stale = { id: ids[1], executionId: other, attempt: 2, response: answerOf('failed') }
    expect(await world.call('complete', stale), 'of no attempt that was made').toEqual({ status: 'running' })
    expect((await view(world, ids[1])).saga?.executions[0]).toMatchObject({ attempts: 0 })
    await world.call('complete', { id: ids[1], executionId: other, response: refused })
    expect((await endOf(world, ids[1])).status).toBe('compensated')
  })

  const forward = sagaOf((all) => [
    undoable(all, 'a', quick),
    all.pivot('p', { action: 'shop/p', ...quick }),
    all.step('z', { action: 'shop/z', ...quick, retry: { ...quick.retry, attemptsMax: 2 } }),
  ])

  test.each(['retry', 'skip'] as const)('a step that parks behind the pivot goes on by %s', async (op) => {
    const world = await openSagas([forward])
    let isBroken = true
    world.steps.take = saying({ z: () => (isBroken ? failed : answerOf('done')) })
    const id = await startSaga(world)
    const parked = await endOf(world, id)
    expect([parked.status, ...executionsOf(parked)]).toEqual(['parked', 'a done', 'p done', 'z parked'])
    expect(await world.codeOf('compensate', { id, executionId: executionOf(parked, 'z') })).toBe('pastPivot')
    isBroken = false
    await world.call(op, { id, executionId: executionOf(parked, 'z') })
    const end = await endOf(world, id)
    expect([end.status, world.steps.names.filter((name) => name === 'z').length]).toEqual([
      'completed',
      op === 'retry' ? 3 : 2,
    ])
  })

  test('a pivot that parks is compensated by the word of an operator', async () => {
    const world = await openSagas([forward])
    world.steps.take = saying({ p: () => failed })
    const id = await startSaga(world)
    const parked = await endOf(world, id)
    expect(executionsOf(parked)).toEqual(['a done', 'p parked'])
    await world.call('compensate', { id, executionId: executionOf(parked, 'p') })
    expect((await endOf(world, id)).status).toBe('compensated')
    expect(world.steps.names.at(-1)).toBe('-a')
  })

  test('a mapping that throws parks its saga and nothing else; retry goes on with the same event', async () => {
    let isBroken = true
    const world = await openSagas([
      sagaOf((all) => [
        undoable(all, 'a'),
        all.step('b', {
          action: 'shop/b',
          readOnly: true,
          input: ({ input }) => {
            if (isBroken && input === 'bad') throw new Error('no such thing')
            return 1
          },
        }),
      ]),
    ])
    const bad = await startSaga(world, { input: bytes('bad') })
    const good = await startSaga(world, { input: bytes('good') })
    expect((await endOf(world, good)).status).toBe('completed')
    const parked = await endOf(world, bad)
    expect([parked.status, parked.reason]).toEqual(['parked', expect.stringContaining('no such thing')])
    expect(parked.reason, 'with its stack').toContain('sagas.test.ts')
    isBroken = false
    await world.call('retry', { id: bad, executionId: parked.executionId })
    expect((await endOf(world, bad)).status).toBe('completed')
    expect(world.steps.names.filter((name) => name === 'a').length, 'a was not done again').toBe(2)
    expect(world.coordinator.engine.health().state).toBe('ready')
  })
})
