/**
 * The life of a saga: the state table, and what an image of it holds. `decideSaga` answers every command in every state.
 *
 * | command \ state     | none     | running                    | stuck (parked)             | compensating              | completed    | compensated  |
 * |---------------------|----------|----------------------------|----------------------------|---------------------------|--------------|--------------|
 * | startSaga           | running / stuck | same answer, or `idReused` if the content differs (all states)                                    |||||
 * | signalSaga          | notFound | a turn, or kept            | kept                       | alreadyEnded              | alreadyEnded | alreadyEnded |
 * | cancelSaga          | notFound | compensating / pastPivot   | compensating / pastPivot   | same answer               | alreadyEnded | same answer  |
 * | completeStep        | notFound | as answerStep of the action; `unknownExecution` for one that was never called (all states)                             |||||
 * | answerStep          | nothing  | a turn / again / parked    | kept / again / parked      | next undo / again / parked | nothing     | nothing      |
 * | dispatchStep        | nothing  | StepCall, Publication / parked | the same               | the same                  | nothing      | nothing      |
 * | timerDue            | nothing  | a turn                     | nothing                    | nothing                   | nothing      | nothing      |
 * | deadlineDue         | nothing  | compensating, if not past the pivot | the same          | nothing                   | nothing      | nothing      |
 * | stepDeadlineDue     | nothing  | a turn / parked            | kept / parked              | next undo / parked        | nothing      | nothing      |
 * | retryExecution      | notFound | a parked one: again        | the same turn once more    | a parked one: again       | notParked    | notParked    |
 * | skipExecution       | notFound | a parked one: as if done   | a signal: dropped          | a parked one: given up    | notParked    | notParked    |
 * | compensateExecution | notFound | a parked one: compensating | compensating / pastPivot   | a parked one: again       | notParked    | notParked    |
 * | migrateSaga         | notFound | another definition, or a refusal (same in stuck, compensating and held)           ||| alreadyEnded | alreadyEnded |
 *
 * Without its definition a saga is held: what is the engine's own does nothing, what somebody asks is `definitionMissing`,
 * but a migration to a definition that is there.
 * `stuck` is a saga whose guard or mapping threw, or that found no way forward: it keeps the event, and its steps go on.
 *
 * | action of an execution | meaning                                                                     |
 * |------------------------|-----------------------------------------------------------------------------|
 * | running                | to be made, in flight, or answered `later`                                  |
 * | stopping               | no attempt starts; the outcome of the one in flight is awaited              |
 * | parked                 | waits for an operator                                                       |
 * | done, skipped          | ended; the machine goes on                                                  |
 * | failed                 | ended; the machine is told                                                  |
 * | stopped                | ended; the machine had left its state, or the saga is undone                |
 *
 * What may have happened (done, or some attempt unanswered) is compensated when the saga unwinds; at once, when the flow goes
 * on without it. A compensation is running, parked, done or skipped. The saga has ended when nothing is running,
 * stopping or parked.
 */
import type { TransactionStatus } from '../api.ts'
import type { TraceContext } from '../envelope.ts'
import type { ExecutionId, Namespace, TransactionId } from '../ids.ts'
import { ExecutionTable } from './execution-table.ts'
import type { Branch, MachineState } from './program.ts'
import type { PendingUndo } from './unwind-order.ts'

/** What a saga is from its start to its end; only a migration changes it. */
export interface SagaHead {
  readonly kind: 'saga'
  readonly namespace: Namespace
  readonly id: TransactionId
  /** What the ids of its executions begin with, and the id by which an operator means the saga itself. */
  readonly executionId: ExecutionId
  /** The definition's name; empty for a routing slip. */
  readonly saga: string
  readonly version: number
  readonly hash: string
  /** A routing slip as JSON text; empty for none. */
  readonly slip: string
  /** Empty for none. */
  readonly orderingKey: string
  /** JSON text, as the schema has it; empty for none. */
  readonly input: string
  readonly trace: TraceContext
  /** Of what the caller gave: tells a repeated start from another one under the same id. */
  readonly contentHash: string
  /** Wall clock. */
  readonly startedAtMs: number
  /** Log time. */
  readonly startedAtLogMs: number
  /** Wall clock: past it the saga is undone; 0 for none. */
  readonly deadlineAtMs: number
}

