/**
 * The codec of records and images.
 *
 * | bytes        | layout                                                                   |
 * |--------------|--------------------------------------------------------------------------|
 * | full record  | format, key id, kind × 2, head, bodies, state                            |
 * | delta record | format, key id, kind × 2 + 1, transaction key, state                     |
 * | image        | format, key id, kind × 2 (+ 1: without bodies), head, bodies if any, state |
 *
 * A record is the next image, or as much of it as changed: recovery applies it to the image known so far and runs no
 * user code. The key id names the key that the rest is encrypted under; empty is none, and is the only one known yet.
 * Bodies stand apart from the head because a finished image is kept without them. Fields have no tags: another layout is
 * another format number, whose decoder stands beside this one.
 */
import type { HalfMessage, Headers } from '../core/envelope.ts'
import {
  type Destination,
  type ExecutionId,
  type Namespace,
  type TransactionId,
  type TransactionKey,
  transactionKey,
} from '../core/ids.ts'
import type { MessageDelivery, MessageHead, MessageImage, MessageState, SettledBy } from '../core/message.ts'
import { ByteReader, type ByteWriter, corrupt, indexOf } from './binary.ts'
import { putOpening, takeOpening } from './opening.ts'

/** The kind of a message, as records and images name it. */
export const KIND_MESSAGE = 1

/** What a record says. */
export interface DecodedRecord {
  readonly key: TransactionKey
  /** Undefined in a delta: the head is the one known so far. */
  readonly head: MessageHead | undefined
  readonly state: MessageState
}

const ON_EXHAUSTED = ['park', 'commit', 'rollback'] as const
const SETTLED_BY = ['caller', 'checkBack', 'policy'] as const
const DELIVERY = ['waiting', 'delivered', 'parked', 'skipped'] as const
const PREPARED = 0
const UNDECIDED = 1
const COMMITTED = 2
const ROLLED_BACK = 3

/** Bits of a delivery beside its status: which of its fields aren't empty. */
const HAS_ATTEMPTS = 4
const HAS_NEXT_ATTEMPT = 8
const HAS_DISPATCH = 16
const HAS_DATABASE = 32
const HAS_ERROR = 64

const NO_HEADERS: Headers = Object.freeze({})

/** Writes the record that turns `previous` into `next`: whole if there is no previous image or its head was another one. */
export function encodeRecord(
  writer: ByteWriter,
  previous: MessageImage | undefined,
  next: MessageImage,
): void {
  const { head, state } = next
  const isDelta = previous?.head === head
  putOpening(writer, KIND_MESSAGE, isDelta)
  if (isDelta) {
    writer.text(head.namespace)
    writer.text(head.id)
  } else {
    putHead(writer, head)
    putBodies(writer, head.messages)
  }
  putState(writer, state)
}

/** Reads one record; the reader stands behind it afterwards. Throws `storeCorrupt`. */
export function decodeRecord(reader: ByteReader): DecodedRecord {
  const isDelta = takeOpening(reader, KIND_MESSAGE)
  if (isDelta) {
    const key = transactionKey(reader.text() as Namespace, reader.text() as TransactionId)
    return { key, head: undefined, state: takeState(reader) }
  }
  const head = takeHead(reader, true)
  return { key: transactionKey(head.namespace, head.id), head, state: takeState(reader) }
}

/** The image after a record. Throws `storeCorrupt` for a delta to an image that nobody has. */
export function applyRecord(image: MessageImage | undefined, record: DecodedRecord): MessageImage {
  const head = record.head ?? image?.head
  if (head === undefined)
    throw corrupt(`transaction ${record.key}: a change of it is stored, but not what it changes`)
  return { head, state: record.state }
}

/**
 * Writes an image as the bytes of a row. `bodies` false leaves the messages' bodies out (they decode as undefined): what
 * is finished is kept so for its retention time.
 */
export function encodeImage(
  writer: ByteWriter,
  image: MessageImage,
  options: { readonly bodies: boolean },
): void {
  putOpening(writer, KIND_MESSAGE, !options.bodies)
  putHead(writer, image.head)
  if (options.bodies) putBodies(writer, image.head.messages)
  putState(writer, image.state)
}

