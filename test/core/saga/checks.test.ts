/** What definitions are refused for: each check once, with its path and a remedy; and what they are not refused for. */
import { expect, test } from 'vitest'
import { createMachine, emit, fromPromise, raise, sendTo, setup, spawnChild } from 'xstate'
import type { MachineStep } from '../../../src/core/saga/define.ts'
import { defineSaga, definitionOf } from '../../../src/core/saga/define.ts'
import type { Flow, FlowBuilders } from '../../../src/core/saga/flow.ts'
import type { SagaCheck } from '../../../src/core/saga/problems.ts'
import type { Json } from '../../../src/core/saga/program.ts'
import { type AnyStateMachine, stepLogic } from '../../../src/core/saga/statechart.ts'

type Builders = FlowBuilders<Json | undefined, { go: undefined }>

const step = { action: 'a/a', compensation: true } as const
const pivot = { action: 'a/decide' } as const
const readOnly = { action: 'a/look', readOnly: true } as const
const forward = { action: 'a/go-on' } as const

const flows: readonly [check: SagaCheck, path: string, flow: (builders: Builders) => Flow][] = [
  ['compensationMissing', 'b', (f) => [f.step('a', step), f.step('b', { action: 'a/b' })]],
  [
    'irreversibleBeforePivot',
    'a',
    (f) => [f.step('a', { action: 'a/a', irreversible: true }), f.step('b', step), f.pivot('p', pivot)],
  ],
  ['pivotInParallel', 'parallel-1.p.p', (f) => [f.parallel(f.pivot('p', pivot), f.step('b', readOnly))]],
  ['secondPivot', 'q', (f) => [f.pivot('p', pivot), f.pivot('q', pivot)]],
  [
    'secondPivot',
    'p',
    (f) => [f.loop({ while: () => true, max: 2, onMax: 'continue', flow: f.pivot('p', pivot) })],
  ],
  ['compensationUnreachable', 'b', (f) => [f.pivot('p', pivot), f.step('b', step)]],
  ['compensationUnreachable', 'p', (f) => [f.pivot('p', step as never)]],
  ['compensationUnreachable', 'a', (f) => [f.step('a', { ...step, readOnly: true })]],
  ['messageBeforePivot', 'tell', (f) => [f.step('a', step), f.send('tell', { to: 'kafka:orders' })]],
  [
    'beforeAndAfterPivot',
    'b',
    (f) => [f.choice([{ when: () => true, flow: f.pivot('p', pivot) }]), f.step('b', readOnly)],
  ],
  [
    'failureAfterPivot',
    'wait-go-1',
    (f) => [f.pivot('p', pivot), f.waitFor('go', { timeoutMs: 1_000, onTimeout: 'fail' })],
  ],
  [
    'failureAfterPivot',
    'loop-1',
    (f) => [f.pivot('p', pivot), f.loop({ while: () => true, max: 2, flow: f.step('b', forward) })],
  ],
  ['stepTimeoutAfterPivot', 'b', (f) => [f.pivot('p', pivot), f.step('b', { ...forward, stepTimeoutMs: 1 })]],
  ['reservedName', 'a', (f) => [f.step('a', step), f.step('a', step)]],
  ['reservedName', 'failed', (f) => [f.step('failed', step)]],
]

test.each(flows)('%s in a flow is refused, at %s', (check, path, flow) => {
  const define = () =>
    defineSaga({ name: 'saga', version: 1, signals: { go: undefined }, flow: (f) => flow(f as Builders) })
  expect(refusal(define)).toMatchObject({
    code: 'invalidSaga',
    details: { check, path, remedy: expect.stringMatching(/.{10}/) },
  })
})

