import { createHash } from 'node:crypto'
import type { OperationRequest, PrepareRequest } from '../core/api.ts'
import type { MessageCommand } from '../core/decision.ts'
import {
  checkBodies,
  type HalfMessage,
  type Limits,
  NO_TRACE,
  parseHalfMessages,
  parseTrace,
} from '../core/envelope.ts'
import { EscrowError } from '../core/errors.ts'
import {
  type ExecutionId,
  type Namespace,
  orderingKeyRouting,
  parseName,
  routingPart,
  type TransactionId,
} from '../core/ids.ts'
import type { CheckBackPolicy, MessageHead, RetryPolicy } from '../core/message.ts'

/** The policies where a caller says nothing. */
export interface PolicyDefaults {
  readonly checkBack: CheckBackPolicy
  readonly retry: RetryPolicy
}

const YEAR_MS = 365 * 86_400_000
const REASON_CHARACTERS_MAX = 1_024
const DATABASE_ID = /^[\x21-\x7e]{0,64}$/

/** Who prepares, and what is known of the id. */
export interface PrepareContext {
  readonly namespace: Namespace
  readonly id: TransactionId
  readonly executionId: ExecutionId
  readonly isMinted: boolean
  readonly limits: Limits
  readonly defaults: PolicyDefaults
}

/** Parses a prepare. Its times are set by the log that takes it. Throws `invalidArgument`, `tooLarge`, `orderingKeyMismatch`. */
export function parsePrepare(request: PrepareRequest, context: PrepareContext): MessageHead {
  const { namespace, id, executionId, limits, defaults } = context
  const orderingKey = request.orderingKey ?? ''
  const messages = parseHalfMessages(request.messages, orderingKey, limits)
  if (orderingKey !== '' && routingPart(id) !== orderingKeyRouting(orderingKey)) {
    throw new EscrowError(
      'orderingKeyMismatch',
      `id ${JSON.stringify(id)} doesn't have its orderingKey, percent-encoded, in braces`,
    )
  }
  const databaseId = request.databaseId ?? ''
  if (!DATABASE_ID.test(databaseId))
    throw new EscrowError('invalidArgument', 'databaseId is not 0-64 visible ASCII characters')
  const checkBack = parseCheckBack(request.checkBack, defaults.checkBack)
  const retry = parseRetry(request.retry, defaults.retry)
  const checker = parseName('checker', request.checker)
  return {
    kind: 'message',
    namespace,
    id,
    executionId,
    checker,
    orderingKey,
    messages,
    checkBack,
    retry,
    databaseId,
    trace: request.trace === undefined ? NO_TRACE : parseTrace(request.trace),
    // A minted id is repeated by the session that minted it, and by nobody else: it always comes with the same content.
    contentHash: context.isMinted ? '' : contentHash(request, messages),
    preparedAtMs: 0,
    preparedAtLogMs: 0,
  }
}

/** Of what the caller gave, not of what the defaults made of it: those may change between two sendings. */
function contentHash(request: PrepareRequest, messages: readonly HalfMessage[]): string {
  const hash = createHash('sha256')
  const about = messages.map(({ body, headers, ...rest }) => ({
    ...rest,
    bytes: body?.length ?? -1,
    headers: Object.entries(headers).sort(([one], [other]) => (one < other ? -1 : 1)),
  }))
  const policies = [withoutEmpty(request.checkBack ?? {}), withoutEmpty(request.retry ?? {})]
  hash.update(
    JSON.stringify([request.checker, request.orderingKey ?? '', request.databaseId ?? '', policies, about]),
  )
  for (const { body } of messages) if (body !== undefined) hash.update(body)
  return hash.digest('base64url')
}

function parseCheckBack(
  given: Partial<CheckBackPolicy> | undefined,
  defaults: CheckBackPolicy,
): CheckBackPolicy {
  if (given === undefined) return defaults
  const policy = { ...defaults, ...withoutEmpty(given) }
  bounded('checkBack.delayMs', policy.delayMs, 1, YEAR_MS)
  bounded('checkBack.delayMsMax', policy.delayMsMax, 1, YEAR_MS)
  bounded('checkBack.checksMax', policy.checksMax, 1, 1_000_000)
  bounded('checkBack.unresolvedMsMax', policy.unresolvedMsMax, 1, YEAR_MS)
  if (!['park', 'commit', 'rollback'].includes(policy.onExhausted)) {
    throw new EscrowError(
      'invalidArgument',
      `checkBack.onExhausted ${JSON.stringify(policy.onExhausted)} is not park, commit or rollback`,
    )
  }
  return { ...policy, delayMsMax: Math.max(policy.delayMs, policy.delayMsMax) }
}

function parseRetry(given: Partial<RetryPolicy> | undefined, defaults: RetryPolicy): RetryPolicy {
  if (given === undefined) return defaults
  const policy = { ...defaults, ...withoutEmpty(given), lastDispatchMsMax: defaults.lastDispatchMsMax }
  bounded('retry.attemptsMax', policy.attemptsMax, 1, 1_000_000)
  bounded('retry.delayMs', policy.delayMs, 1, YEAR_MS)
  bounded('retry.delayMsMax', policy.delayMsMax, 1, YEAR_MS)
  bounded('retry.attemptTimeoutMs', policy.attemptTimeoutMs, 1, 86_400_000)
  return { ...policy, delayMsMax: Math.max(policy.delayMs, policy.delayMsMax) }
}

/** A policy without the fields that say nothing: undefined, and 0, which is how protobuf leaves a field out. */
function withoutEmpty<Policy extends object>(policy: Policy): Partial<Policy> {
  return Object.fromEntries(
    Object.entries(policy).filter(([, value]) => value !== undefined && value !== 0),
  ) as Partial<Policy>
}

function bounded(name: string, value: number, min: number, max: number): void {
  if (Number.isSafeInteger(value) && value >= min && value <= max) return
  throw new EscrowError(
    'invalidArgument',
    `${name} is ${value}, allowed are whole numbers from ${min} to ${max}`,
  )
}

/** The command of an operation on one transaction; undefined for one that only reads. Throws `tooLarge`. */
export function commandOf(operation: OperationRequest, limits: Limits): MessageCommand | undefined {
  switch (operation.op) {
    case 'commit': {
      const bodies = operation.request.bodies ?? []
      checkBodies(bodies, limits)
      return { type: 'commitMessage', by: 'caller', bodies }
    }
    case 'rollback':
      return {
        type: 'rollbackMessage',
        by: 'caller',
        reason: (operation.request.reason ?? '').slice(0, REASON_CHARACTERS_MAX),
      }
    case 'requestCheckBack':
      return { type: 'requestCheckBack' }
    case 'retry': {
      const { executionId, acceptPossibleDuplicate } = operation.request
      return {
        type: 'retryExecution',
        executionId,
        acceptPossibleDuplicate: acceptPossibleDuplicate ?? false,
      }
    }
    case 'skip':
      return { type: 'skipExecution', executionId: operation.request.executionId }
    case 'compensate':
      return { type: 'compensateExecution', executionId: operation.request.executionId }
    default:
      return undefined
  }
}
