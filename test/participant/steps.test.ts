/** Steps as a service runs them, and the sagas that it asks for. */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { StepRequest, StepResponse } from '../../src/core/api.ts'
import { NO_TRACE } from '../../src/core/envelope.ts'
import { EscrowError } from '../../src/core/errors.ts'
import { SAGA_LIMIT_RANGES } from '../../src/core/saga/decision.ts'
import type { StandardSchema } from '../../src/core/saga/schema.ts'
import { later } from '../../src/participant/later.ts'
import { type ParticipantOptions, participant } from '../../src/participant/participant.ts'
import { Refusal, refuse } from '../../src/participant/refusal.ts'
import type { Handlers } from '../../src/participant/serving.ts'
import type { Session } from '../../src/participant/session.ts'
import { defineStep, type StepCall } from '../../src/participant/step.ts'
import { failure, until } from './barrier-world.ts'
import { FakeCoordinator, type Reach, reachByGrpc } from './fake-coordinator.ts'

let coordinator: FakeCoordinator
let reach: Reach
let session: Session
let calls = 0

beforeEach(async () => {
  coordinator = new FakeCoordinator()
  reach = await reachByGrpc(coordinator)
  calls = 0
})

afterEach(async () => {
  await session?.close()
  await reach.close()
})

async function serve(
  handlers: Handlers,
  { stepsMax, ...options }: ParticipantOptions & { stepsMax?: number } = {},
): Promise<void> {
  session = await participant('inventory', handlers, options).connect(reach.open, {
    closeTimeoutMs: 0,
    stepsMax,
  })
}

const json = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value))

async function call(step: string, more: Partial<StepRequest> = {}): Promise<StepResponse> {
  const callId = ++calls
  const request: StepRequest = {
    namespace: 'default',
    transactionId: 'order-17',
    executionId: 'x.1',
    attempt: 1,
    service: 'inventory',
    step,
    operation: 'action',
    input: JSON.stringify({ sku: 'ä' }),
    result: '',
    isActionDone: false,
    saga: 'place-order',
    trace: NO_TRACE,
    timeoutMs: 10_000,
    ...more,
  }
  coordinator.last.stream.send({ type: 'step', callId, request })
  const find = () =>
    coordinator.last.items.find((item) => item.type === 'stepAnswer' && item.callId === callId)
  const { response } = (await until(find)) as { response: StepResponse }
  return response.result === undefined ? response : { ...response, result: Buffer.from(response.result) }
}

const answer = (outcome: StepResponse['outcome'], more: Partial<StepResponse> = {}): StepResponse => ({
  outcome,
  result: undefined,
  code: '',
  error: '',
  ...more,
})

