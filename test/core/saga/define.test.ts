import { expect, test } from 'vitest'
import { defineSaga, definitionOf } from '../../../src/core/saga/define.ts'
import type { FlowBuilders } from '../../../src/core/saga/flow.ts'
import { participantSteps, stepType, untilDone } from '../../../src/core/saga/policy.ts'
import type { Json, SagaEvent } from '../../../src/core/saga/program.ts'
import { brief, done, drive, failed, schemaOf, signal, timer, warehouse, warehouseSteps } from './machines.ts'

interface Order {
  readonly sku: string
  readonly cents: number
}

const inventory = participantSteps('inventory', {
  reserve: stepType<{ sku: string }, { reservation: string }>(),
  release: stepType<{ sku: string }, undefined>(),
})
const payments = participantSteps('payments', {
  charge: {
    input: schemaOf<{ cents: number; reservation: string }>(),
    result: schemaOf<{ receipt: string }>(),
  },
})

const placeOrder = defineSaga({
  name: 'place-order',
  version: 1,
  input: schemaOf<Order>((value) => typeof value === 'object'),
  output: ({ input }) => ({ sold: input.sku }),
  attributes: (input) => ({ businessKey: input.sku }),
  flow: ({ step, parallel, pivot, send }) => {
    const reserve = step('reserve', {
      action: inventory.reserve,
      compensation: inventory.release,
      input: ({ input }) => ({ sku: input.sku }),
      attributes: ({ result }) => ({ tags: { reservation: result.reservation } }),
    })
    const charge = step('charge', {
      action: payments.charge,
      compensation: true,
      input: ({ input, results }) => ({ cents: input.cents, reservation: results(reserve).reservation }),
    })
    return [
      reserve,
      parallel(charge, step('fraud-check', { action: 'fraud/check', readOnly: true })),
      pivot('confirm', { action: 'orders/confirm' }),
      step('ship', { action: 'shipping/ship', retry: untilDone }),
      send('confirmation', { to: 'kafka:orders', body: ({ results }) => results(charge).receipt }),
    ]
  },
})

const order: Json = { sku: 'x', cents: 5 }

test('a flow goes from step to step, with results in the inputs of later ones', () => {
  const turns = drive(placeOrder.program, order, [
    done('reserve', { reservation: 'r1' }),
    done('fraud-check', true),
    done('charge', { receipt: 'r9' }),
    done('confirm'),
    done('ship'),
    done('confirmation'),
  ])
  const branch = (region: string) => [{ parallel: 'parallel-1', entry: 1, region }]
  const start = (step: string, input: Json, within: readonly object[] = []) => ({
    type: 'startStep',
    invocation: step,
    step,
    input,
    isSagaInput: JSON.stringify(input) === JSON.stringify(order),
    branch: within,
  })
  expect(turns.map(({ effects }) => effects)).toEqual([
    [start('reserve', { sku: 'x' })],
    [
      start('charge', { cents: 5, reservation: 'r1' }, branch('charge')),
      start('fraud-check', order, branch('fraud-check')),
    ],
    [],
    [start('confirm', order)],
    [start('ship', order)],
    [start('confirmation', 'r9')],
    [],
  ])
  expect(turns.at(-1)).toMatchObject({ status: 'completed', output: { sold: 'x' }, error: '' })
  expect(turns[0]?.attributes).toEqual({ businessKey: 'x' })
  expect(turns[1]?.attributes).toEqual({ tags: { reservation: 'r1' } })
})

