/** The words in which decisions about sagas are asked for and given. */
import type { StepRequest } from '../api.ts'
import type { Moment, NobodyAsked } from '../decision.ts'
import { EscrowError } from '../errors.ts'
import { executionIdOf, type SagaHead, type SagaImage } from './image.ts'
import type { SagaProgram, StepPolicy } from './program.ts'

/** Which half of an execution is meant. */
export type StepOperation = 'action' | 'compensation'

/** How an attempt ended, as its participant says; `result` is JSON text, empty for none. */
export interface StepOutcome {
  readonly outcome: 'done' | 'refused' | 'failed' | 'unknown' | 'later'
  readonly result: string
  /** A word of the participant's own; empty for none. */
  readonly code: string
  readonly error: string
}

/** Nobody was there to be called: no attempt. It is due again at once, or `isPostponed`: after a pause, as too many wait in memory. */
export interface NobodyCalled extends NobodyAsked {
  readonly isPostponed?: boolean
}

/** What can be asked of a saga. `executionId` names what an operator means: the head's own is the saga itself. */
export type SagaCommand =
  | {
      readonly type: 'startSaga'
      readonly head: SagaHead
      readonly businessKey: string
      readonly tags: Readonly<Record<string, string>>
    }
  | {
      readonly type: 'signalSaga'
      readonly signal: string
      /** JSON text; empty for none. */
      readonly payload: string
      /** The same one twice is one signal; empty: each is its own. */
      readonly signalId: string
    }
  | { readonly type: 'cancelSaga'; readonly reason: string }
  | {
      readonly type: 'completeStep'
      readonly executionId: string
      /** 0: not said. */
      readonly attempt: number
      readonly outcome: StepOutcome
    }
  | {
      readonly type: 'answerStep'
      readonly n: number
      readonly operation: StepOperation
      readonly attempt: number
      readonly outcome: StepOutcome | NobodyCalled
    }
  | { readonly type: 'dispatchStep'; readonly n: number; readonly operation: StepOperation }
  | { readonly type: 'timerDue'; readonly timer: string }
  /** The saga's own deadline. */
  | { readonly type: 'deadlineDue' }
  /** A step's time-out, or the end of the wait: for an attempt that was stopped, a completion, somebody who takes it. */
  | { readonly type: 'stepDeadlineDue'; readonly n: number }
  | {
      readonly type: 'retryExecution'
      readonly executionId: string
      readonly acceptPossibleDuplicate: boolean
    }
  | { readonly type: 'skipExecution'; readonly executionId: string }
  | { readonly type: 'compensateExecution'; readonly executionId: string }
  | { readonly type: 'migrateSaga'; readonly version: number }

/** What is to leave once the next image is durable. A `Publication` is the action of a step that sends a message. */
export type SagaEffect =
  | {
      readonly type: 'StepCall'
      readonly n: number
      readonly operation: StepOperation
      readonly attempt: number
    }
  | { readonly type: 'Publication'; readonly n: number; readonly attempt: number }

/** Whom an attempt would go to. */
export interface StepAddress {
  readonly head: SagaHead
  readonly policy: StepPolicy
  readonly operation: StepOperation
  /** The database that the execution went to before; empty: any. */
  readonly databaseId: string
}

/** The bounds of one saga: `sagaLimits` of the configuration. All that is told of a size is told of its JSON text. */
export interface SagaLimits {
  /** Of one input, result, output, payload of a signal, or routing slip. Default 256 KiB. */
  readonly payloadBytesMax: number
  /** Of the machine's state, its context included. Default 64 KiB. */
  readonly contextBytesMax: number
  /** Of all inputs, results and kept signals of one saga. Default 2 MiB. */
  readonly sagaBytesMax: number
  /** Of its business key and tags. Default 4 KiB. */
  readonly attributesBytesMax: number
  /** Entries into steps, loops included. Default 10,000. */
  readonly executionsMax: number
  /** Steps under way at once. Default 256. */
  readonly activeMax: number
  /** Timers that run at once. Default 64. */
  readonly timersMax: number
  /** Signals that came early and are kept; and how many ids of signals are remembered. Default 64. */
  readonly signalsMax: number
  /** Wall-clock time from an operation's first dispatch, after which only an operator may send it again. Default 7 days. */
  readonly lastDispatchMsMax: number
}