/** Reads the image of a row. Throws `storeCorrupt`. */
export function decodeImage(bytes: Uint8Array): MessageImage {
  const reader = new ByteReader(bytes, 'a stored image')
  const withBodies = !takeOpening(reader, KIND_MESSAGE)
  const head = takeHead(reader, withBodies)
  const state = takeState(reader)
  if (reader.remaining > 0) throw reader.corrupt(`${reader.remaining} bytes too many`)
  return { head, state }
}

function putHead(writer: ByteWriter, head: MessageHead): void {
  writer.text(head.namespace)
  writer.text(head.id)
  writer.text(head.executionId)
  writer.text(head.checker)
  writer.text(head.orderingKey)
  writer.text(head.databaseId)
  writer.text(head.contentHash)
  writer.f64(head.preparedAtMs)
  writer.f64(head.preparedAtLogMs)
  const { checkBack, retry, trace } = head
  writer.number(checkBack.delayMs)
  writer.number(checkBack.delayMsMax)
  writer.number(checkBack.checksMax)
  writer.number(checkBack.unresolvedMsMax)
  writer.byte(indexOf(ON_EXHAUSTED, checkBack.onExhausted))
  writer.number(retry.delayMs)
  writer.number(retry.delayMsMax)
  writer.number(retry.attemptsMax)
  writer.number(retry.attemptTimeoutMs)
  writer.number(retry.lastDispatchMsMax)
  writer.text(trace.traceparent)
  writer.text(trace.tracestate)
  writer.text(trace.baggage)
  writer.varint(head.messages.length)
  for (const message of head.messages) {
    writer.text(message.destination)
    writer.text(message.key)
    writer.text(message.contentType)
    writer.number(message.deliverAtMs)
    putHeaders(writer, message.headers)
  }
}

function takeHead(reader: ByteReader, withBodies: boolean): MessageHead {
  // A literal's properties are evaluated in their order, which is the order of the bytes.
  const fields = {
    namespace: reader.text() as Namespace,
    id: reader.text() as TransactionId,
    executionId: reader.text() as ExecutionId,
    checker: reader.text(),
    orderingKey: reader.text(),
    databaseId: reader.text(),
    contentHash: reader.text(),
    preparedAtMs: reader.f64(),
    preparedAtLogMs: reader.f64(),
  }
  const checkBack = {
    delayMs: reader.number(),
    delayMsMax: reader.number(),
    checksMax: reader.number(),
    unresolvedMsMax: reader.number(),
    onExhausted: ON_EXHAUSTED[reader.choice(ON_EXHAUSTED.length)] as (typeof ON_EXHAUSTED)[number],
  }
  const retry = {
    delayMs: reader.number(),
    delayMsMax: reader.number(),
    attemptsMax: reader.number(),
    attemptTimeoutMs: reader.number(),
    lastDispatchMsMax: reader.number(),
  }
  const trace = { traceparent: reader.text(), tracestate: reader.text(), baggage: reader.text() }
  const messages: HalfMessage[] = []
  for (let left = reader.count(); left > 0; left--) messages.push(takeMessage(reader))
  if (withBodies) takeBodies(reader, messages)
  return { kind: 'message', ...fields, messages, checkBack, retry, trace }
}

function takeMessage(reader: ByteReader): HalfMessage {
  return {
    destination: reader.text() as Destination,
    key: reader.text(),
    contentType: reader.text(),
    deliverAtMs: reader.number(),
    headers: takeHeaders(reader),
    body: undefined,
  }
}

function putHeaders(writer: ByteWriter, headers: Headers): void {
  const names = Object.keys(headers)
  writer.varint(names.length)
  for (const name of names) {
    writer.text(name)
    writer.text(headers[name] as string)
  }
}

function takeHeaders(reader: ByteReader): Headers {
  const count = reader.count()
  if (count === 0) return NO_HEADERS
  const headers: Record<string, string> = {}
  for (let left = count; left > 0; left--) {
    const name = reader.text()
    const value = reader.text()
    // Assigning to this one would be lost: it is an accessor of Object.prototype.
    if (name === '__proto__') Object.defineProperty(headers, name, { value, enumerable: true })
    else headers[name] = value
  }
  return headers
}

/** For each message whether it has a body, and the body. */
function putBodies(writer: ByteWriter, messages: readonly HalfMessage[]): void {
  for (const { body } of messages) {
    if (body === undefined) {
      writer.byte(0)
    } else {
      writer.byte(1)
      writer.blob(body)
    }
  }
}

