import { createHash } from 'node:crypto'
import type { OperationRequest, StartRequest, StepResponse } from '../core/api.ts'
import { NO_TRACE, parseTrace } from '../core/envelope.ts'
import { EscrowError } from '../core/errors.ts'
import {
  type ExecutionId,
  type Namespace,
  orderingKeyRouting,
  routingPart,
  type TransactionId,
} from '../core/ids.ts'
import { overBound, type SagaCommand, type SagaLimits, type StepOutcome } from '../core/saga/decision.ts'
import { EMPTY_SAGA } from '../core/saga/image.ts'
import type { SagaProgram } from '../core/saga/program.ts'

const YEAR_MS = 365 * 86_400_000
const REASON_CHARACTERS_MAX = 1_024
const NAME_BYTES_MAX = 256

/** Who starts a saga, and what is known of its id. */
export interface StartContext {
  readonly namespace: Namespace
  readonly id: TransactionId
  readonly executionId: ExecutionId
  readonly isMinted: boolean
  readonly nowMs: number
  readonly program: SagaProgram
  /** Empty unless it is a routing slip. */
  readonly slip: string
}

/** The routing slip of a start, as text; empty for none. Throws `invalidArgument`, `tooLarge`. */
export function slipOf({ slip, saga }: StartRequest, { payloadBytesMax }: SagaLimits): string {
  if (slip === undefined || slip.length === 0) return ''
  if (saga !== '')
    throw new EscrowError('invalidArgument', 'a start names a saga or brings a routing slip, not both')
  if (slip.length > payloadBytesMax)
    throw overBound('the routing slip', slip.length, 'payloadBytesMax', payloadBytesMax)
  return textOf('slip', slip)
}

/** Parses a start. Its times are set by the log that takes it. Throws `invalidArgument`, `orderingKeyMismatch`. */
export function parseStart(
  request: StartRequest,
  context: StartContext,
): Extract<SagaCommand, { type: 'startSaga' }> {
  const { namespace, id, executionId, program, slip, nowMs } = context
  const orderingKey = request.orderingKey ?? ''
  if (orderingKey !== '' && routingPart(id) !== orderingKeyRouting(orderingKey)) {
    throw new EscrowError(
      'orderingKeyMismatch',
      `id ${JSON.stringify(id)} doesn't have its orderingKey, percent-encoded, in braces`,
    )
  }
  const timeoutMs = request.timeoutMs || program.timeoutMs
  if (!Number.isSafeInteger(timeoutMs) || timeoutMs < 0 || timeoutMs > YEAR_MS)
    throw new EscrowError(
      'invalidArgument',
      `timeoutMs is ${timeoutMs}, allowed are whole numbers from 0 to ${YEAR_MS}`,
    )
  const businessKey = request.businessKey ?? ''
  const tags = request.tags ?? EMPTY_SAGA.tags
  checkText(businessKey)
  for (const tag in tags) {
    checkText(tag)
    checkText(tags[tag] as string)
  }
  return {
    type: 'startSaga',
    head: {
      kind: 'saga',
      namespace,
      id,
      executionId,
      saga: slip === '' ? program.name : '',
      version: program.version,
      hash: program.hash,
      slip,
      orderingKey,
      input: request.input === undefined ? '' : textOf('input', request.input),
      trace: request.trace === undefined ? NO_TRACE : parseTrace(request.trace),
      contentHash: context.isMinted ? '' : contentHash(request),
      startedAtMs: 0,
      startedAtLogMs: 0,
      deadlineAtMs: timeoutMs === 0 ? 0 : nowMs + timeoutMs,
    },
    businessKey,
    tags,
  }
}

function checkText(text: string): void {
  if (typeof text === 'string' && text.isWellFormed() && Buffer.byteLength(text) <= NAME_BYTES_MAX) return
  throw new EscrowError(
    'invalidArgument',
    `businessKey and tags are well-formed text of at most ${NAME_BYTES_MAX} bytes each`,
  )
}

/** Of what the caller gave: a repeated start under a given id may find a newer version, and is still the same. */
function contentHash(request: StartRequest): string {
  const { saga, version, slip, input, orderingKey, businessKey, tags, timeoutMs } = request
  const hash = createHash('sha256')
  const sorted = Object.entries(tags ?? {}).sort(([one], [other]) => (one < other ? -1 : 1))
  hash.update(
    JSON.stringify([
      saga,
      version ?? 0,
      orderingKey ?? '',
      businessKey ?? '',
      sorted,
      timeoutMs ?? 0,
      slip?.length ?? 0,
    ]),
  )
  if (slip !== undefined) hash.update(slip)
  if (input !== undefined) hash.update(input)
  return hash.digest('base64url')
}

/** The command of an operation that only sagas have; undefined for any other. Throws `invalidArgument`. */
export function sagaCommandOf(operation: OperationRequest): SagaCommand | undefined {
  switch (operation.op) {
    case 'signal': {
      const { signal, payload, signalId } = operation.request
      checkText(signalId ?? '')
      return {
        type: 'signalSaga',
        signal,
        payload: payload === undefined ? '' : textOf('payload', payload),
        signalId: signalId ?? '',
      }
    }
    case 'cancel':
      return { type: 'cancelSaga', reason: (operation.request.reason ?? '').slice(0, REASON_CHARACTERS_MAX) }
    case 'migrateSaga': {
      const { toVersion } = operation.request
      if (!Number.isSafeInteger(toVersion) || toVersion < 1)
        throw new EscrowError(
          'invalidArgument',
          `toVersion is ${toVersion}, allowed are whole numbers from 1`,
        )
      return { type: 'migrateSaga', version: toVersion }
    }
    case 'complete': {
      const { executionId, response, attempt = 0 } = operation.request
      if (response.outcome === 'later')
        throw new EscrowError('invalidArgument', 'outcome is later: complete tells how the step ended')
      if (!Number.isSafeInteger(attempt) || attempt < 0)
        throw new EscrowError('invalidArgument', `attempt is ${attempt}, allowed are whole numbers from 1`)
      return { type: 'completeStep', executionId, attempt, outcome: outcomeOf(response) }
    }
    default:
      return undefined
  }
}

/** What a participant answered, as decisions take it. */
export function outcomeOf({ outcome, result, code, error }: StepResponse): StepOutcome {
  return { outcome, result: result === undefined ? '' : looseText(result), code, error }
}

const UTF8 = new TextDecoder('utf-8', { fatal: true })

/** What is no UTF-8 becomes a text that is no JSON. */
const looseText = (bytes: Uint8Array): string =>
  // What came in a frame is a Buffer, and needs no other one around it.
  (bytes instanceof Buffer ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)).toString()

function textOf(what: string, bytes: Uint8Array): string {
  try {
    return UTF8.decode(bytes)
  } catch (cause) {
    throw new EscrowError('invalidArgument', `${what} is not JSON: its bytes are no UTF-8`, { cause })
  }
}
