/** What is remembered of turns gives what the machine itself would: many sagas of one definition against a fresh one for each. */
import { expect, test } from 'vitest'
import { defineSaga } from '../../../src/core/saga/define.ts'
import { participantSteps, stepType } from '../../../src/core/saga/policy.ts'
import type { Json, SagaEvent, SagaProgram, StepResults, Turn } from '../../../src/core/saga/program.ts'
import { done, failed, signal, timer } from './machines.ts'

type Input = { n: number; deep: { sku: string } }
const shop = participantSteps('shop', { work: stepType<Json, Json>() })
const undoable = {
  action: shop.work,
  compensation: true,
  input: ({ input }: { input: Input }) => input,
} as const

const flows: Readonly<Record<string, () => { readonly program: SagaProgram }>> = {
  sequence: () =>
    defineSaga({
      name: 'sequence',
      version: 1,
      attributes: ({ n }: Input) => ({ tags: { n: String(n) } }),
      flow: ({ step, pivot, delay }) => {
        const a = step('a', undoable)
        return [
          a,
          step('b', { ...undoable, input: ({ input }) => input.deep }),
          delay(50),
          pivot('c', { action: shop.work, input: ({ results }) => results.maybe(a) ?? null }),
          step('d', { action: shop.work, input: ({ input }) => input }),
        ]
      },
    }),
  branches: () =>
    defineSaga({
      name: 'branches',
      version: 1,
      attributes: ({ n }: Input) => ({ tags: { n: String(n) } }),
      signals: { go: undefined },
      flow: ({ step, parallel, choice, waitFor }) => [
        parallel(
          [step('a', undoable), step('b', undoable)],
          [step('c', undoable)],
          [waitFor('go', { timeoutMs: 100, onTimeout: step('late', undoable) })],
        ),
        choice([{ when: ({ input }) => input.n % 2 === 0, flow: step('even', undoable) }]),
        step('last', undoable),
      ],
    }),
  loops: () =>
    defineSaga({
      name: 'loops',
      version: 1,
      attributes: ({ n }: Input) => ({ businessKey: String(n) }),
      flow: ({ step, loop, parallel }) => {
        const again = step('again', undoable)
        return [
          loop({
            while: ({ input, results }) => input.n > 2 && results.maybe(again) !== 'enough',
            max: 4,
            onMax: 'continue',
            flow: [parallel([step('x', undoable)], [step('y', undoable)]), again],
          }),
          step('end', undoable),
        ]
      },
    }),
}

/** Numbers from a seed: mulberry32. */
function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

interface Open {
  readonly steps: Set<string>
  readonly timers: Set<string>
}

function follow({ effects }: Turn, { steps, timers }: Open): void {
  for (const effect of effects) {
    if (effect.type === 'startStep') steps.add(effect.invocation)
    else if (effect.type === 'stopStep') steps.delete(effect.invocation)
    else if (effect.type === 'startTimer') timers.add(effect.timer)
    else timers.delete(effect.timer)
  }
}

function eventOf({ steps, timers }: Open, random: () => number): SagaEvent | undefined {
  const results: Json[] = ['enough', { r: 1 }, null, 7]
  const all: SagaEvent[] = [...steps].flatMap((step) => [
    ...results.map((result) => done(step, result)),
    ...(random() < 0.1 ? [failed(step)] : []),
  ])
  all.push(...[...timers].map(timer))
  if (random() < 0.2) all.push(signal('go', random() < 0.5 ? undefined : { by: 'hand' }))
  return all[Math.floor(random() * all.length)]
}

const told = ({ state, takes: _, ...turn }: Turn, isTaken: boolean) => ({
  text: state.text,
  persisted: state.persist(),
  isTaken,
  ...turn,
})

/** A turn of each, which must be the same in all that anybody sees of it. */
function both(one: () => Turn, other: () => Turn): readonly [Turn, Turn] {
  const [first, second] = [one(), other()]
  expect(told(first, first.takes('go'))).toEqual(told(second, second.takes('go')))
  return [first, second]
}

test.each(Object.entries(flows))(
  '%s: many sagas of one definition take the turns that each would take alone',
  (_, define) => {
    const { program } = define()
    let turnCount = 0
    for (let seed = 1; seed <= 150; seed++) turnCount += run(program, define().program, seed)
    expect(turnCount).toBeGreaterThan(600)
  },
)

function run(shared: SagaProgram, alone: SagaProgram, seed: number): number {
  const random = randomFrom(seed)
  const input: Json = { n: seed % 5, deep: { sku: `s${seed}` } }
  const values = new Map<string, Json | undefined>()
  const results: StepResults = { get: (step) => values.get(step) }
  const open: Open = { steps: new Set(), timers: new Set() }
  let [one, other] = both(
    () => shared.start(input),
    () => alone.start(input),
  )
  let turns = 1
  for (; one.status === 'active' && turns < 60; turns++) {
    follow(one, open)
    const event = eventOf(open, random)
    if (event === undefined || (event.type === 'signal' && !shared.signals.has(event.signal))) continue
    if (event.type === 'timer') open.timers.delete(event.timer)
    else if (event.type !== 'signal') open.steps.delete(event.invocation)
    // Now and then from what a row keeps: remembered turns go on from there, too.
    const [from, fresh] = [one.state, other.state]
    const isRestored = random() < 0.2
    ;[one, other] = both(
      () => shared.next(isRestored ? shared.restore(JSON.parse(from.text), input) : from, event, results),
      () => alone.next(fresh, event, results),
    )
    if (event.type === 'stepDone') values.set(event.invocation, event.result)
  }
  return turns
}

test('a remembered turn keeps nothing of the saga that took it first', () => {
  const { program } = flows.sequence!()
  const inputs = ['first', 'second'].map((sku, at): Json => ({ n: at, deep: { sku } }))
  const turns = inputs.map((input) => {
    const started = program.start(input)
    const next = program.next(started.state, done('a', 'r'), { get: () => undefined })
    return { started, next }
  })
  expect(turns.map(({ started }) => started.effects[0])).toMatchObject(
    inputs.map((input) => ({ input, isSagaInput: true })),
  )
  expect(turns.map(({ started }) => started.attributes)).toEqual([{ tags: { n: '0' } }, { tags: { n: '1' } }])
  expect(turns.map(({ next }) => next.effects[0])).toMatchObject([
    { input: { sku: 'first' } },
    { input: { sku: 'second' } },
  ])
})

test('what a mapping throws in a remembered turn comes out, and the state before it stands', () => {
  const { program } = defineSaga({
    name: 'throws',
    version: 1,
    attributes: (_: Input) => ({}),
    flow: ({ step }) => [
      step('a', undoable),
      step('b', {
        ...undoable,
        input: ({ input }) => {
          if (input.n === 1) throw new RangeError('of the mapping')
          return input.deep
        },
      }),
    ],
  })
  const at = (n: number) => program.start({ n, deep: { sku: 'x' } }).state
  const none: StepResults = { get: () => undefined }
  expect(program.next(at(0), done('a'), none).status).toBe('active')
  const state = at(1)
  expect(() => program.next(state, done('a'), none)).toThrow('of the mapping')
  expect(program.next(state, failed('a'), none).status).toBe('failed')
})