describe('a step', () => {
  test('is registered beside handlers, and its functions are given what the call carries', async () => {
    const seen: unknown[] = []
    await serve({
      take: () => {},
      reserve: {
        action: (input, given: StepCall) => {
          seen.push(input, given.operation, given.executionId, given.attempt, given.transactionId, given.saga)
          return { seat: 12 }
        },
        compensation: (input, result, given: StepCall) => {
          seen.push(input, result, given.operation, given.isActionDone)
        },
      },
    })
    const registered = coordinator.last.items.filter((item) => item.type === 'register')
    expect(registered).toMatchObject([{ registration: { handlers: ['take'], steps: ['reserve'] } }])
    expect(await call('reserve')).toEqual(answer('done', { result: json({ seat: 12 }) }))
    const undo = { operation: 'compensation', result: '{"seat":12}', isActionDone: true } as const
    expect(await call('reserve', undo)).toEqual(answer('done'))
    expect(await call('reserve', { operation: 'compensation', input: '' })).toEqual(answer('done'))
    expect(seen).toEqual([
      ...[{ sku: 'ä' }, 'action', 'x.1', 1, 'order-17', 'place-order'],
      ...[{ sku: 'ä' }, { seat: 12 }, 'compensation', true],
      ...[undefined, undefined, 'compensation', false],
    ])
  })

  test('is refused, failed or unknown by what it throws, with the code that is a word', async () => {
    const throws = (error: unknown) => ({
      action: () => Promise.reject(error),
      compensation: () => Promise.reject(error),
    })
    await serve({
      'sold-out': throws(refuse('no such article', 'soldOut')),
      busy: throws(Object.assign(new Error('try later'), { code: 'E_BUSY' })),
      odd: throws(Object.create(null)),
      'odd-code': throws({ code: 'no word at all!' }),
      'lost-commit': throws(new EscrowError('uncertain', 'lost at COMMIT')),
      'turned-away': throws(new EscrowError('barrierRefused', 'compensated before')),
      // Of the message that it sends, not of the step.
      'message-rolled-back': throws(
        new EscrowError('barrierRefused', 'settled before', { details: { operation: 'local' } }),
      ),
    })
    const why = { code: 'soldOut', error: 'no such article' }
    expect(await call('sold-out')).toEqual(answer('refused', why))
    expect(await call('sold-out', { operation: 'compensation' })).toEqual(answer('refused', why))
    expect(await call('busy')).toEqual(answer('failed', { code: 'E_BUSY', error: 'try later' }))
    expect(await call('odd')).toMatchObject({ outcome: 'failed', code: '' })
    expect(await call('odd-code')).toMatchObject({ outcome: 'failed', code: '' })
    expect(await call('lost-commit')).toMatchObject({ outcome: 'unknown', code: 'uncertain' })
    expect(await call('turned-away')).toMatchObject({ outcome: 'refused', code: 'barrierRefused' })
    expect(await call('message-rolled-back')).toMatchObject({ outcome: 'failed', code: 'barrierRefused' })
    // Of a compensation that would be nonsense: it is tried again.
    expect(await call('turned-away', { operation: 'compensation' })).toMatchObject({ outcome: 'failed' })
  })

  test('that is not there, or has no such operation, or is given no JSON, has failed', async () => {
    await serve({ reserve: { action: () => {} }, release: { compensation: () => {} } })
    expect(await call('nobody')).toMatchObject({ outcome: 'failed', code: 'unknownStep' })
    expect(await call('reserve', { operation: 'compensation' })).toMatchObject({ outcome: 'failed' })
    expect(await call('release')).toMatchObject({ outcome: 'failed', code: 'unsupported' })
    const undo = { operation: 'compensation', input: '{' } as const
    expect(await call('release', undo)).toMatchObject({ outcome: 'failed', code: 'malformed' })
  })

  test('goes on later when it says so, and its outcome is told by its ids', async () => {
    await serve({
      symbol: { action: () => later },
      call: { action: (_, given: StepCall) => given.later() },
      'call-only': {
        action: (_, given: StepCall) => {
          given.later()
          return 'not the result'
        },
        compensation: () => later,
      },
    })
    for (const step of ['symbol', 'call', 'call-only']) expect(await call(step)).toEqual(answer('later'))
    expect(await call('call-only', { operation: 'compensation' })).toEqual(answer('later'))
    coordinator.answer = () => ({ complete: { status: 'running' } })
    const ref = { id: 'order-17', executionId: 'x.1' }
    await session.complete({ ...ref, response: { outcome: 'done', result: { seat: 12 } } })
    await session.complete({
      ...ref,
      response: { outcome: 'refused', code: 'soldOut', error: 'x'.repeat(2000) },
    })
    expect(coordinator.last.commands.map(({ request }) => request)).toMatchObject([
      { ...ref, response: { outcome: 'done', result: json({ seat: 12 }), code: '', error: '' } },
      {
        ...ref,
        response: { outcome: 'refused', result: undefined, code: 'soldOut', error: 'x'.repeat(1024) },
      },
    ])
    const wrong = session.complete({ ...ref, response: { outcome: 'unknown' as never } })
    expect((await failure(wrong)).code).toBe('invalidArgument')
  })

  test('that hangs is unknown when its time has passed, its signal is aborted, and its late result is dropped', async () => {
    const seen: StepCall[] = []
    let end = () => {}
    await serve({
      hang: {
        action: (_, given: StepCall) => {
          seen.push(given)
          given.signal.addEventListener('abort', () => end())
          return new Promise<void>((resolve) => (end = resolve))
        },
      },
    })
    expect(await call('hang', { timeoutMs: 30 })).toEqual(
      answer('unknown', { error: 'the step did not answer within 30 ms' }),
    )
    expect(seen[0]?.signal.aborted).toBe(true)
    expect(await call('hang', { timeoutMs: 30 })).toMatchObject({ outcome: 'unknown' })
    expect(coordinator.last.items.filter(({ type }) => type === 'stepAnswer').length).toBe(2)
  })

  test('runs no more often at once than the window that was told', async () => {
    const ends: (() => void)[] = []
    await serve(
      { slow: { action: () => new Promise<void>((resolve) => ends.push(resolve)) } },
      { stepsMax: 1 },
    )
    expect(coordinator.last.hello.stepsMax).toBe(1)
    const first = call('slow')
    await until(() => ends.length === 1)
    expect(await call('slow')).toMatchObject({ outcome: 'failed', code: 'overloaded' })
    ends[0]?.()
    expect(await first).toEqual(answer('done'))
  })

  test('whose result JSON cannot hold, or is over its bound, has failed', async () => {
    const results: unknown[] = [10n, 'x'.repeat(SAGA_LIMIT_RANGES.payloadBytesMax[1]), undefined, null]
    await serve({ give: { action: () => results.shift() } })
    expect(await call('give')).toMatchObject({ outcome: 'failed', code: 'invalidArgument' })
    expect(await call('give')).toMatchObject({ outcome: 'failed', code: 'tooLarge' })
    expect(await call('give')).toEqual(answer('done'))
    expect(await call('give')).toEqual(answer('done', { result: json(null) }))
  })

  test('whose input does not fit its validator is refused and not run; a result that does not fit has failed', async () => {
    const count: StandardSchema<unknown, number> = {
      '~standard': {
        version: 1,
        vendor: 'test',
        validate: (value) =>
          typeof value === 'number'
            ? { value: value * 2 }
            : { issues: [{ message: 'no number', path: ['n'] }] },
      },
    }
    const given: unknown[] = []
    const take = defineStep(
      { input: count, result: count },
      {
        action: (input, { attempt }) => {
          given.push(input)
          return attempt === 1 ? input : ('many' as never)
        },
        compensation: (input) => given.push(input),
      },
    )
    await serve({ take })
    expect(await call('take', { input: '"one"' })).toEqual(
      answer('refused', {
        code: 'invalidArgument',
        error: 'the input does not fit its schema: n: no number',
      }),
    )
    // What the validator makes of the input is what the action gets; of the result only whether it fits counts.
    expect(await call('take', { input: '3' })).toEqual(answer('done', { result: json(6) }))
    expect(await call('take', { input: '3', attempt: 2 })).toMatchObject({ outcome: 'failed' })
    const undo = { operation: 'compensation', input: '"one"' } as const
    expect(await call('take', undo)).toMatchObject({ outcome: 'failed', code: 'invalidArgument' })
    expect(given).toEqual([6, 6])
  })

  test('with a barrier is refused only once that stands there, or gives what stood there before', async () => {
    const kept: string[] = []
    const earlier = new Map<string, unknown>([
      ['done', { seat: 12 }],
      ['later', later],
    ])
    const barrier = {
      databaseId: 'd1',
      refuse: async (given: StepCall, refusal: Refusal) => {
        kept.push(`${given.executionId} ${refusal.message}`)
        if (given.executionId === 'lost') throw new EscrowError('uncertain', 'lost at COMMIT')
        if (earlier.has(given.executionId)) return earlier.get(given.executionId)
        throw given.executionId === 'other' ? new Refusal('the first reason', 'first') : refusal
      },
    }
    const refuses = () => Promise.reject(refuse('sold out', 'soldOut'))
    await serve({ reserve: { action: refuses, compensation: refuses } }, { barrier })
    const at = (executionId: string) => call('reserve', { executionId })
    expect(await at('new')).toEqual(answer('refused', { code: 'soldOut', error: 'sold out' }))
    expect(await at('other')).toEqual(answer('refused', { code: 'first', error: 'the first reason' }))
    expect(await at('done')).toEqual(answer('done', { result: json({ seat: 12 }) }))
    expect(await at('later')).toEqual(answer('later'))
    expect(await at('lost')).toMatchObject({ outcome: 'unknown' })
    expect(kept).toEqual(['new', 'other', 'done', 'later', 'lost'].map((id) => `${id} sold out`))
    expect(await call('reserve', { operation: 'compensation' })).toMatchObject({ outcome: 'refused' })
    expect(kept).toHaveLength(5)
  })

  test('that is none is refused before anything is registered', async () => {
    const connected = (handlers: unknown) =>
      failure(participant('inventory', handlers as Handlers).connect(reach.open))
    for (const handlers of [
      { reserve: {} },
      { reserve: null },
      { reserve: { action: 'no' } },
      { reserve: { action: () => {}, compensation: 1 } },
      { reserve: { action: () => {}, input: { parse: () => 1 } } },
      { 'Not A Name': { action: () => {} } },
    ]) {
      expect((await connected(handlers)).code).toBe('invalidArgument')
    }
    await serve({ reserve: { action: () => {} } })
    const again = session.registerHandlers({ reserve: { action: () => {} } })
    expect((await failure(again)).code).toBe('invalidArgument')
  })
})

