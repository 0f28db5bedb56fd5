/** What calls of steps are to a log: whom they go to, what they wait for, what became of them. */
import type { DeliverRequest, StepRequest } from '../core/api.ts'
import type { Headers } from '../core/envelope.ts'
import { unreachable } from '../core/errors.ts'
import { type Destination, destinationParts } from '../core/ids.ts'
import type {
  NobodyCalled,
  SagaCommand,
  StepAddress,
  StepOperation,
  StepOutcome,
} from '../core/saga/decision.ts'
import type { OutstandingSaga } from '../core/saga/outstanding.ts'
import type { StepPolicy } from '../core/saga/program.ts'
import type { DeliveryOutcome } from './outlet.ts'
import { outcomeOf } from './saga-requests.ts'
import type { StepOutcome as CallOutcome, StepName } from './step-outlet.ts'

/** An execution and which half of it: `2 n` for its action, `2 n + 1` for its compensation. */
export type StepCode = number

/** The code of a half of an execution. */
export const codeOf = (n: number, operation: StepOperation): StepCode =>
  2 * n + (operation === 'action' ? 0 : 1)
/** Which half a code means. */
export const operationOf = (code: StepCode): StepOperation => (code % 2 === 0 ? 'action' : 'compensation')
/** The number of the execution that a code means. */
export const executionOf = (code: StepCode): number => Math.floor(code / 2)

/** How an attempt ended, or that nobody was there. */
export type AttemptOutcome = StepOutcome | NobodyCalled

/** What a participant's answer is to a decision. */
export const outcomeOfCall = (outcome: CallOutcome): AttemptOutcome =>
  outcome.outcome === 'noSession' ? outcome : outcomeOf(outcome)

/** The same of a message that a step sent. */
export function outcomeOfDelivery({ outcome, error }: DeliveryOutcome): AttemptOutcome {
  if (outcome === 'noSession') return { outcome, error }
  return { outcome: outcome === 'delivered' ? 'done' : outcome, result: '', code: '', error }
}

/** Whether a message is sent, instead of a participant's step called. */
export const isPublication = (policy: StepPolicy, operation: StepOperation): boolean =>
  policy.destination !== '' && operation === 'action'

/** The participant's step that is called. */
export function calledAt(policy: StepPolicy, operation: StepOperation): StepName {
  return operation === 'compensation' && policy.compensation !== undefined
    ? policy.compensation
    : { service: policy.service, step: policy.action }
}

/** What decides, beside its receiver, whether a call is taken. */
export const kindOf = ({ head, policy, operation, databaseId }: StepAddress): string =>
  `${head.saga} ${head.version} ${policy.step} ${operation} ${databaseId}`

/** Whom a call waits for. */
export function receiverOf({ head, policy, operation }: StepAddress): string {
  const { service, step } = calledAt(policy, operation)
  const receiver = isPublication(policy, operation) ? policy.destination : `${service}/${step}`
  return `${head.namespace} ${receiver}`
}

/** The command for what is due, other than a call. */
export function commandOf(due: Exclude<OutstandingSaga, { what: 'step' }>): SagaCommand {
  switch (due.what) {
    case 'stepDeadline':
      return { type: 'stepDeadlineDue', n: due.n }
    case 'timer':
      return { type: 'timerDue', timer: due.timer }
    case 'deadline':
      return { type: 'deadlineDue' }
    default:
      return unreachable(due)
  }
}

/** The message that a step sends, instead of the call that it would be. */
export function publicationOf(
  { namespace, transactionId, executionId, attempt, input, trace, timeoutMs }: StepRequest,
  destination: Destination,
  key: string,
): DeliverRequest {
  const to = destinationParts(destination)
  return {
    namespace,
    transactionId,
    executionId,
    attempt,
    service: to.kind === 'participant' ? to.service : to.broker,
    handler: to.kind === 'participant' ? to.handler : to.topic,
    body: Buffer.from(input),
    headers: NO_HEADERS,
    key,
    contentType: 'application/json',
    trace,
    timeoutMs,
  }
}

const NO_HEADERS: Headers = Object.freeze({})
