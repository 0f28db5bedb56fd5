/** Times what a coordinator computes for a saga of two steps, and xstate's own pure functions on the same machine. */
import { once } from 'node:events'
import { initialTransition, transition } from 'xstate'
import { NO_TRACE } from '../../src/core/envelope.ts'
import type { ExecutionId, Namespace, TransactionId } from '../../src/core/ids.ts'
import { callsOf } from '../../src/core/saga/chart-graph.ts'
import { decideSaga } from '../../src/core/saga/decide-saga.ts'
import {
  DEFAULT_SAGA_LIMITS,
  type SagaCommand,
  type SagaMoment,
  type StepOutcome,
} from '../../src/core/saga/decision.ts'
import { FLOW_CONTEXT } from '../../src/core/saga/flow-view.ts'
import type { SagaHead, SagaImage } from '../../src/core/saga/image.ts'
import type { Json, SagaEvent, Turn } from '../../src/core/saga/program.ts'
import { Statechart } from '../../src/core/saga/statechart.ts'
import { ByteWriter } from '../../src/store/binary.ts'
import { encodeSagaRecord } from '../../src/store/saga-record.ts'
import { orderOf, twoSteps } from './saga-definitions.ts'

/** Microseconds, each the mean of a window. */
export interface TransitionTimes {
  /** A turn that the chart's machine takes, one that is remembered, and xstate's `transition()`. */
  readonly turn: number
  readonly knownTurn: number
  readonly transition: number
  /** The first turn, and xstate's `initialTransition()`. */
  readonly firstTurn: number
  readonly initialTransition: number
  /** Of a whole saga: its turns, its decisions with the turns in them, both with the encoding of its records. */
  readonly turns: number
  readonly decisions: number
  readonly recorded: number
}

/** Sagas that go through each stage together: few enough to stay in the caches, as those of one append do. */
const TOGETHER = 256
const WARM_UP_ROUNDS = 40
const ROUNDS = 200
const INPUT_BYTES = 200
const RESULT = { reservation: 12_345 }
const { program, chart: knowing, machine } = twoSteps
/** The same chart, as it is where turns can't be remembered: for machines by hand, and after a guard. */
const chart = new Statechart(machine, { keeping: FLOW_CONTEXT })
const input = orderOf(0, INPUT_BYTES) as unknown as Json
const results = { get: () => RESULT }

/** Which invocation each step has, in their order. */
const invocations = [...chart.invocations.keys()]
const events = invocations.map((invocation): SagaEvent => ({ type: 'stepDone', invocation, result: RESULT }))
/** xstate calls the same invokes by ids of its own. */
const actorIds = new Map(callsOf(machine).map(({ id, node }) => [id, node.invoke[0]?.id ?? id]))
const publicEvents = invocations
  .map((invocation) => actorIds.get(invocation)!)
  .map((actorId) => ({
    type: `xstate.done.actor.${actorId}`,
    output: RESULT,
    actorId,
  }))

const total = {
  turn: 0,
  knownTurn: 0,
  transition: 0,
  firstTurn: 0,
  initialTransition: 0,
  turns: 0,
  decisions: 0,
  recorded: 0,
}

/** One round of one thing: each saga through a stage, then each through the next. */
function round<State>(
  first: keyof TransitionTimes,
  later: keyof TransitionTimes,
  stages: readonly ((state: State | undefined) => State)[],
): State {
  const states: (State | undefined)[] = new Array(TOGETHER).fill(undefined)
  for (const [stage, go] of stages.entries()) {
    const from = performance.now()
    for (let at = 0; at < TOGETHER; at++) states[at] = go(states[at])
    total[stage === 0 ? first : later] += performance.now() - from
  }
  return states[0]!
}

const stagesOf = (driven: Statechart) => [
  () => driven.start(input),
  ...events.map((event) => (turn: Turn | undefined) => driven.next(turn!.state, event)),
]
const chartStages = stagesOf(chart)
const knowingStages = stagesOf(knowing)
const publicStages = [
  () => initialTransition(machine, input as never)[0],
  ...publicEvents.map(
    (event) => (state: ReturnType<typeof transition>[0] | undefined) =>
      transition(machine, state as never, event as never)[0],
  ),
]
const programStages = [
  () => program.start(input),
  ...events.map((event) => (turn: Turn | undefined) => program.next(turn!.state, event, results)),
]

const head: SagaHead = {
  kind: 'saga',
  namespace: 'default' as Namespace,
  id: '{k3}~m8x2k9a1b-1k2j3h4g5f6d7.lfls' as TransactionId,
  executionId: 'a1b2c3d4-1-lfls' as ExecutionId,
  saga: program.name,
  version: program.version,
  hash: program.hash,
  slip: '',
  orderingKey: '',
  input: JSON.stringify(input),
  trace: NO_TRACE,
  contentHash: '0123456789abcdef0123456789abcdef',
  startedAtMs: 1_800_000_000_000,
  startedAtLogMs: 1_000_000,
  deadlineAtMs: 0,
}
const moment: SagaMoment = {
  wallMs: head.startedAtMs,
  logMs: head.startedAtLogMs,
  order: 1,
  random: () => 0.5,
  limits: DEFAULT_SAGA_LIMITS,
  program: () => program,
  definition: () => program,
  routeOf: () => ({ databaseId: '' }),
}
const outcome: StepOutcome = { outcome: 'done', result: JSON.stringify(RESULT), code: '', error: '' }
const commands: readonly SagaCommand[] = [
  { type: 'startSaga', head, businessKey: '', tags: {} },
  ...[1, 2].map((n) => ({ type: 'answerStep', n, operation: 'action', attempt: 1, outcome }) as const),
]
const decide = (image: SagaImage | undefined, command: SagaCommand): SagaImage =>
  decideSaga(image, command, moment).next!

const writer = new ByteWriter(1 << 20)
const decisionStages = commands.map((command) => (image: SagaImage | undefined) => decide(image, command))
const recordStages = commands.map((command) => (image: SagaImage | undefined) => {
  const next = decide(image, command)
  encodeSagaRecord(writer, image, next)
  return next
})

/** All of it once, in turn. */
function all(): void {
  const last = round<Turn>('firstTurn', 'turn', chartStages)
  round<Turn>('knownTurn', 'knownTurn', knowingStages)
  const theirs = round('initialTransition', 'transition', publicStages)
  round<Turn>('turns', 'turns', programStages)
  const image = round<SagaImage>('decisions', 'decisions', decisionStages)
  writer.truncate()
  round<SagaImage>('recorded', 'recorded', recordStages)
  if (last.status !== 'completed' || theirs.status !== 'done' || image.state.phase !== 'completed')
    throw new Error(`not at the end: ${last.status}, ${theirs.status}, ${image.state.phase}`)
}

for (let at = 0; at < WARM_UP_ROUNDS; at++) all()
for (const name of Object.keys(total) as (keyof TransitionTimes)[]) total[name] = 0
for (let at = 0; at < ROUNDS; at++) all()

const each = (ms: number, calls: number): number => (1_000 * ms) / (ROUNDS * TOGETHER * calls)
const times: TransitionTimes = {
  turn: each(total.turn, events.length),
  knownTurn: each(total.knownTurn, events.length + 1),
  transition: each(total.transition, events.length),
  firstTurn: each(total.firstTurn, 1),
  initialTransition: each(total.initialTransition, 1),
  turns: each(total.turns, 1),
  decisions: each(total.decisions, 1),
  recorded: each(total.recorded, 1),
}
process.send?.(times)
await once(process, 'disconnect')
process.exit()
