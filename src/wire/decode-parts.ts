/** The parts of items that are read by hand; each is read into a draft, so that a message that comes again is merged. */
import type {
  CheckBackRequest,
  CheckBackResponse,
  CommitRequest,
  DeliverRequest,
  DeliverResponse,
  FixedBody,
  PrepareRequest,
  RollbackRequest,
  TransactionRef,
} from '../core/api.ts'
import { type HalfMessageInput, NO_TRACE, type TraceContext } from '../core/envelope.ts'
import type { CheckBackPolicy, RetryPolicy } from '../core/message.ts'
import { type LastText, malformed, type ProtoReader } from './proto-reader.ts'
import { exhaustedOf, outcomeOf, resolutionOf } from './scalars.ts'

/** What is being read: the same shape, not finished. */
export type Draft<T> = { -readonly [K in keyof T]: T[K] }

const EMPTY = new Uint8Array(0)
const lastText = (): LastText => ({ text: '' })

/** The names that a stream read last, field by field: they are the same again and again. */
export class LastNames {
  readonly namespace = lastText()
  readonly checker = lastText()
  readonly destination = lastText()
  readonly service = lastText()
  readonly handler = lastText()
  readonly contentType = lastText()
  readonly databaseId = lastText()
  readonly headerName = lastText()
  readonly saga = lastText()
  readonly step = lastText()
  readonly signal = lastText()
}

/** Reads a trace. */
export function readTrace(reader: ProtoReader, known: TraceContext | undefined): TraceContext {
  const draft: Draft<TraceContext> = { ...(known ?? NO_TRACE) }
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 10) draft.traceparent = reader.text()
    else if (tag === 18) draft.tracestate = reader.text()
    else if (tag === 26) draft.baggage = reader.text()
    else reader.skip(tag, 3)
  }
  reader.leave(outer)
  return draft
}

/** Reads an entry of a map of texts into it; a name that comes again wins. */
export function readEntry(reader: ProtoReader, map: Record<string, string>, last: LastText): void {
  let name = ''
  let value = ''
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 10) name = reader.name(last)
    else if (tag === 18) value = reader.text()
    else reader.skip(tag, 2)
  }
  reader.leave(outer)
  if (name !== '__proto__') map[name] = value
  // An assignment would set the prototype, and drop the header in silence.
  else Object.defineProperty(map, name, { value, enumerable: true, configurable: true, writable: true })
}

function readFixedBody(reader: ProtoReader): FixedBody {
  const draft = { index: 0, body: EMPTY as Uint8Array }
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 8) draft.index = reader.uint32()
    else if (tag === 18) draft.body = reader.body()
    else reader.skip(tag, 2)
  }
  reader.leave(outer)
  return draft
}

/** A prepare to be read into. */
export const prepareDraft = (): Draft<PrepareRequest> => ({
  namespace: undefined,
  id: undefined,
  checker: '',
  orderingKey: undefined,
  messages: [],
  checkBack: undefined,
  retry: undefined,
  databaseId: undefined,
  trace: undefined,
})

/** Reads a prepare. */
export function readPrepare(reader: ProtoReader, names: LastNames, draft: Draft<PrepareRequest>): void {
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    switch (tag) {
      case 10:
        draft.namespace = reader.name(names.namespace) || undefined
        break
      case 18:
        draft.id = reader.text() || undefined
        break
      case 26:
        draft.checker = reader.name(names.checker)
        break
      case 34:
        draft.orderingKey = reader.text() || undefined
        break
      case 42:
        ;(draft.messages as HalfMessageInput[]).push(readHalfMessage(reader, names))
        break
      case 50:
        draft.checkBack = readCheckBackPolicy(reader, draft.checkBack)
        break
      case 58:
        draft.retry = readRetryPolicy(reader, draft.retry)
        break
      case 66:
        draft.databaseId = reader.name(names.databaseId) || undefined
        break
      case 74:
        draft.trace = readTrace(reader, draft.trace)
        break
      default:
        reader.skip(tag, 9)
    }
  }
  reader.leave(outer)
}