const allowed: readonly [title: string, flow: (builders: Builders) => Flow][] = [
  [
    'nothing to undo before the pivot',
    (f) => [f.step('a', readOnly), f.pivot('p', pivot), f.send('tell', { to: 'kafka:x' })],
  ],
  [
    'irreversible where no pivot follows',
    (f) => [f.step('a', { action: 'a/a', irreversible: true }), f.step('b', step)],
  ],
  [
    'a pivot in every branch',
    (f) => [
      f.choice([{ when: () => true, flow: f.pivot('p', pivot) }], [f.step('a', step), f.pivot('q', pivot)]),
      f.step('b', forward),
    ],
  ],
  [
    'a parallel after the pivot',
    (f) => [f.pivot('p', pivot), f.parallel(f.step('b', forward), f.send('tell', { to: 'a/b' }))],
  ],
  ['an empty flow', () => []],
]

test.each(allowed)('%s is allowed', (_title, flow) => {
  expect(() =>
    defineSaga({ name: 'saga', version: 1, signals: { go: undefined }, flow: (f) => flow(f as Builders) }),
  ).not.toThrow()
})

const invoke = (src: string, onDone: string) => ({ invoke: { src, onDone } })
const actors = { a: stepLogic(), b: stepLogic() }
const plain = (config: object): AnyStateMachine =>
  setup({ actors }).createMachine({ id: 'm', initial: 'one', ...config } as never) as never
const end = { type: 'final' } as const

const machines: readonly [
  check: SagaCheck,
  path: string,
  machine: AnyStateMachine,
  steps?: Record<string, MachineStep>,
][] = [
  ['unreachableState', 'lost', plain({ states: { one: invoke('a', 'end'), lost: { always: 'end' }, end } })],
  [
    'unreachableState',
    'two',
    plain({
      states: {
        one: { ...invoke('a', 'end'), on: { go: ['end', { target: 'two' }] }, after: { 9: 'end' } },
        two: { always: 'end' },
        end,
      },
    }),
  ],
  ['endlessAlways', 'one', plain({ states: { one: { always: 'two' }, two: { always: 'one' } } }), {}],
  [
    'endlessAlways',
    'one',
    plain({ states: { one: { initial: 'x', always: '.y', states: { x: {}, y: { after: { 1: 'x' } } } } } }),
    {},
  ],
  [
    'waitWithoutDeadline',
    'two',
    plain({ states: { one: invoke('a', 'two'), two: { on: { go: 'end' } }, end } }),
  ],
  [
    'inlineActor',
    'one',
    createMachine({
      initial: 'one',
      states: { one: { invoke: { src: fromPromise(async () => 1), onDone: 'end' } }, end },
    }),
  ],
  [
    'localActor',
    'one',
    setup({ actors: { a: fromPromise(async () => 1) } }).createMachine({
      initial: 'one',
      states: { one: invoke('a', 'end'), end },
    } as never) as never,
  ],
  ['unknownStep', 'one', plain({ states: { one: invoke('other', 'end'), end } })],
  ['unusedStep', 'm', plain({ states: { one: invoke('a', 'end'), end } }), { a: step, b: step }],
  ['spawnedActor', 'one', plain({ states: { one: { entry: spawnChild('b'), ...invoke('a', 'end') }, end } })],
  [
    'spawnedActor',
    'one',
    plain({ states: { one: { exit: sendTo('x', { type: 'y' }), ...invoke('a', 'end') }, end } }),
  ],
  [
    'spawnedActor',
    'one',
    plain({ states: { one: { exit: emit({ type: 'y' }), ...invoke('a', 'end') }, end } }),
  ],
  [
    'spawnedActor',
    'one',
    plain({ states: { one: { invoke: { src: 'a', onDone: 'end', systemId: 'x' } }, end } }),
  ],
  ['customAction', 'one', plain({ states: { one: { entry: () => {}, ...invoke('a', 'end') }, end } })],
  [
    'unknownImplementation',
    'one',
    plain({ states: { one: { entry: 'missing', ...invoke('a', 'end') }, end } }),
  ],
  [
    'unknownImplementation',
    'one',
    plain({ states: { one: { ...invoke('a', 'end'), after: { missing: 'end' } }, end } }),
  ],
  [
    'unknownImplementation',
    'one',
    plain({
      states: { one: { ...invoke('a', 'end'), on: { go: { guard: 'missing', target: 'end' } } }, end },
    }),
  ],
  [
    'duplicateInvocation',
    'two',
    plain({
      states: {
        one: { invoke: { src: 'a', id: 'x', onDone: 'two' } },
        two: { invoke: { src: 'a', id: 'x', onDone: 'end' } },
        end,
      },
    }),
  ],
  [
    'pivotLeft',
    'one',
    plain({ states: { one: { ...invoke('a', 'end'), after: { 1000: 'end' }, meta: { pivot: true } }, end } }),
    { a: pivot },
  ],
  [
    'ambiguousMeta',
    'one',
    plain({
      states: { one: { meta: { readOnly: true }, invoke: [{ src: 'a', onDone: 'end' }, { src: 'b' }] }, end },
    }),
    { a: readOnly, b: readOnly },
  ],
  [
    'secondPivot',
    'outer.again',
    plain({
      initial: 'outer',
      states: {
        outer: {
          initial: 'first',
          onDone: 'end',
          states: { first: invoke('a', 'again'), again: invoke('a', 'over'), over: end },
        },
        end,
      },
    }),
    { a: { ...pivot, pivot: true } },
  ],
  [
    'failureAfterPivot',
    'two',
    plain({
      states: {
        one: { ...invoke('a', 'two'), meta: { pivot: true } },
        two: { after: { 1: 'bad' } },
        bad: { type: 'final', tags: 'failed' },
      },
    }),
    { a: pivot },
  ],
]