/** How an operation of an execution stands: see the table above. */
export type OperationStatus = 'running' | 'stopping' | 'parked' | 'done' | 'failed' | 'stopped' | 'skipped'

/** The action of an execution, or its compensation. */
export interface OperationState {
  readonly status: OperationStatus
  /** Attempts that failed, or whose outcome nobody told; the one in flight is the next. */
  readonly attempts: number
  /** Log time of the next attempt. */
  readonly nextAttemptAtMs: number
  /** Log time: past it the attempt in flight is unknown; 0 when none is in flight, or it was answered `later`. */
  readonly attemptDeadlineAtMs: number
  /** It goes on, and is told by `complete`. */
  readonly isLater: boolean
  /** Some attempt may have, or still get, its effect: nobody told its outcome, or only that it had failed. */
  readonly isUncertain: boolean
  /** Wall clock; 0 before the first dispatch. */
  readonly firstDispatchAtMs: number
  /** Wall clock: past it only an operator may send it again. */
  readonly lastDispatchAtMs: number
  /** The participant's database that the first dispatch went to; empty without a barrier. */
  readonly databaseId: string
  /** Of the last failure; empty for none. */
  readonly code: string
  readonly error: string
}

/** One entry into a step. Its id is `executionIdOf(head, n)`. */
export interface Execution {
  /** From 1, in the order in which they began. */
  readonly n: number
  readonly step: string
  readonly invocation: string
  readonly branch: Branch
  /** JSON text; empty for none. */
  readonly input: string
  /** JSON text of what the action gave; empty for none. */
  readonly result: string
  /** Whether there is anything to undo it with. */
  readonly hasCompensation: boolean
  /** The action is known to have happened. */
  readonly isDone: boolean
  /** Places in the saga's own order of beginnings and ends; `ended` is 0 before. */
  readonly began: number
  readonly ended: number
  /** Log time: past it the step has failed; 0 for none. */
  readonly stepDeadlineAtMs: number
  readonly action: OperationState
  /** Undefined while it isn't being undone. */
  readonly compensation: OperationState | undefined
}

/** A timer of the machine that runs. */
export interface SagaTimer {
  readonly timer: string
  /** Log time. */
  readonly atMs: number
}

/** A signal that came before its time, and is kept. */
export interface KeptSignal {
  readonly signal: string
  /** JSON text; empty for none. */
  readonly payload: string
}

/** What the machine is still to be told; more than nothing only while the saga is stuck. */
export type QueuedEvent =
  | { readonly type: 'start' }
  | { readonly type: 'step'; readonly n: number }
  | { readonly type: 'timer'; readonly timer: string }
  | { readonly type: 'signal'; readonly signal: string; readonly payload: string }

/** The machine as it is kept; `live` is what the text stands for, if it was needed since it was read. */
export interface KeptMachine {
  /** JSON text; empty before the first turn, and in the row of what has ended. */
  readonly text: string
  readonly live: MachineState | undefined
}