test('policies have the class that their place in the flow gives them, and defaults', () => {
  const { steps } = placeOrder.program
  expect([...steps.values()].map((policy) => [policy.step, policy.class, policy.retry.attemptsMax])).toEqual([
    ['reserve', 'compensatable', 10],
    ['charge', 'compensatable', 10],
    ['fraud-check', 'irreversible', 10],
    ['confirm', 'pivot', 10],
    ['ship', 'retriable', 0],
    ['confirmation', 'retriable', 0],
  ])
  expect(steps.get('charge')).toEqual({
    step: 'charge',
    service: 'payments',
    action: 'charge',
    compensation: { service: 'payments', step: 'charge' },
    class: 'compensatable',
    destination: '',
    retry: { delayMs: 200, delayMsMax: 30_000, attemptsMax: 10 },
    attemptTimeoutMs: 30_000,
    stepTimeoutMs: 0,
    nonRetryable: [],
    concurrencyMax: 0,
    ratePerSecond: 0,
  })
  expect(steps.get('confirmation')).toMatchObject({ destination: 'kafka:orders', service: '', action: '' })
})

test('a step that fails ends the flow as failed, and stops what runs beside it', () => {
  const turn = drive(placeOrder.program, order, [
    done('reserve', { reservation: 'r1' }),
    failed('charge'),
  ]).at(-1)
  expect(turn).toMatchObject({
    status: 'failed',
    error: 'step "charge": refused: charge was refused',
    effects: [{ type: 'stopStep', invocation: 'fraud-check' }],
  })
})

test('the stored state of a flow holds neither its input nor results', () => {
  const [, turn] = drive(placeOrder.program, order, [done('reserve', { reservation: 'r1' })])
  expect(turn?.state.persist()).toEqual({
    value: { 'parallel-1': { charge: 'charge', 'fraud-check': 'fraud-check' } },
    entries: 1,
    parallels: { 'parallel-1': 1 },
  })
})

const shipping = defineSaga({
  name: 'shipping',
  version: 1,
  input: schemaOf<{ address: string }>(
    (value) => typeof (value as { address?: unknown }).address === 'string',
  ),
  output: ({ results }) => results('label') as string,
  flow: ({ step }) => [
    step('label', { action: 'shipping/label', compensation: true, input: ({ input }) => input.address }),
  ],
})

const everything = defineSaga({
  name: 'everything',
  version: 1,
  input: schemaOf<{ kind: string; times: number }>(),
  signals: { paid: schemaOf<{ cents: number }>(), seen: undefined },
  flow: ({ step, choice, loop, waitFor, delay, sub }) => {
    const count = step('count', { action: 'a/count', readOnly: true, result: schemaOf<number>() })
    const paid = waitFor('paid', {
      timeoutMs: 5_000,
      onTimeout: step('remind', { action: 'a/remind', compensation: true }),
    })
    const ship = sub(shipping, { input: ({ input }) => ({ address: input.kind }) })
    return [
      choice(
        [
          {
            when: ({ input }) => input.kind === 'first',
            flow: step('first', { action: 'a/first', compensation: true }),
          },
          {
            when: ({ input }) => input.kind === 'second',
            flow: [step('second', { action: 'a/second', compensation: true }), delay(10)],
          },
        ],
        step('other', { action: 'a/other', compensation: true }),
      ),
      loop({ while: ({ input, results }) => (results.maybe(count) ?? 0) < input.times, max: 3, flow: count }),
      paid,
      ship,
      step('last', {
        action: 'a/last',
        compensation: true,
        input: ({ results }) => `${results.maybe(paid)?.cents} ${results(ship)}`,
      }),
    ]
  },
})

