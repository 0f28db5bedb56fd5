/** The verbs of an operator, each naming the execution that it means; a saga that is stuck is meant by the head's id. */
import { abandon, dispatch, endAction, newOperation } from './decide-step.ts'
import { beginUnwinding, isPastPivot, isUnclear } from './decide-unwind.ts'
import { refuseSaga, type SagaCommand, type SagaDecision } from './decision.ts'
import { bytesOf, type Draft } from './draft.ts'
import { type Execution, executionNumber, type OperationState } from './image.ts'

/** What is decided of a command that an operator gives. */
export type OperatorCommand = Extract<
  SagaCommand,
  { type: 'retryExecution' | 'skipExecution' | 'compensateExecution' }
>

/** Changes the draft as the operator wants it; returns the refusal where it can't be. */
export function operate(draft: Draft, command: OperatorCommand): SagaDecision | undefined {
  if (command.executionId === draft.head.executionId) return operateOnSaga(draft, command)
  const execution = draft.next.executions.get(executionNumber(draft.head, command.executionId))
  if (execution === undefined)
    return refuseSaga('unknownExecution', `no execution ${JSON.stringify(command.executionId)} in this saga`)
  if (execution.compensation?.status === 'parked') return operateOnCompensation(draft, execution, command)
  if (execution.action.status === 'parked') return operateOnAction(draft, execution, command)
  const { status } = execution.compensation ?? execution.action
  return refuseSaga('notParked', `execution ${command.executionId} is ${status}, not parked`)
}

function operateOnSaga(draft: Draft, command: OperatorCommand): SagaDecision | undefined {
  if (draft.next.stuck === '') return refuseSaga('notParked', 'nothing keeps the saga itself from going on')
  switch (command.type) {
    case 'retryExecution':
      draft.next.stuck = ''
      return undefined
    case 'compensateExecution':
      return giveUp(draft, 'an operator had it compensated')
    case 'skipExecution': {
      const [event] = draft.next.queue
      if (event?.type !== 'signal')
        return refuseSaga(
          'unsupported',
          'only a signal can be skipped: retry, compensate or migrate the saga',
        )
      draft.next.queue = draft.next.queue.slice(1)
      draft.next.bytes -= bytesOf(event.payload)
      draft.next.stuck = ''
      return undefined
    }
  }
}

/** Undoes the saga, unless it is past its pivot. */
export function giveUp(draft: Draft, reason: string): SagaDecision | undefined {
  if (isPastPivot(draft.next))
    return refuseSaga('pastPivot', 'the pivot was sent and not refused: the saga only goes forward')
  beginUnwinding(draft, reason)
  return undefined
}

function operateOnAction(
  draft: Draft,
  execution: Execution,
  command: OperatorCommand,
): SagaDecision | undefined {
  switch (command.type) {
    case 'retryExecution':
      return retry(draft, execution, 'action', command.acceptPossibleDuplicate)
    case 'skipExecution': {
      const { n } = endAction(draft, execution, 'skipped')
      if (draft.next.pivot === 0 && draft.policyOf(execution)?.class === 'pivot') draft.next.pivot = n
      if (draft.next.phase === 'running' && !draft.next.isMachineDone) draft.enqueue({ type: 'step', n })
      else abandon(draft, execution)
      return undefined
    }
    case 'compensateExecution': {
      if (draft.next.isMachineDone)
        return refuseSaga('unsupported', 'the flow is done: retry or skip the execution')
      if (draft.next.pivot === execution.n && !execution.isDone) {
        // The operator's word that the pivot did nothing: nobody else can say so any more.
        draft.putAction(execution, { isUncertain: execution.hasCompensation })
        draft.next.pivot = 0
      }
      return giveUp(draft, `an operator had it compensated at step ${execution.step}`)
    }
  }
}

function operateOnCompensation(
  draft: Draft,
  execution: Execution,
  command: OperatorCommand,
): SagaDecision | undefined {
  if (command.type === 'skipExecution') {
    draft.putCompensation(execution, { status: 'skipped' })
    return undefined
  }
  if (!isUnclear(draft, execution.n)) {
    const accepts = command.type === 'retryExecution' && command.acceptPossibleDuplicate
    return retry(draft, execution, 'compensation', accepts)
  }
  if (command.type === 'retryExecution' && !command.acceptPossibleDuplicate) {
    return refuseSaga(
      'possibleDuplicate',
      'nobody knows whether the action happened, and no barrier can tell: compensate it if it did, else skip it',
    )
  }
  // Who says compensate, says that the action happened.
  const isDone = execution.isDone || command.type === 'compensateExecution'
  dispatch(draft, draft.put({ ...execution, isDone, compensation: newOperation(draft) }), 'compensation')
  return undefined
}

function retry(
  draft: Draft,
  execution: Execution,
  operation: 'action' | 'compensation',
  acceptPossibleDuplicate: boolean,
): SagaDecision | undefined {
  const half = (operation === 'action' ? execution.action : execution.compensation) as OperationState
  const { wallMs, logMs, limits } = draft.moment
  const isLate = half.firstDispatchAtMs > 0 && wallMs >= half.lastDispatchAtMs
  if (isLate && !acceptPossibleDuplicate)
    return refuseSaga(
      'possibleDuplicate',
      'the last-dispatch deadline has passed: the participant may have done it, and forgotten',
    )
  const again: OperationState = {
    ...half,
    status: 'running',
    attempts: 0,
    nextAttemptAtMs: logMs,
    firstDispatchAtMs: isLate ? 0 : half.firstDispatchAtMs,
    lastDispatchAtMs:
      isLate || half.firstDispatchAtMs === 0 ? wallMs + limits.lastDispatchMsMax : half.lastDispatchAtMs,
  }
  const timeoutMs = draft.policyOf(execution)?.stepTimeoutMs ?? 0
  const next: Execution =
    operation === 'action'
      ? { ...execution, action: again, ended: 0, stepDeadlineAtMs: timeoutMs === 0 ? 0 : logMs + timeoutMs }
      : { ...execution, compensation: again }
  dispatch(draft, draft.put(next), operation)
  return undefined
}

/** The answer of an image on which an operator's verb has nothing to work. */
export const notParked = (status: string): SagaDecision =>
  refuseSaga('notParked', `the saga is ${status}, not parked`)
