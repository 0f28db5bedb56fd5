import { describe, expect, test } from 'vitest'
import { sagaStatusOf } from '../../../src/core/saga/image.ts'
import { all, delay, fakeProgram, loop, policy, seq, signal, step } from './fake-program.ts'
import { call, Driven, LOG_MS, outcome } from './fixtures.ts'

const [a, b, c] = ['a', 'b', 'c'].map((name) => policy(name)) as [
  ReturnType<typeof policy>,
  ReturnType<typeof policy>,
  ReturnType<typeof policy>,
]
const done = outcome('done')
const statusOf = (driven: Driven): string => sagaStatusOf(driven.image as NonNullable<Driven['image']>)

describe('signals', () => {
  const flow = seq(step('a'), signal('go'), delay(100), step('b'))
  const program = fakeProgram({ flow, policies: [a, b], signals: ['go', 'other'] })
  const go = { type: 'signalSaga', signal: 'go', payload: '1', signalId: '' } as const

  test('one that comes early is kept until it is waited for; the same id twice is one', () => {
    const saga = new Driven(program)
      .start()
      .do({ ...go, signalId: 's1' })
      .do({ ...go, signalId: 's1' })
    expect(saga.last).toEqual({ effects: [] })
    expect(saga.state.signals).toEqual([{ signal: 'go', payload: '1' }])
    saga.answer(1, done)
    expect(saga.state).toMatchObject({ signals: [], timers: [{ timer: '2', atMs: LOG_MS + 100 }] })
    saga.pass(100).do({ type: 'timerDue', timer: '2' })
    expect(saga.last.effects).toEqual([call(2)])
    expect(saga.state.bytes).toBe('{"order":1}'.length + '{"path":"0"}'.length * 2)
  })

  test('one that is waited for makes a turn', () => {
    const saga = new Driven(program).start().answer(1, done).do(go)
    expect(saga.state.timers).toHaveLength(1)
  })

  test('unknown ones, wrong payloads, and one too many are refused', () => {
    const saga = new Driven(program).start()
    const codeOf = (changes: object) => saga.do({ ...go, ...changes }).last.refused?.code
    expect(codeOf({ signal: 'stop' })).toBe('unknownSignal')
    expect(codeOf({ payload: '"wrong"' })).toBe('invalidArgument')
    expect(codeOf({ payload: '{' })).toBe('invalidArgument')
    expect(codeOf({ payload: JSON.stringify('x'.repeat(1 << 20)) })).toBe('tooLarge')
    for (let kept = 0; kept < 64; kept++) expect(codeOf({})).toBeUndefined()
    expect(codeOf({})).toBe('overloaded')
    expect(saga.last.refused?.message).toContain('signalsMax')
  })
})

describe("a user's code that throws", () => {
  test('parks that saga with its stack, keeps the event and what comes meanwhile, and is retried', () => {
    let broken = true
    const program = fakeProgram({
      flow: all(step('a'), seq(step('b'), step('c'))),
      policies: [a, b, c],
      guard: (event) => {
        if (broken && event !== 'start' && event.type === 'stepDone' && event.invocation === '0')
          throw new Error('guard of a')
      },
    })
    const saga = new Driven(program).start().answer(1, done)
    expect(statusOf(saga)).toBe('parked')
    expect(saga.state.stuck).toMatch(/guard of a\n {4}at /)
    saga.answer(2, done)
    expect(saga.state.queue).toEqual([
      { type: 'step', n: 1 },
      { type: 'step', n: 2 },
    ])
    const retry = { type: 'retryExecution', executionId: 'e1', acceptPossibleDuplicate: false } as const
    saga.do(retry)
    expect(statusOf(saga)).toBe('parked')
    broken = false
    saga.do(retry)
    expect(saga.last.effects).toEqual([call(3)])
    saga.answer(3, done)
    expect(statusOf(saga)).toBe('completed')
  })

  test('at the start too; compensate undoes it', () => {
    const guard = (): never => {
      throw 'no error at all'
    }
    const saga = new Driven(fakeProgram({ flow: step('a'), policies: [a], guard })).start()
    expect(saga.state).toMatchObject({ stuck: 'internal: no error at all', queue: [{ type: 'start' }] })
    saga.do({ type: 'skipExecution', executionId: 'e1' })
    expect(saga.last.refused?.code).toBe('unsupported')
    saga.do({ type: 'compensateExecution', executionId: 'e1' })
    expect(statusOf(saga)).toBe('compensated')
  })
})

describe('bounds', () => {
  test.each([
    ['contextBytesMax', seq(step('a')), { contextBytesMax: 10 }],
    ['executionsMax', loop(5, step('a')), { executionsMax: 2 }],
    ['activeMax', all(step('a'), step('b'), step('c')), { activeMax: 2 }],
    ['timersMax', all(delay(1), delay(2)), { timersMax: 1 }],
    ['sagaBytesMax', loop(5, step('a')), { sagaBytesMax: 30 }],
  ])('%s parks the saga and is named', (bound, flow, limits) => {
    const saga = new Driven(fakeProgram({ flow, policies: [a, b, c] }))
    saga.moment = { ...saga.moment, limits: { ...saga.moment.limits, ...limits } }
    saga.start()
    for (let n = 1; n <= 3; n++) saga.answer(n, done)
    expect(saga.state.stuck).toContain(bound)
    expect(statusOf(saga)).toBe('parked')
  })

  test('an input that is wrong or too large is refused, and nothing begins', () => {
    const program = fakeProgram({ flow: step('a'), policies: [a] })
    const codeOf = (input: string) => {
      const saga = new Driven(program).start({ input })
      expect(saga.image).toBeUndefined()
      return saga.last.refused?.code
    }
    expect(codeOf('{')).toBe('invalidArgument')
    expect(codeOf('"wrong"')).toBe('invalidArgument')
    expect(codeOf(JSON.stringify('x'.repeat(1 << 20)))).toBe('tooLarge')
  })
})