const stories: readonly [
  title: string,
  input: Json,
  events: readonly SagaEvent[],
  effects: readonly string[][],
][] = [
  [
    'the first branch, no iteration, a signal, and a sub-saga whose output is used',
    { kind: 'first', times: 0 },
    [done('first'), signal('paid', { cents: 7 }), done('shipping/label', 'L1'), done('last')],
    [
      ['start first'],
      ['arm xstate.after.5000.everything.wait-paid-1 5000'],
      ['disarm xstate.after.5000.everything.wait-paid-1', 'start shipping/label'],
      ['start last'],
      [],
    ],
  ],
  [
    'the second branch, a delay, and a loop that ends by its guard',
    { kind: 'second', times: 2 },
    [done('second'), timer('xstate.after.10.everything.delay-1'), done('count', 1), done('count', 2)],
    [
      ['start second'],
      ['arm xstate.after.10.everything.delay-1 10'],
      ['start count'],
      ['start count'],
      ['arm xstate.after.5000.everything.wait-paid-1 5000'],
    ],
  ],
  [
    'otherwise, and a deadline that leads through another flow',
    { kind: '', times: 0 },
    [done('other'), timer('xstate.after.5000.everything.wait-paid-1'), done('remind')],
    [
      ['start other'],
      ['arm xstate.after.5000.everything.wait-paid-1 5000'],
      ['start remind'],
      ['start shipping/label'],
    ],
  ],
  [
    'a loop that reaches its bound fails',
    { kind: '', times: 9 },
    [done('other'), done('count', 1), done('count', 2), done('count', 3)],
    [['start other'], ['start count'], ['start count'], ['start count'], []],
  ],
]

test.each(stories)('%s', (_title, input, events, effects) => {
  expect(drive(everything.program, input, events).map(brief)).toEqual(effects)
})

test('the ends of those stories: output of the sub-saga in an input, failure, and takes', () => {
  const [story] = stories
  const turns = drive(everything.program, story?.[1], story?.[2] ?? [])
  expect(turns[3]?.effects[0]).toMatchObject({ input: '7 L1' })
  expect(turns[1]?.takes('paid')).toBe(true)
  expect(turns[1]?.takes('seen')).toBe(false)
  expect(turns[2]?.takes('paid')).toBe(false)
  const bounded = stories[3]
  expect(drive(everything.program, bounded?.[1], bounded?.[2] ?? []).at(-1)?.status).toBe('failed')
})

test('a loop counts anew each time it is entered, and its count is kept', () => {
  const [, , turn] = drive(everything.program, { kind: '', times: 9 }, [done('other'), done('count', 1)])
  expect(turn?.state.persist()).toEqual({ value: 'count', context: { counts: { 'loop-1': 2 } } })
})

test('inputs, results and signals are checked by their schemas', () => {
  const { program } = placeOrder
  expect(() => program.parseInput('no order')).toThrow(
    'the input of saga "place-order" does not fit its schema: field: not accepted',
  )
  expect(program.parseInput(order)).toEqual(order)
  expect(() => everything.program.parseSignal('unknown', null)).toThrow(
    expect.objectContaining({ code: 'unknownSignal' }),
  )
  expect(program.parseResult('charge', { receipt: 'r' })).toEqual({ receipt: 'r' })
})

test('what a mapping throws, and what it gives that is no JSON, comes out of the turn', () => {
  const define = (input: () => unknown) =>
    defineSaga({
      name: 'mapped',
      version: 1,
      flow: ({ step }) => [step('a', { action: 'a/a', compensation: true, input: input as () => Json })],
    }).program
  const error = new RangeError('of the mapping')
  expect(() =>
    define(() => {
      throw error
    }).start(null),
  ).toThrow(error)
  expect(() => define(() => 1n).start(null)).toThrow('the input of step "a" is a bigint')
  expect(() => define(() => Promise.resolve(1)).start(null)).toThrow('answered by a promise')
})

test('a validator that answers by a promise is refused at definition', () => {
  const later = {
    '~standard': { version: 1 as const, vendor: 'test', validate: async (value: unknown) => ({ value }) },
  }
  expect(() =>
    defineSaga({
      name: 'later',
      version: 1,
      input: later,
      flow: ({ step }) => [step('a', { action: 'a/a', readOnly: true })],
    }),
  ).toThrow('answers by a promise')
})

const step = { action: 'a/a', compensation: true } as const
test.each([
  ['a name', { name: 'No Name' }, 'saga "No Name"'],
  ['a version', { version: 0 }, 'version is 0, allowed are whole numbers 1-1000000'],
  ['a time-out', { timeoutMs: -1 }, 'timeoutMs is -1'],
  ['a signal of xstate', { signals: { 'xstate.done.actor.a': undefined } }, 'doesn\'t begin with "xstate."'],
])('%s that is none is refused', (_what, change, message) => {
  expect(() =>
    defineSaga({ name: 'saga', version: 1, ...change, flow: ({ step: make }) => [make('a', step)] }),
  ).toThrow(message)
})