/** The bounds where nothing else is configured. One saga, whole, fits into a segment of 4 MiB. */
export const DEFAULT_SAGA_LIMITS: SagaLimits = {
  payloadBytesMax: 256 << 10,
  contextBytesMax: 64 << 10,
  sagaBytesMax: 2 << 20,
  attributesBytesMax: 4 << 10,
  executionsMax: 10_000,
  activeMax: 256,
  timersMax: 64,
  signalsMax: 64,
  lastDispatchMsMax: 7 * 86_400_000,
}

/** What each bound may be set to, from and to. What a saga keeps, and its machine, still fit into a segment together. */
export const SAGA_LIMIT_RANGES: { readonly [Bound in keyof SagaLimits]: readonly [number, number] } = {
  payloadBytesMax: [1 << 10, 1 << 20],
  contextBytesMax: [1 << 10, 512 << 10],
  sagaBytesMax: [1 << 10, 2 << 20],
  attributesBytesMax: [0, 64 << 10],
  executionsMax: [1, 10_000],
  activeMax: [1, 1_024],
  timersMax: [1, 1_024],
  signalsMax: [1, 1_024],
  lastDispatchMsMax: [1, 365 * 86_400_000],
}

/** What a decision about a saga may know of the world. */
export interface SagaMoment extends Omit<Moment, 'route' | 'tooLarge'> {
  readonly limits: SagaLimits
  /** The definition that a saga began with; undefined where it isn't loaded, which holds the saga. */
  program(head: SagaHead): SagaProgram | undefined
  /** The definition of this name and version, as it is here; undefined where there is none. */
  definition(saga: string, version: number): SagaProgram | undefined
  /** Who would take an attempt now; undefined when nobody would, a limit is reached, or its key is held back. */
  routeOf(address: StepAddress): { readonly databaseId: string } | undefined
}

/** What is to be done. No `next`: the image stays as it is. With `refused` nothing else is set. */
export interface SagaDecision {
  readonly next?: SagaImage
  readonly effects: readonly SagaEffect[]
  readonly refused?: EscrowError
}

/** The image stays as it is, and nothing leaves. */
export const NOTHING_OF_SAGA: SagaDecision = { effects: [] }

/** A refusal: nothing else is decided. */
export function refuseSaga(code: EscrowError['code'], message: string): SagaDecision {
  return { effects: [], refused: new EscrowError(code, message) }
}

/** What a `StepCall` calls with. Undefined where the definition has no such step or compensation. */
export function stepRequestOf(
  { head, state }: SagaImage,
  program: SagaProgram,
  { n, operation, attempt }: Omit<Extract<SagaEffect, { type: 'StepCall' }>, 'type'>,
): StepRequest | undefined {
  const execution = state.executions.get(n)
  const policy = execution && program.steps.get(execution.step)
  if (execution === undefined || policy === undefined) return undefined
  const isAction = operation === 'action'
  if (!isAction && policy.compensation === undefined) return undefined
  return {
    namespace: head.namespace,
    transactionId: head.id,
    executionId: executionIdOf(head, n),
    attempt,
    service: policy.compensation === undefined || isAction ? policy.service : policy.compensation.service,
    step: policy.compensation === undefined || isAction ? policy.action : policy.compensation.step,
    operation,
    input: execution.input,
    result: isAction ? '' : execution.result,
    isActionDone: !isAction && execution.isDone,
    saga: head.saga,
    trace: head.trace,
    timeoutMs: policy.attemptTimeoutMs,
  }
}

const STACK_CHARACTERS_MAX = 4_096

/** What was thrown, with its stack, as much of it as is kept. Total. */
export function briefStack(thrown: unknown): string {
  const error = EscrowError.from(thrown)
  let text = `${error.code}: ${error.message}`
  try {
    if (error.code === 'internal' && thrown instanceof Error && typeof thrown.stack === 'string')
      text = thrown.stack
  } catch {
    // A getter of the user's own that throws: the message will do.
  }
  return text.length > STACK_CHARACTERS_MAX ? `${text.slice(0, STACK_CHARACTERS_MAX - 1)}…` : text
}

/** The error of a bound that was passed, with its name, and the setting that it has in the configuration. */
export function overBound(what: string, actual: number, bound: keyof SagaLimits, max: number): EscrowError {
  const setting = `sagaLimits.${bound}`
  const [, most] = SAGA_LIMIT_RANGES[bound]
  return new EscrowError(
    'tooLarge',
    `${what} is ${actual}, over the limit ${bound} of ${max}: ${setting} in escrow.config.ts allows up to ${most}`,
    { details: { limit: bound, setting, max: String(max), actual: String(actual) } },
  )
}