describe('a session', () => {
  const placeOrder: {
    name: string
    version: number
    types?: (input: { sku: string }) => { seat: number }
  } = { name: 'place-order', version: 3 }

  beforeEach(() => serve({}))

  test('starts sagas under ids of its own, with values where the wire has JSON', async () => {
    coordinator.answer = () => ({
      startSaga: { id: 'i', executionId: 'x', status: 'running', version: 3 },
    })
    expect(await session.startSaga({ saga: placeOrder, input: { sku: 'A-1' } })).toMatchObject({ version: 3 })
    await session.startSaga({
      saga: 'place-order',
      id: 'mine',
      input: Buffer.from('"text"'),
      businessKey: 'b',
    })
    await session.startSaga({ slip: { steps: [] }, orderingKey: 'customer 7' })
    const [first, second, third] = coordinator.last.commands.map(({ request }) => request)
    expect(first).toMatchObject({ saga: 'place-order', version: 3, input: json({ sku: 'A-1' }) })
    expect((first as { id: string }).id).toContain(coordinator.last.id)
    expect(second).toMatchObject({ id: 'mine', version: undefined, input: json('text'), businessKey: 'b' })
    expect(third).toMatchObject({ saga: '', slip: json({ steps: [] }) })
    expect((third as { id: string }).id).toMatch(/^\{customer%207\}/)
    const loop: { self?: unknown } = {}
    loop.self = loop
    expect((await failure(session.startSaga({ saga: 's', input: loop }))).code).toBe('invalidArgument')
    expect((await failure(session.startSaga({ saga: 's', orderingKey: 'x'.repeat(129) }))).code).toBe(
      'invalidArgument',
    )
  })

  test('gives every signal an id, so that one that is sent again counts once', async () => {
    coordinator.answer = () => ({ signal: { status: 'running' }, cancel: { status: 'compensating' } })
    await session.signal({ id: 'order-17', signal: 'paid', payload: { cents: 5 } })
    await session.signal({ id: 'order-17', signal: 'paid' })
    await session.signal({ id: 'order-17', signal: 'paid', signalId: 'mine' })
    await session.cancel({ id: 'order-17', reason: 'changed my mind' })
    const requests = coordinator.last.commands.map(({ request }) => request as { signalId?: string })
    expect(requests[0]).toMatchObject({ signal: 'paid', payload: json({ cents: 5 }) })
    const ids = requests.slice(0, 3).map(({ signalId }) => signalId)
    expect(new Set(ids).size).toBe(3)
    expect(ids[2]).toBe('mine')
    expect(ids.every((id) => id !== undefined && id !== '')).toBe(true)
    expect(coordinator.last.commands[3]).toMatchObject({
      op: 'cancel',
      request: { reason: 'changed my mind' },
    })
  })

  test('waits for a saga, and tells what it gave', async () => {
    const view = {
      namespace: 'default',
      id: 'order-17',
      kind: 'saga',
      status: 'completed',
      executionId: 'x',
      checker: '',
      orderingKey: '',
      preparedAtMs: 5,
      settledAtMs: 6,
      settledBy: '',
      checks: 0,
      reason: '',
      deliveries: [],
      trace: NO_TRACE,
    } as const
    const saga = {
      name: 'place-order',
      version: 3,
      hash: 'f',
      businessKey: '',
      tags: {},
      output: json({ seat: 12 }),
      error: '',
      state: '"done"',
      executions: [],
      signals: [],
      timers: 0,
    }
    coordinator.answer = () => ({ wait: { ...view, saga } })
    const ended = await session.waitForSaga({ id: 'order-17', saga: placeOrder })
    const seat: number | undefined = ended.output?.seat
    expect([ended.status, seat, ended.error]).toEqual(['completed', 12, ''])
    coordinator.answer = () => ({
      wait: { ...view, status: 'parked', reason: 'the guard threw', saga: { ...saga, output: undefined } },
    })
    expect(await session.waitForSaga({ id: 'order-17' })).toMatchObject({
      status: 'parked',
      output: undefined,
      error: 'the guard threw',
      view: { saga: { name: 'place-order' } },
    })
    coordinator.answer = () => ({ wait: { ...view, kind: 'message' } })
    expect((await failure(session.waitForSaga({ id: 'order-17' }))).code).toBe('unsupported')
  })

  test('tries again while a coordinator lacks the definition', async () => {
    let asked = 0
    coordinator.answer = () => ({
      signal: ++asked < 3 ? new EscrowError('definitionMissing', 'deploying') : { status: 'running' },
    })
    expect(await session.signal({ id: 'order-17', signal: 'paid' })).toEqual({ status: 'running' })
    expect(asked).toBe(3)
  })
})
