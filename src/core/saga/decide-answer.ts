/** What became of an attempt of an action or a compensation: see the tables in `image.ts`. */
import { fullJitterMs } from '../backoff.ts'
import { brief } from '../decision.ts'
import { EscrowError, unreachable } from '../errors.ts'
import {
  abandon,
  dispatch,
  endAction,
  failStep,
  hasBarrier,
  operationOf,
  park,
  putOperation,
} from './decide-step.ts'
import type { NobodyCalled, StepOperation, StepOutcome } from './decision.ts'
import { type Draft, parsedOf, textOf } from './draft.ts'
import { type Execution, isActive, isInFlight, isUndoing, mayHaveHappened } from './image.ts'
import type { StepPolicy } from './program.ts'

/** An answer to one attempt. */
export interface StepAnswer {
  readonly operation: StepOperation
  readonly attempt: number
  readonly outcome: StepOutcome | NobodyCalled
}

/** Takes an answer in. False where it changes nothing: it comes too late, or is none of an attempt that was made. */
export function takeAnswer(draft: Draft, execution: Execution, answer: StepAnswer): boolean {
  const policy = draft.policyOf(execution)
  const half = operationOf(execution, answer.operation)
  if (policy === undefined || half === undefined) return false
  const { outcome } = answer
  if (outcome.outcome === 'noSession' && outcome.isPostponed === true)
    return postpone(draft, execution, answer.operation, policy)
  if (half.firstDispatchAtMs === 0) return false
  if (answer.operation === 'compensation')
    return isUndoing(execution) && answerCompensation(draft, execution, answer, policy)
  return isActive(execution)
    ? answerAction(draft, execution, answer, policy)
    : answerLate(draft, execution, answer)
}

function answerAction(draft: Draft, execution: Execution, answer: StepAnswer, policy: StepPolicy): boolean {
  const { action } = execution
  const { outcome, attempt } = answer
  const isCurrent = attempt === action.attempts + 1 && isInFlight(action)
  // It happened, whichever attempt did it.
  if (outcome.outcome === 'done') return done(draft, execution, outcome, policy)
  // A barrier turns every other attempt away; without one, an attempt that nobody answered may still have its effect.
  const isBarred = outcome.outcome === 'refused' && action.databaseId !== ''
  if (isBarred && (isInFlight(action) || action.isUncertain)) return refused(draft, execution, outcome, true)
  if (!isCurrent || action.status === 'parked') return false
  switch (outcome.outcome) {
    case 'refused':
      return refused(draft, execution, outcome, !action.isUncertain)
    case 'later':
      // One that is to stop is waited for no longer than it was before.
      if (action.status === 'stopping' || action.isLater) return false
      draft.putAction(execution, { isLater: true, attemptDeadlineAtMs: 0 })
      return true
    case 'noSession':
      return nobodyAsked(draft, execution, 'action')
    case 'failed':
    case 'unknown':
      return failed(draft, execution, outcome, policy)
    default:
      return unreachable(outcome.outcome)
  }
}

/** An attempt that is due waits in the store, as too many wait in memory. */
function postpone(
  draft: Draft,
  execution: Execution,
  operation: StepOperation,
  { retry }: StepPolicy,
): boolean {
  const half = operationOf(execution, operation)
  if (half?.status !== 'running' || half.isLater) return false
  const { moment } = draft
  putOperation(draft, execution, operation, {
    attemptDeadlineAtMs: 0,
    // One that was in flight has been lost from memory: it may have its effect.
    isUncertain: half.isUncertain || half.attemptDeadlineAtMs > 0,
    // Half of the pause is fixed, so that a crowd spreads out without anybody being asked at once again.
    nextAttemptAtMs: moment.logMs + Math.floor(retry.delayMsMax * (0.5 + moment.random() / 2)),
  })
  return true
}

/** Nobody was asked: no attempt. */
function nobodyAsked(draft: Draft, execution: Execution, operation: StepOperation): boolean {
  const half = operationOf(execution, operation)
  if (half === undefined) return false
  if (operation === 'action' && half.status === 'stopping') {
    abandon(draft, endAction(draft, execution, 'stopped'))
    return true
  }
  const wasNever = half.attempts === 0 && !half.isUncertain
  putOperation(draft, execution, operation, {
    attemptDeadlineAtMs: 0,
    nextAttemptAtMs: draft.moment.logMs,
    firstDispatchAtMs: wasNever ? 0 : half.firstDispatchAtMs,
    databaseId: wasNever ? '' : half.databaseId,
  })
  if (operation === 'action' && wasNever && draft.next.pivot === execution.n) draft.next.pivot = 0
  return true
}

function done(draft: Draft, execution: Execution, outcome: StepOutcome, policy: StepPolicy): boolean {
  const { n, action } = execution
  if (action.status === 'stopping') {
    abandon(draft, endAction(draft, withResult(draft, execution, outcome.result), 'stopped'))
    return true
  }
  let result: string
  try {
    result = parsedResult(draft, execution, outcome.result, policy)
  } catch (thrown) {
    // The action stands, so it is to be undone; but nothing that follows could use what it gave.
    const error = `its result can't be used: ${EscrowError.from(thrown).message}`
    failStep(draft, draft.put({ ...execution, isDone: true }), {
      code: 'invalidResult',
      error,
      isFinal: false,
    })
    return true
  }
  endAction(draft, execution, 'done', { code: '', error: '' }, result)
  draft.enqueue({ type: 'step', n })
  return true
}