/** Where a saga stands. */
export interface SagaState {
  readonly phase: 'running' | 'compensating' | 'completed' | 'compensated'
  readonly machine: KeptMachine
  /** The machine has ended well; the saga is completed once what it left behind is. */
  readonly isMachineDone: boolean
  readonly executions: ExecutionTable
  /** Executions whose action is running, stopping or parked, ascending. */
  readonly active: readonly number[]
  /** Executions whose compensation is running or parked, ascending. */
  readonly undoing: readonly number[]
  /** What is still to be undone while the saga unwinds; undefined: it follows from the executions, and wasn't needed yet. */
  readonly plan: { readonly top: PendingUndo | undefined } | undefined
  /** The last place given in the order of beginnings and ends. */
  readonly places: number
  /** The execution of the pivot that was dispatched and not refused; 0 for none. */
  readonly pivot: number
  readonly timers: readonly SagaTimer[]
  readonly signals: readonly KeptSignal[]
  /** Signals that the machine would take now. */
  readonly awaited: readonly string[]
  /** The ids of the last signals. */
  readonly signalIds: readonly string[]
  readonly queue: readonly QueuedEvent[]
  /** What keeps it from going on: the stack of what a guard or mapping threw; empty for nothing. */
  readonly stuck: string
  /** Bytes of inputs, results and kept signals. */
  readonly bytes: number
  readonly businessKey: string
  readonly tags: Readonly<Record<string, string>>
  /** Why it is undone; empty otherwise. */
  readonly reason: string
  /** JSON text; empty before the end, and for none. */
  readonly output: string
  /** Wall clock; 0 while it lives. */
  readonly finishedAtMs: number
}

/** A transaction of kind `saga`, as it is after one record. Never changed in place. */
export interface SagaImage {
  readonly head: SagaHead
  readonly state: SagaState
}

/** A saga of which nothing is known but that it begins: what a full record counts its changes from. */
export const EMPTY_SAGA: SagaState = {
  phase: 'running',
  machine: { text: '', live: undefined },
  isMachineDone: false,
  executions: ExecutionTable.EMPTY,
  active: [],
  undoing: [],
  plan: undefined,
  places: 0,
  pivot: 0,
  timers: [],
  signals: [],
  awaited: [],
  signalIds: [],
  queue: [],
  stuck: '',
  bytes: 0,
  businessKey: '',
  tags: {},
  reason: '',
  output: '',
  finishedAtMs: 0,
}

/** The id of execution `n`, unique for ever: the key of the barrier's rows, and the token of `complete`. */
export function executionIdOf(head: SagaHead, n: number): ExecutionId {
  return `${head.executionId}.${n}` as ExecutionId
}

/** The number of an execution by its id; 0 for an id that this saga can't have given. */
export function executionNumber(head: SagaHead, executionId: string): number {
  const prefix = `${head.executionId}.`
  if (!executionId.startsWith(prefix)) return 0
  const digits = executionId.slice(prefix.length)
  return /^[1-9]\d{0,8}$/.test(digits) ? Number(digits) : 0
}

/** Whether an execution's action may have had its effect. */
export function mayHaveHappened({ isDone, action }: Execution): boolean {
  return isDone || action.isUncertain
}

/** Whether the execution counts as active: its action is running, stopping or parked. */
export function isActive({ action: { status } }: Execution): boolean {
  return status === 'running' || status === 'stopping' || status === 'parked'
}

/** Whether its compensation is running or parked. */
export function isUndoing({ compensation }: Execution): boolean {
  return compensation?.status === 'running' || compensation?.status === 'parked'
}

/** Whether an attempt is under way, or goes on until `complete` tells its end. */
export function isInFlight({ attemptDeadlineAtMs, isLater }: OperationState): boolean {
  return attemptDeadlineAtMs > 0 || isLater
}

/** The saga's status, as everybody sees it. */
export function sagaStatusOf({ state }: SagaImage): TransactionStatus {
  const { phase } = state
  if (phase === 'completed' || phase === 'compensated') return phase
  if (state.stuck !== '' || hasParked(state)) return 'parked'
  return phase
}

/** When the saga ended, by the wall clock; 0 while it lives. */
export function sagaFinishedAtMs({ state }: SagaImage): number {
  return state.finishedAtMs
}

function hasParked({ executions, active, undoing }: SagaState): boolean {
  for (const n of active) if (executions.get(n)?.action.status === 'parked') return true
  for (const n of undoing) if (executions.get(n)?.compensation?.status === 'parked') return true
  return false
}
