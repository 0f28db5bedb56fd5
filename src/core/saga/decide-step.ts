/** The way of an action: dispatched, stopped, ended, parked. See the tables in `image.ts`. */
import { brief } from '../decision.ts'
import type { StepOperation } from './decision.ts'
import type { Draft } from './draft.ts'
import { type Execution, isInFlight, mayHaveHappened, type OperationState } from './image.ts'
import type { StepPolicy, TurnEffect } from './program.ts'

type StartStep = Extract<TurnEffect, { type: 'startStep' }>

/** An operation that is to be made now. */
export function newOperation({ moment }: Draft): OperationState {
  return {
    status: 'running',
    attempts: 0,
    nextAttemptAtMs: moment.logMs,
    attemptDeadlineAtMs: 0,
    isLater: false,
    isUncertain: false,
    firstDispatchAtMs: 0,
    lastDispatchAtMs: moment.wallMs + moment.limits.lastDispatchMsMax,
    databaseId: '',
    code: '',
    error: '',
  }
}

/** A half of an execution; undefined for a compensation that hasn't begun. */
export const operationOf = (execution: Execution, operation: StepOperation): OperationState | undefined =>
  operation === 'action' ? execution.action : execution.compensation

/** Changes a half of an execution. */
export function putOperation(
  draft: Draft,
  execution: Execution,
  operation: StepOperation,
  changes: Partial<OperationState>,
): Execution {
  return operation === 'action'
    ? draft.putAction(execution, changes)
    : draft.putCompensation(execution, changes)
}

/** Whether the participant's barrier knows of the action, and the compensation reaches the same one. */
export function hasBarrier({ action }: Execution, policy: StepPolicy): boolean {
  return action.databaseId !== '' && policy.compensation?.service === policy.service
}

/** Lets an attempt leave, if it is still to be made and somebody takes it. True if anything changed. */
export function dispatch(draft: Draft, execution: Execution, operation: StepOperation): boolean {
  const half = operationOf(execution, operation)
  const policy = draft.policyOf(execution)
  if (policy === undefined || half?.status !== 'running' || half.isLater) return false
  if (draft.moment.wallMs >= half.lastDispatchAtMs) {
    park(draft, execution, operation, tooLate(half))
    return true
  }
  // A compensation goes where its action went.
  const isSameService = operation === 'action' || policy.compensation?.service === policy.service
  const databaseId = half.databaseId || (isSameService ? execution.action.databaseId : '')
  const sent = sentNow(draft, policy, operation, { half, databaseId })
  if (sent === undefined) return false
  draft.put(operation === 'action' ? { ...execution, action: sent } : { ...execution, compensation: sent })
  leave(draft, policy, operation, { n: execution.n, attempt: half.attempts + 1 })
  return true
}

/** Puts a step that the flow has entered in its place, and lets its first attempt leave if somebody takes it. Hot. */
export function begin(draft: Draft, { step, invocation, branch }: StartStep, input: string): void {
  const { head, moment, next, program } = draft
  const policy = program.steps.get(step)
  const timeoutMs = policy?.stepTimeoutMs ?? 0
  const route = policy && moment.routeOf({ head, policy, operation: 'action', databaseId: '' })
  const n = next.executions.length + 1
  draft.put({
    n,
    step,
    invocation,
    branch,
    input,
    result: '',
    hasCompensation: policy?.compensation !== undefined,
    isDone: false,
    began: draft.nextPlace(),
    ended: 0,
    stepDeadlineAtMs: timeoutMs === 0 ? 0 : moment.logMs + timeoutMs,
    action:
      policy === undefined || route === undefined
        ? newOperation(draft)
        : sentAs(draft, policy, NEVER_SENT, { nextAttemptAtMs: moment.logMs, databaseId: route.databaseId }),
    compensation: undefined,
  })
  if (policy !== undefined && route !== undefined) leave(draft, policy, 'action', { n, attempt: 1 })
}

