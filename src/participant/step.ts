import type { StepRequest } from '../core/api.ts'
import type { TraceContext } from '../core/envelope.ts'
import { EscrowError } from '../core/errors.ts'
import type { StepType } from '../core/saga/policy.ts'
import type { BarrierSubject } from './barrier/run.ts'
import { IncomingCall } from './incoming-call.ts'
import { type Later, later } from './later.ts'

/** A call of a step, as its action or compensation is given it. The same one may come more than once: see `barrier.step`. */
export interface StepCall extends BarrierSubject {
  readonly operation: 'action' | 'compensation'
  readonly namespace: string
  /** The saga's id. */
  readonly transactionId: string
  /** Stable over all attempts, and the same for action and compensation; unique for ever: what to deduplicate by. */
  readonly executionId: string
  /** From 1. */
  readonly attempt: number
  readonly step: string
  /** The name of the saga's definition; empty for a routing slip. */
  readonly saga: string
  /** For a compensation: the action is known to be done. Otherwise it may have been done, or may still be under way. */
  readonly isActionDone: boolean
  readonly trace: TraceContext
  /** Aborted when the time for an answer has passed: an answer that comes later is dropped. */
  readonly signal: AbortSignal
  /**
   * Lets the step go on after its function has returned: whatever it resolves with, the outcome comes by
   * `session.complete`, with `transactionId`, `executionId` and `attempt`. Returns `later`, so that `return call.later()` reads well.
   */
  later(): Later
}

/** A call of an action: `barrier.step` always gives what its work gave. */
export type ActionCall = StepCall & { readonly operation: 'action' }

/**
 * A step of sagas. Resolving means done, with the result as JSON; throwing a `Refusal` (`throw refuse('sold out')`) means
 * never; throwing anything else means not now: it is tried again after a pause. The `code` of what was thrown, if it is
 * a word, goes with it. Returning `later` leaves the outcome to `session.complete`.
 */
// biome-ignore lint/suspicious/noExplicitAny: steps of one participant differ in their types, and each is checked where it is written
export interface Step<Input = any, Result = any> {
  /** Any Standard Schema validator: what it gives is what action and compensation get. An action's input that doesn't fit is refused. */
  readonly input?: StepType<Input, Result>['input']
  /** What the action gives is held to it before it is answered. */
  readonly result?: StepType<Input, Result>['result']
  action?(input: Input, call: ActionCall): Result | Later | Promise<Result | Later>
  /** Undoes the action. `result` is undefined where it isn't known whether, or with what, the action was done. */
  compensation?(input: Input, result: Result | undefined, call: StepCall): unknown
}

/** A step with the types that its callers know it by: `defineStep(inventory.reserve.type, { action, compensation })`. */
export const defineStep = <Input, Result>(
  type: StepType<Input, Result>,
  step: Pick<Step<Input, Result>, 'action' | 'compensation'>,
): Step<Input, Result> => ({ input: type.input, result: type.result, ...step })

/** A call while its function runs. */
export class IncomingStep extends IncomingCall implements StepCall {
  readonly #request: StepRequest
  #isLater = false

  constructor(request: StepRequest) {
    super()
    this.#request = request
  }

  get operation(): StepCall['operation'] {
    return this.#request.operation
  }

  get namespace(): string {
    return this.#request.namespace
  }

  get transactionId(): string {
    return this.#request.transactionId
  }

  get executionId(): string {
    return this.#request.executionId
  }

  get attempt(): number {
    return this.#request.attempt
  }

  get step(): string {
    return this.#request.step
  }

  get saga(): string {
    return this.#request.saga
  }

  get isActionDone(): boolean {
    return this.#request.isActionDone
  }

  get trace(): TraceContext {
    return this.#request.trace
  }

  later(): Later {
    this.#isLater = true
    return later
  }

  /** Whether `later` was called. */
  get isLater(): boolean {
    return this.#isLater
  }

  /** The input, of JSON. Throws `malformed`. */
  input(): unknown {
    return fromJson('input', this.#request.input)
  }

  /** For a compensation: the action's result, of JSON. Throws `malformed`. */
  result(): unknown {
    return fromJson('result', this.#request.result)
  }
}

function fromJson(what: string, json: string): unknown {
  if (json === '') return undefined
  try {
    return JSON.parse(json)
  } catch (cause) {
    throw new EscrowError('malformed', `the ${what} is not JSON`, { cause })
  }
}