function takeBodies(reader: ByteReader, messages: HalfMessage[]): void {
  for (let i = 0; i < messages.length; i++) {
    if (reader.choice(2) === 1) messages[i] = { ...(messages[i] as HalfMessage), body: reader.blob() }
  }
}

function putState(writer: ByteWriter, state: MessageState): void {
  switch (state.phase) {
    case 'prepared':
      writer.byte(PREPARED)
      writer.number(state.checks)
      writer.number(state.misses)
      writer.f64(state.nextCheckAtMs)
      writer.f64(state.unresolvedAtMs)
      writer.f64(state.lastCheckAtMs)
      return
    case 'undecided':
      writer.byte(UNDECIDED)
      writer.number(state.checks)
      writer.text(state.reason)
      return
    case 'committed':
      writer.byte(COMMITTED)
      writer.number(state.checks)
      writer.byte(indexOf(SETTLED_BY, state.settledBy))
      writer.f64(state.settledAtMs)
      writer.number(state.order)
      writer.number(state.finishedAtMs)
      writer.varint(state.deliveries.length)
      for (const delivery of state.deliveries) putDelivery(writer, delivery)
      return
    case 'rolledBack':
      writer.byte(ROLLED_BACK)
      writer.number(state.checks)
      writer.byte(indexOf(SETTLED_BY, state.settledBy))
      writer.f64(state.settledAtMs)
      writer.text(state.reason)
  }
}

function takeState(reader: ByteReader): MessageState {
  const phase = reader.choice(4)
  const checks = reader.number()
  if (phase === PREPARED) {
    // A literal's properties are evaluated in their order, which is the order of the bytes.
    return {
      phase: 'prepared',
      checks,
      misses: reader.number(),
      nextCheckAtMs: reader.f64(),
      unresolvedAtMs: reader.f64(),
      lastCheckAtMs: reader.f64(),
    }
  }
  if (phase === UNDECIDED) return { phase: 'undecided', checks, reason: reader.text() }
  const settledBy = SETTLED_BY[reader.choice(SETTLED_BY.length)] as SettledBy
  const settledAtMs = reader.f64()
  if (phase === ROLLED_BACK)
    return { phase: 'rolledBack', checks, settledBy, settledAtMs, reason: reader.text() }
  const order = reader.number()
  const finishedAtMs = reader.number()
  const deliveries: MessageDelivery[] = []
  for (let left = reader.count(); left > 0; left--) deliveries.push(takeDelivery(reader))
  return { phase: 'committed', checks, settledBy, settledAtMs, order, deliveries, finishedAtMs }
}

function putDelivery(writer: ByteWriter, delivery: MessageDelivery): void {
  let bits = indexOf(DELIVERY, delivery.status)
  if (delivery.attempts !== 0) bits |= HAS_ATTEMPTS
  if (delivery.nextAttemptAtMs !== 0) bits |= HAS_NEXT_ATTEMPT
  if (delivery.firstDispatchAtMs !== 0 || delivery.lastDispatchAtMs !== 0) bits |= HAS_DISPATCH
  if (delivery.databaseId !== '') bits |= HAS_DATABASE
  if (delivery.error !== '') bits |= HAS_ERROR
  writer.byte(bits)
  if (bits & HAS_ATTEMPTS) writer.number(delivery.attempts)
  if (bits & HAS_NEXT_ATTEMPT) writer.f64(delivery.nextAttemptAtMs)
  if (bits & HAS_DISPATCH) {
    writer.f64(delivery.firstDispatchAtMs)
    writer.f64(delivery.lastDispatchAtMs)
  }
  if (bits & HAS_DATABASE) writer.text(delivery.databaseId)
  if (bits & HAS_ERROR) writer.text(delivery.error)
}

function takeDelivery(reader: ByteReader): MessageDelivery {
  const bits = reader.choice(128)
  const hasDispatch = (bits & HAS_DISPATCH) !== 0
  return {
    status: DELIVERY[bits & 3] as MessageDelivery['status'],
    attempts: bits & HAS_ATTEMPTS ? reader.number() : 0,
    nextAttemptAtMs: bits & HAS_NEXT_ATTEMPT ? reader.f64() : 0,
    firstDispatchAtMs: hasDispatch ? reader.f64() : 0,
    lastDispatchAtMs: hasDispatch ? reader.f64() : 0,
    databaseId: bits & HAS_DATABASE ? reader.text() : '',
    error: bits & HAS_ERROR ? reader.text() : '',
  }
}