/** An operation as it is once an attempt has left; undefined where nobody takes it. */
function sentNow(
  draft: Draft,
  policy: StepPolicy,
  operation: StepOperation,
  { half, databaseId }: { half: OperationState; databaseId: string },
): OperationState | undefined {
  const route = draft.moment.routeOf({ head: draft.head, policy, operation, databaseId })
  if (route === undefined) return undefined
  const isFirst = half.firstDispatchAtMs === 0
  return sentAs(draft, policy, half, {
    nextAttemptAtMs: half.nextAttemptAtMs,
    databaseId: isFirst ? route.databaseId : half.databaseId,
  })
}

/** What an attempt leaves as it is. */
type Sendable = Omit<OperationState, 'nextAttemptAtMs' | 'databaseId'>

const NEVER_SENT: Sendable = {
  status: 'running',
  attempts: 0,
  attemptDeadlineAtMs: 0,
  isLater: false,
  isUncertain: false,
  firstDispatchAtMs: 0,
  lastDispatchAtMs: 0,
  code: '',
  error: '',
}

function sentAs(
  { moment }: Draft,
  policy: StepPolicy,
  half: Sendable,
  { nextAttemptAtMs, databaseId }: { nextAttemptAtMs: number; databaseId: string },
): OperationState {
  const isFirst = half.firstDispatchAtMs === 0
  // Each property by name: this is made for every attempt, and a spread costs twice as much.
  return {
    status: half.status,
    attempts: half.attempts,
    nextAttemptAtMs,
    attemptDeadlineAtMs: moment.logMs + policy.attemptTimeoutMs,
    isLater: half.isLater,
    // Whoever dispatches what is in flight has lost it from memory: the earlier call may still do its work.
    isUncertain: half.isUncertain || half.attemptDeadlineAtMs > 0,
    firstDispatchAtMs: isFirst ? moment.wallMs : half.firstDispatchAtMs,
    lastDispatchAtMs: isFirst ? moment.wallMs + moment.limits.lastDispatchMsMax : half.lastDispatchAtMs,
    databaseId,
    code: half.code,
    error: half.error,
  }
}

function leave(
  draft: Draft,
  policy: StepPolicy,
  operation: StepOperation,
  { n, attempt }: { n: number; attempt: number },
): void {
  const isPublication = policy.destination !== '' && operation === 'action'
  if (policy.class === 'pivot' && operation === 'action' && draft.next.pivot === 0) draft.next.pivot = n
  draft.leave(
    isPublication ? { type: 'Publication', n, attempt } : { type: 'StepCall', n, operation, attempt },
  )
}

/** Leaves a half of an execution to an operator. */
export function park(draft: Draft, execution: Execution, operation: StepOperation, error: string): void {
  const half = operationOf(execution, operation)
  putOperation(draft, execution, operation, {
    status: 'parked',
    isUncertain: half !== undefined && (half.isUncertain || isInFlight(half)),
    isLater: false,
    attemptDeadlineAtMs: 0,
    error: brief(error),
  })
}

/** What an end may change of an action beside its status. */
type Ending = Partial<Pick<OperationState, 'isUncertain' | 'code' | 'error'>>

/** Ends an action; nothing of it is under way any more. With a `result` it is known to have happened. */
export function endAction(
  draft: Draft,
  execution: Execution,
  status: 'done' | 'failed' | 'stopped' | 'skipped',
  changes: Ending = {},
  result?: string,
): Execution {
  // Each property by name, as in `sentAs`.
  const ended = draft.put({
    n: execution.n,
    step: execution.step,
    invocation: execution.invocation,
    branch: execution.branch,
    input: execution.input,
    result: result ?? execution.result,
    hasCompensation: execution.hasCompensation,
    isDone: execution.isDone || result !== undefined,
    began: execution.began,
    ended: draft.nextPlace(),
    stepDeadlineAtMs: execution.stepDeadlineAtMs,
    action: endedNow(execution.action, status, changes),
    compensation: execution.compensation,
  })
  // A pivot that is known to have done nothing leaves the way back open.
  const isUndone = (status === 'failed' || status === 'stopped') && !mayHaveHappened(ended)
  if (isUndone && draft.next.pivot === ended.n) draft.next.pivot = 0
  return ended
}