test.each(machines)('%s in a machine is refused, at %s', (check, path, machine, steps = { a: step }) => {
  expect(refusal(() => definitionOf(machine, { name: 'saga', version: 1, steps }))).toMatchObject({
    code: 'invalidSaga',
    details: { check, path, remedy: expect.stringMatching(/.{10}/) },
  })
})

test('meta of a state says what its step needs, within nested states that end', () => {
  const machine = plain({
    initial: 'outer',
    states: {
      outer: {
        initial: 'first',
        onDone: 'later',
        states: { first: { ...invoke('a', 'over'), meta: { pivot: true } }, over: end },
      },
      later: { entry: raise({ type: 'tick' }, { delay: 5 }), ...invoke('b', 'end') },
      end,
    },
  })
  const { program } = definitionOf(machine, { name: 'saga', version: 1, steps: { a: pivot, b: forward } })
  expect([...program.steps.values()].map((policy) => policy.class)).toEqual(['pivot', 'retriable'])
})

test('loops and choices in branches beside each other are no circle', () => {
  const flow = ({ parallel, loop, choice, step }: FlowBuilders<unknown, Record<never, never>>): Flow => {
    const one = (name: string): Flow => step(name, { action: 'a/a', readOnly: true })
    return [
      parallel(
        loop({ while: () => true, max: 2, onMax: 'continue', flow: one('a') }),
        choice([{ when: () => true, flow: one('b') }], one('c')),
        choice([{ when: () => true, flow: one('d') }]),
      ),
    ]
  }
  expect(defineSaga<unknown>({ name: 'saga', version: 1, flow }).name).toBe('saga')
})

test('every problem is told, the first one in the details', () => {
  const error = refusal(() =>
    defineSaga({
      name: 'saga',
      version: 1,
      flow: (f) => [f.step('a', { action: 'a/a' }), f.step('b', { action: 'a/b' })],
    }),
  )
  expect(error).toMatchObject({ details: { path: 'a' } })
  expect((error as Error).message.split('\n')).toHaveLength(2)
})

/** What a definition is refused with; `details.remedy` is matched by a pattern. */
function refusal(define: () => unknown): unknown {
  try {
    define()
  } catch (error) {
    return Object.assign(error as Error, {})
  }
  throw new Error('it was not refused')
}