test.each([
  ['attemptTimeoutMs', { attemptTimeoutMs: 0 }, 'attemptTimeoutMs is 0'],
  ['retry', { retry: { delayMs: 0 } }, 'retry.delayMs is 0'],
  ['an action', { action: 'nowhere' as 'a/b' }, 'names no step of a participant'],
  ['nonRetryable', { nonRetryable: [''] }, 'nonRetryable is no list'],
])('a policy out of its bounds is refused: %s', (_what, change, message) => {
  expect(() =>
    defineSaga({ name: 'saga', version: 1, flow: ({ step: make }) => [make('a', { ...step, ...change })] }),
  ).toThrow(message)
})

test('a loop and a wait must have their bounds', () => {
  const loop = (max: number) =>
    defineSaga({
      name: 'saga',
      version: 1,
      flow: (f) => [f.loop({ while: () => true, max, flow: f.step('a', step) })],
    })
  expect(() => loop(0)).toThrow('the max of a loop is 0')
  expect(() => loop(undefined as never)).toThrow('the max of a loop is undefined')
  expect(() =>
    defineSaga({
      name: 'saga',
      version: 1,
      signals: { go: undefined },
      flow: (f) => [f.waitFor('go', { onTimeout: 'fail' } as never)],
    }),
  ).toThrow('the timeoutMs of waitFor("go") is undefined')
})

test('the hash follows structure and policies, not code', () => {
  const hash = (attemptTimeoutMs: number, name = 'a', input = () => 1) =>
    defineSaga({
      name: 'saga',
      version: 1,
      flow: (f) => [f.step(name, { ...step, attemptTimeoutMs, input })],
    }).program.hash
  expect(hash(1_000)).toMatch(/^[0-9a-f]{64}$/)
  expect(hash(1_000, 'a', () => 2)).toBe(hash(1_000))
  expect(hash(1_001)).not.toBe(hash(1_000))
  expect(hash(1_000, 'b')).not.toBe(hash(1_000))
  const byHand = (ms: number) =>
    definitionOf(warehouse, { name: 'warehouse', version: 1, timeoutMs: ms, steps: warehouseSteps }).program
      .hash
  expect(byHand(0)).toBe(byHand(0))
  expect(byHand(1)).not.toBe(byHand(0))
})

test('what is stored of a saga of 500 steps is no more at its last step than at its first', () => {
  const names = Array.from({ length: 500 }, (_, index) => `s-${index + 100}`)
  const saga = defineSaga({ name: 'long', version: 1, flow: (f) => names.map((name) => f.step(name, step)) })
  const turns = drive(
    saga.program,
    { some: 'input' },
    names.slice(0, -1).map((name) => done(name, 'a result')),
  )
  expect(turns.map(({ state }) => JSON.stringify(state.persist()))).toEqual(
    names.map((name) => `{"value":"${name}"}`),
  )
})

test('a sub-saga that says something of itself as a whole is refused, with what to do', () => {
  const flow = ({ step }: FlowBuilders<unknown, Record<never, never>>) => [
    step('a', { action: 'a/a', compensation: true }),
  ]
  const inner = (more: object) => defineSaga<unknown>({ name: 'inner', version: 1, flow, ...more })
  const outer = (more: object) => () =>
    defineSaga({ name: 'outer', version: 1, flow: ({ sub }) => [sub(inner(more))] })
  expect(outer({ timeoutMs: 5 })).toThrow(
    'inner: its timeoutMs would count for nothing inside of another saga: inline a definition without timeoutMs',
  )
  expect(outer({ attributes: () => ({}) })).toThrow('inner: its attributes would count for nothing')
  expect(outer({})).not.toThrow()
})