function readHalfMessage(reader: ProtoReader, names: LastNames): HalfMessageInput {
  const headers: Record<string, string> = {}
  const draft: Draft<HalfMessageInput> = {
    destination: '',
    body: EMPTY,
    bodyAtCommit: false,
    headers,
    key: undefined,
    deliverAtMs: 0,
    contentType: undefined,
  }
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    switch (tag) {
      case 10:
        draft.destination = reader.name(names.destination)
        break
      case 18:
        draft.body = reader.body()
        break
      case 24:
        draft.bodyAtCommit = reader.bool()
        break
      case 34:
        readEntry(reader, headers, names.headerName)
        break
      case 42:
        draft.key = reader.text() || undefined
        break
      case 48:
        draft.deliverAtMs = reader.int64('deliver_at_ms')
        break
      case 58:
        draft.contentType = reader.name(names.contentType) || undefined
        break
      default:
        reader.skip(tag, 7)
    }
  }
  reader.leave(outer)
  return draft
}

// A zero field takes the coordinator's default, so that it is left out; one that comes again as zero is taken back.
function readCheckBackPolicy(
  reader: ProtoReader,
  known: Partial<CheckBackPolicy> | undefined,
): Partial<CheckBackPolicy> {
  const draft: Partial<Draft<CheckBackPolicy>> = { ...known }
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 8) set(draft, 'delayMs', reader.int64('delay_ms'))
    else if (tag === 16) set(draft, 'delayMsMax', reader.int64('delay_ms_max'))
    else if (tag === 24) set(draft, 'checksMax', reader.uint32())
    else if (tag === 32) readExhausted(reader, draft)
    else if (tag === 40) set(draft, 'unresolvedMsMax', reader.int64('unresolved_ms_max'))
    else reader.skip(tag, 5)
  }
  reader.leave(outer)
  return draft
}

function readExhausted(reader: ProtoReader, draft: Partial<Draft<CheckBackPolicy>>): void {
  const value = reader.uint32()
  try {
    const word = exhaustedOf(value)
    if (word === undefined) delete draft.onExhausted
    else draft.onExhausted = word
  } catch (error) {
    reader.note(error)
  }
}

function readRetryPolicy(reader: ProtoReader, known: Partial<RetryPolicy> | undefined): Partial<RetryPolicy> {
  const draft: Partial<Draft<RetryPolicy>> = { ...known }
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 8) set(draft, 'attemptsMax', reader.uint32())
    else if (tag === 16) set(draft, 'delayMs', reader.int64('delay_ms'))
    else if (tag === 24) set(draft, 'delayMsMax', reader.int64('delay_ms_max'))
    else if (tag === 32) set(draft, 'attemptTimeoutMs', reader.int64('attempt_timeout_ms'))
    else reader.skip(tag, 4)
  }
  reader.leave(outer)
  return draft
}

function set<Name extends string>(draft: { [K in Name]?: number }, name: Name, value: number): void {
  if (value === 0) delete draft[name]
  else draft[name] = value
}

/** Reads a commit. */
export function readCommit(reader: ProtoReader, names: LastNames, draft: Draft<CommitRequest>): void {
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 10) draft.namespace = reader.name(names.namespace) || undefined
    else if (tag === 18) draft.id = reader.text()
    else if (tag === 26) {
      draft.bodies ??= []
      ;(draft.bodies as FixedBody[]).push(readFixedBody(reader))
    } else reader.skip(tag, 3)
  }
  reader.leave(outer)
}

/** Reads a rollback. */
export function readRollback(reader: ProtoReader, names: LastNames, draft: Draft<RollbackRequest>): void {
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 10) draft.namespace = reader.name(names.namespace) || undefined
    else if (tag === 18) draft.id = reader.text()
    else if (tag === 26) draft.reason = reader.text() || undefined
    else reader.skip(tag, 3)
  }
  reader.leave(outer)
}