/** The result as the schema has it. Throws what the user's schema throws, `SyntaxError`, `tooLarge`. */
function parsedResult(draft: Draft, { n }: Execution, text: string, { step }: StepPolicy): string {
  const given = parsedOf(text)
  const value = draft.program.parseResult(step, given)
  const result = value === given ? text : textOf(value)
  draft.addBytes(`the result of step ${step}`, result)
  draft.lastResult = { n, value }
  return result
}

/** The execution with a result that only its compensation is given; one that is too large is left out. */
function withResult(draft: Draft, execution: Execution, result: string): Execution {
  try {
    parsedOf(result)
    draft.addBytes('a result', result)
    return { ...execution, isDone: true, result }
  } catch {
    return { ...execution, isDone: true }
  }
}

function refused(draft: Draft, execution: Execution, outcome: StepOutcome, isFinal: boolean): boolean {
  const known = draft.putAction(execution, {
    attempts: execution.action.attempts + 1,
    attemptDeadlineAtMs: 0,
    isLater: false,
    isUncertain: !isFinal,
  })
  if (known.action.status === 'stopping') {
    abandon(draft, endAction(draft, known, 'stopped'))
    return true
  }
  const error = isFinal ? outcome.error : `refused, but an earlier attempt was not answered: ${outcome.error}`
  failStep(draft, known, { code: outcome.code || 'refused', error, isFinal })
  return true
}

function failed(draft: Draft, execution: Execution, outcome: StepOutcome, policy: StepPolicy): boolean {
  const { action } = execution
  const attempts = action.attempts + 1
  const answered = draft.putAction(execution, {
    attempts,
    attemptDeadlineAtMs: 0,
    isLater: false,
    // A call that the network brings twice may do its work after all: where a barrier can turn it away, it is asked to.
    isUncertain: action.isUncertain || outcome.outcome === 'unknown' || hasBarrier(execution, policy),
    code: outcome.code,
    error: brief(outcome.error),
  })
  if (action.status === 'stopping') {
    abandon(draft, endAction(draft, answered, 'stopped'))
    return true
  }
  const { code, error } = outcome
  if (outcome.outcome === 'failed' && policy.nonRetryable.includes(code)) {
    failStep(draft, answered, { code, error, isFinal: true })
  } else if (policy.retry.attemptsMax > 0 && attempts >= policy.retry.attemptsMax) {
    const exhausted = `attempts exhausted: ${error}`
    failStep(draft, answered, { code: code || 'attemptsExhausted', error: exhausted, isFinal: false })
  } else {
    draft.putAction(answered, { nextAttemptAtMs: nextAttemptAtMs(draft, policy, attempts) })
  }
  return true
}

const nextAttemptAtMs = ({ moment }: Draft, { retry }: StepPolicy, attempts: number): number =>
  moment.logMs + fullJitterMs(retry, attempts, moment.random())

/** What is told of an action after the saga has gone on without it: that it happened, where nobody knew. */
function answerLate(draft: Draft, execution: Execution, { outcome }: StepAnswer): boolean {
  const { compensation } = execution
  if (outcome.outcome !== 'done' || execution.isDone || !mayHaveHappened(execution)) return false
  const known = draft.put(withResult(draft, execution, outcome.result))
  // It was parked only because nobody knew.
  if (
    compensation?.status === 'parked' &&
    compensation.firstDispatchAtMs === 0 &&
    compensation.attempts === 0
  )
    dispatch(
      draft,
      draft.putCompensation(known, { status: 'running', isUncertain: false, error: '' }),
      'compensation',
    )
  return true
}

function answerCompensation(
  draft: Draft,
  execution: Execution,
  { outcome, attempt }: StepAnswer,
  policy: StepPolicy,
): boolean {
  const half = execution.compensation
  if (half === undefined) return false
  const { code, error } = outcome.outcome === 'noSession' ? { code: '', error: outcome.error } : outcome
  if (outcome.outcome === 'done') {
    draft.putCompensation(execution, {
      status: 'done',
      isLater: false,
      attemptDeadlineAtMs: 0,
      code: '',
      error: '',
    })
    return true
  }
  if (attempt !== half.attempts + 1 || !isInFlight(half)) return false
  if (outcome.outcome === 'noSession') return nobodyAsked(draft, execution, 'compensation')
  const { attemptsMax } = policy.retry
  const isHopeless =
    outcome.outcome === 'refused' || (outcome.outcome === 'failed' && policy.nonRetryable.includes(code))
  const isExhausted = attemptsMax > 0 && attempt >= attemptsMax
  const answered = draft.putCompensation(execution, {
    attempts: attempt,
    attemptDeadlineAtMs: 0,
    isLater: false,
    isUncertain: half.isUncertain || outcome.outcome === 'unknown' || outcome.outcome === 'later',
    code,
    error: brief(outcome.outcome === 'later' ? 'a compensation answers when it is done, not later' : error),
    nextAttemptAtMs:
      isHopeless || isExhausted ? half.nextAttemptAtMs : nextAttemptAtMs(draft, policy, attempt),
  })
  if (isHopeless) park(draft, answered, 'compensation', `${outcome.outcome}: ${error}`)
  else if (isExhausted) park(draft, answered, 'compensation', `attempts exhausted: ${error}`)
  return true
}
