/** The sagas that are measured: `saga-config.ts` gives them to the coordinator. */
import { defineSaga } from '../../src/core/saga/define.ts'
import type { Flow, FlowBuilders } from '../../src/core/saga/flow.ts'
import { participantSteps, stepType } from '../../src/core/saga/policy.ts'

/** What a measured saga is started with, and each of its steps is given. */
export interface Order {
  /** Which of the sagas in flight it is. */
  readonly slot: number
  readonly items: string
}

/** What each step gives. */
export interface Taken {
  readonly reservation: number
}

/** The participant of the steps under load, and the one who acts when a wait is over. */
export const bench = participantSteps('bench', { take: stepType<Order, Taken>() })
export const late = participantSteps('late', { act: stepType<Order, undefined>() })

/** An input that is so many bytes of JSON. */
export function orderOf(slot: number, bytes: number): Order {
  const least = JSON.stringify({ slot, items: '' }).length
  return { slot, items: 'x'.repeat(Math.max(0, bytes - least)) }
}

type Builders = FlowBuilders<Order, Record<never, never>>

const saga = (name: string, flow: (builders: Builders) => Flow) =>
  defineSaga<Order>({ name, version: 1, flow })

const take = ({ step }: Builders, name: string) => step(name, { action: bench.take, compensation: true })

const sequence = (name: string, steps: number) =>
  saga(name, (builders) => Array.from({ length: steps }, (_, at) => take(builders, `take-${at + 1}`)))

export const twoSteps = sequence('two-steps', 2)

export const PARALLEL_STEPS = 10
export const parallelSteps = saga('parallel-steps', (builders) =>
  builders.parallel(...Array.from({ length: PARALLEL_STEPS }, (_, at) => take(builders, `take-${at + 1}`))),
)

/** How many steps the sagas have whose steps are compared: a start weighs on the steps of the first, not of the others. */
export const LENGTHS = [5, 50, 500] as const
export const sequenceName = (steps: number): string => `sequence-of-${steps}`

/** Waits for a signal, then for its deadline; then somebody acts. */
const waiting = (name: string, timeoutMs: number) =>
  defineSaga<Order, undefined, { go: undefined }>({
    name,
    version: 1,
    signals: { go: undefined },
    flow: ({ step, waitFor }) =>
      waitFor('go', { timeoutMs, onTimeout: step('act', { action: late.act, readOnly: true }) }),
  })

export const DUE_AFTER_MS = 1_000
export const waitingForADay = waiting('waiting-for-a-day', 86_400_000)
export const dueSoon = waiting('due-soon', DUE_AFTER_MS)

export const sagas = [
  twoSteps,
  parallelSteps,
  ...LENGTHS.map((steps) => sequence(sequenceName(steps), steps)),
  waitingForADay,
  dueSoon,
]