/** Reads the name of a transaction. */
export function readRef(reader: ProtoReader, names: LastNames, draft: Draft<TransactionRef>): void {
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 10) draft.namespace = reader.name(names.namespace) || undefined
    else if (tag === 18) draft.id = reader.text()
    else reader.skip(tag, 2)
  }
  reader.leave(outer)
}

/** Reads the answer to a delivery. */
export function readDeliverResponse(reader: ProtoReader, draft: Draft<DeliverResponse>): void {
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 8) draft.outcome = outcomeOf(reader.uint32())
    else if (tag === 18) draft.error = reader.text()
    else reader.skip(tag, 2)
  }
  reader.leave(outer)
}

/** Reads the answer to a check-back. */
export function readCheckBackResponse(reader: ProtoReader, draft: Draft<CheckBackResponse>): void {
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 8) draft.resolution = resolutionOf(reader.uint32())
    else if (tag === 18) (draft.bodies as FixedBody[]).push(readFixedBody(reader))
    else if (tag === 26) draft.error = reader.text()
    else reader.skip(tag, 3)
  }
  reader.leave(outer)
}

/** A delivery to be read into. */
export const deliverDraft = (): Draft<DeliverRequest> => ({
  namespace: '',
  transactionId: '',
  executionId: '',
  attempt: 0,
  service: '',
  handler: '',
  body: EMPTY,
  headers: {},
  key: '',
  contentType: '',
  trace: NO_TRACE,
  timeoutMs: 0,
})

/** Reads a delivery. */
export function readDeliver(reader: ProtoReader, names: LastNames, draft: Draft<DeliverRequest>): void {
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    switch (tag) {
      case 10:
        draft.namespace = reader.name(names.namespace)
        break
      case 18:
        draft.transactionId = reader.text()
        break
      case 26:
        draft.executionId = reader.text()
        break
      case 32:
        draft.attempt = reader.uint32()
        break
      case 42:
        draft.service = reader.name(names.service)
        break
      case 50:
        draft.handler = reader.name(names.handler)
        break
      case 58:
        draft.body = reader.body()
        break
      case 66:
        readEntry(reader, draft.headers as Record<string, string>, names.headerName)
        break
      case 74:
        draft.key = reader.text()
        break
      case 82:
        draft.contentType = reader.name(names.contentType)
        break
      case 90:
        draft.trace = readTrace(reader, draft.trace)
        break
      case 96:
        draft.timeoutMs = reader.int64('timeout_ms')
        break
      default:
        reader.skip(tag, 12)
    }
  }
  reader.leave(outer)
}

/** A check-back to be read into. */
export const checkBackDraft = (): Draft<CheckBackRequest> => ({
  namespace: '',
  transactionId: '',
  executionId: '',
  attempt: 0,
  checker: '',
  preparedAtMs: 0,
  trace: NO_TRACE,
  timeoutMs: 0,
})

/** Reads a check-back. */
export function readCheckBack(reader: ProtoReader, names: LastNames, draft: Draft<CheckBackRequest>): void {
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 10) draft.namespace = reader.name(names.namespace)
    else if (tag === 18) draft.transactionId = reader.text()
    else if (tag === 26) draft.executionId = reader.text()
    else if (tag === 32) draft.attempt = reader.uint32()
    else if (tag === 42) draft.checker = reader.name(names.checker)
    else if (tag === 48) draft.preparedAtMs = reader.int64('prepared_at_ms')
    else if (tag === 58) draft.trace = readTrace(reader, draft.trace)
    else if (tag === 64) draft.timeoutMs = reader.int64('timeout_ms')
    else reader.skip(tag, 8)
  }
  reader.leave(outer)
}

/** Throws what was noted while an item was read that nobody could answer. */
export function throwProblem(reader: ProtoReader): void {
  if (reader.problem === undefined) return
  const { message } = reader.problem
  reader.problem = undefined
  throw malformed(message)
}