function endedNow(
  half: OperationState,
  status: OperationState['status'],
  { isUncertain, code, error }: Ending,
): OperationState {
  return {
    status,
    attempts: half.attempts,
    nextAttemptAtMs: half.nextAttemptAtMs,
    attemptDeadlineAtMs: 0,
    isLater: false,
    isUncertain: isUncertain ?? half.isUncertain,
    firstDispatchAtMs: half.firstDispatchAtMs,
    lastDispatchAtMs: half.lastDispatchAtMs,
    databaseId: half.databaseId,
    code: code ?? half.code,
    error: error ?? half.error,
  }
}

/** Why a step failed, and what is known of it. */
export interface Failure {
  readonly code: string
  readonly error: string
  /** Its participant won't ever do it, or says that trying again is of no use. */
  readonly isFinal: boolean
}

/**
 * Ends a step that has failed, and has the machine told; or parks it where there is no way back: a retriable step, and a
 * pivot unless its participant said for good that it did nothing.
 */
export function failStep(draft: Draft, execution: Execution, failure: Failure): void {
  const { code, isFinal } = failure
  const error = brief(failure.error)
  const policy = draft.policyOf(execution)
  const isRefusedPivot = policy?.class === 'pivot' && isFinal && !mayHaveHappened(execution)
  const isForwardOnly = policy?.class === 'retriable' || (policy?.class === 'pivot' && !isRefusedPivot)
  if (isForwardOnly) {
    park(draft, draft.putAction(execution, { code }), 'action', `${code}: ${error}`)
    return
  }
  const { n } = endAction(draft, execution, 'failed', { code, error })
  draft.enqueue({ type: 'step', n })
}

/** No new attempt of it starts; what is in flight is awaited. What has ended so and may have happened is abandoned. */
export function stop(draft: Draft, execution: Execution): void {
  const { action } = execution
  if (action.status === 'stopping') return
  if (!isInFlight(action)) {
    abandon(draft, endAction(draft, execution, 'stopped'))
    return
  }
  const timeoutMs = draft.policyOf(execution)?.attemptTimeoutMs ?? 0
  draft.putAction(execution, {
    status: 'stopping',
    attemptDeadlineAtMs: action.isLater ? draft.moment.logMs + timeoutMs : action.attemptDeadlineAtMs,
  })
}

/** Remembers that the flow goes on without this execution, although it may have happened. */
export function abandon(draft: Draft, execution: Execution): void {
  if (!mayHaveHappened(execution)) return
  draft.abandoned ??= []
  draft.abandoned.push(execution.n)
}

/** A step's time-out, or the end of the wait: for an attempt that was stopped, a completion, somebody who takes it. True if anything changed. */
export function stepDeadlineDue(draft: Draft, execution: Execution): boolean {
  const { action, compensation, stepDeadlineAtMs } = execution
  const { logMs, wallMs } = draft.moment
  if (action.status === 'stopping') {
    if (logMs < action.attemptDeadlineAtMs) return false
    abandon(draft, endAction(draft, execution, 'stopped', { isUncertain: true }))
    return true
  }
  if (action.status === 'running' && stepDeadlineAtMs > 0 && logMs >= stepDeadlineAtMs) {
    const late = draft.putAction(execution, { isUncertain: action.isUncertain || isInFlight(action) })
    failStep(draft, late, { code: 'stepTimeout', error: lateError(action), isFinal: false })
    return true
  }
  const operation = compensation === undefined ? 'action' : 'compensation'
  const half = compensation ?? action
  // What is in flight is answered, or unknown, before it matters that it is late.
  if (half.status !== 'running' || half.attemptDeadlineAtMs > 0 || wallMs < half.lastDispatchAtMs)
    return false
  park(draft, execution, operation, half.isLater ? 'nobody completed it in time' : tooLate(half))
  return true
}

const tooLate = ({ firstDispatchAtMs }: OperationState): string =>
  firstDispatchAtMs === 0 ? 'nobody could take it in time' : 'last-dispatch deadline passed'

const lateError = ({ error, firstDispatchAtMs }: OperationState): string => {
  if (error !== '') return `not done in time; at last: ${error}`
  return firstDispatchAtMs === 0 ? 'not done in time: nobody took it' : 'not done in time'
}
