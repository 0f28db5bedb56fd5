import { EscrowError } from './errors.ts'
import { type Destination, orderingKeyRouting, parseDestination } from './ids.ts'

/** The W3C trace context of a transaction. */
export interface TraceContext {
  readonly traceparent: string
  readonly tracestate: string
  readonly baggage: string
}

/** Headers of a message, by name. */
export type Headers = Readonly<Record<string, string>>

/** One message of a transaction, held until the local transaction has committed. */
export interface HalfMessage {
  readonly destination: Destination
  /** Undefined while it is still to be fixed inside the local transaction. */
  readonly body: Uint8Array | undefined
  readonly headers: Headers
  /** Partition or routing key; empty for none. */
  readonly key: string
  /** Wall-clock milliseconds since the Unix epoch; 0 for at once. */
  readonly deliverAtMs: number
  readonly contentType: string
}

/** What requests are held to; every one of them is told to a session at its start. */
export interface Limits {
  /** Of one body. Default 1 MiB. */
  readonly bodyBytesMax: number
  /** Of all headers of one message, names and values. Default 16 KiB. */
  readonly headerBytesMax: number
  /** Of the messages of one transaction. Default 64. */
  readonly messagesMax: number
  /** Of one transaction, all told. Default 2 MiB. */
  readonly transactionBytesMax: number
  /** Of one frame of a session. Default 3 MiB; gRPC's own bound here is 4 MiB. */
  readonly frameBytesMax: number
}

/** The limits where nothing else is configured. */
export const DEFAULT_LIMITS: Limits = {
  bodyBytesMax: 1 << 20,
  headerBytesMax: 16 << 10,
  messagesMax: 64,
  transactionBytesMax: 2 << 20,
  frameBytesMax: 3 << 20,
}

/** No trace: what a caller without one has. */
export const NO_TRACE: TraceContext = { traceparent: '', tracestate: '', baggage: '' }

const HEADER_NAME = /^[\x21-\x7e]{1,128}$/
const CONTENT_TYPE = /^[\x20-\x7e]{1,255}$/
// A later version may have more behind the flags (W3C Trace Context §3.2.4); how much more is bounded here.
const TRACEPARENT = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]{0,200})?$/
const TRACE_BYTES_MAX = 8192

/** A message as a caller gives it. */
export interface HalfMessageInput {
  readonly destination: string
  readonly body?: Uint8Array | undefined
  readonly bodyAtCommit?: boolean | undefined
  readonly headers?: Headers | undefined
  readonly key?: string | undefined
  readonly deliverAtMs?: number | undefined
  readonly contentType?: string | undefined
}

/** Checks one body against its limit. Throws `tooLarge`. */
export function checkBody(body: Uint8Array, limits: Limits): void {
  if (body.length > limits.bodyBytesMax)
    throw tooLarge('body', body.length, 'bodyBytesMax', limits.bodyBytesMax)
}

/** Checks the bodies that one transaction is given at its commit. Throws `tooLarge`. */
export function checkBodies(bodies: readonly { readonly body: Uint8Array }[], limits: Limits): void {
  let bytes = 0
  for (const { body } of bodies) {
    checkBody(body, limits)
    bytes += body.length
  }
  if (bytes > limits.transactionBytesMax) {
    throw tooLarge('transaction', bytes, 'transactionBytesMax', limits.transactionBytesMax)
  }
}

/** Checks and completes the messages of a transaction. Throws `invalidArgument`, `tooLarge`, `orderingKeyMismatch`. */
export function parseHalfMessages(
  inputs: readonly HalfMessageInput[],
  orderingKey: string,
  limits: Limits,
): readonly HalfMessage[] {
  if (inputs.length === 0)
    throw new EscrowError('invalidArgument', 'messages is empty: a transaction holds at least one')
  if (inputs.length > limits.messagesMax)
    throw tooLarge('messages', inputs.length, 'messagesMax', limits.messagesMax)
  if (orderingKey !== '') orderingKeyRouting(orderingKey)
  let bytes = 0
  const messages = inputs.map((input) => {
    const message = parseHalfMessage(input, orderingKey, limits)
    bytes += (message.body?.length ?? 0) + headerBytes(message.headers) + 64
    return message
  })
  if (bytes > limits.transactionBytesMax) {
    throw tooLarge('transaction', bytes, 'transactionBytesMax', limits.transactionBytesMax)
  }
  return messages
}

function parseHalfMessage(input: HalfMessageInput, orderingKey: string, limits: Limits): HalfMessage {
  const headers = input.headers ?? {}
  const key = input.key ?? ''
  if (orderingKey !== '' && key !== '' && key !== orderingKey) {
    throw new EscrowError(
      'orderingKeyMismatch',
      `key ${JSON.stringify(key)} differs from the transaction's orderingKey`,
    )
  }
  if (Buffer.byteLength(key) > 1024) throw tooLarge('key', Buffer.byteLength(key), 'keyBytesMax', 1024)
  const ofHeaders = headerBytes(headers)
  if (ofHeaders > limits.headerBytesMax)
    throw tooLarge('headers', ofHeaders, 'headerBytesMax', limits.headerBytesMax)
  const deliverAtMs = input.deliverAtMs ?? 0
  if (!Number.isSafeInteger(deliverAtMs) || deliverAtMs < 0) {
    throw new EscrowError(
      'invalidArgument',
      `deliverAtMs ${deliverAtMs} is not a time in milliseconds since the Unix epoch`,
    )
  }
  const contentType = input.contentType || 'application/json'
  if (!CONTENT_TYPE.test(contentType)) {
    throw new EscrowError(
      'invalidArgument',
      `contentType ${JSON.stringify(contentType.slice(0, 100))} is not a media type`,
    )
  }
  if (input.body !== undefined && input.bodyAtCommit !== true) checkBody(input.body, limits)
  return {
    destination: parseDestination(input.destination),
    body: input.bodyAtCommit === true ? undefined : (input.body ?? EMPTY),
    headers,
    key: key || orderingKey,
    deliverAtMs,
    contentType,
  }
}

const EMPTY = new Uint8Array(0)

function headerBytes(headers: Headers): number {
  let bytes = 0
  for (const name in headers) {
    if (!HEADER_NAME.test(name)) {
      throw new EscrowError(
        'invalidArgument',
        `header name ${JSON.stringify(name.slice(0, 100))} is not 1-128 visible ASCII characters`,
      )
    }
    bytes += name.length + Buffer.byteLength(headers[name] as string)
  }
  return bytes
}

/** Checks a trace context: one that isn't well formed is dropped, as W3C Trace Context §3.2 asks; one that is too large too. */
export function parseTrace(trace: TraceContext): TraceContext {
  const { traceparent, tracestate, baggage } = trace
  if (traceparent === '' && baggage === '') return NO_TRACE
  if (tracestate.length + baggage.length > TRACE_BYTES_MAX) {
    return TRACEPARENT.test(traceparent) ? { traceparent, tracestate: '', baggage: '' } : NO_TRACE
  }
  if (traceparent !== '' && !TRACEPARENT.test(traceparent))
    return { traceparent: '', tracestate: '', baggage }
  return trace
}

/** What may stand in a header; anything else in a stored context would tear the request, or the message, that it is put in. */
const HEADER_VALUE = /^[\x20-\x7e]+$/

/** The headers that pass a trace on; one that no header can carry is left out. */
export function traceHeaders(trace: TraceContext): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const name of ['traceparent', 'tracestate', 'baggage'] as const) {
    const value = trace[name].trim()
    if (HEADER_VALUE.test(value)) headers[name] = value
  }
  return headers
}

function tooLarge(what: string, actual: number, bound: string, max: number): EscrowError {
  return new EscrowError('tooLarge', `${what} is ${actual}, over the limit ${bound} of ${max}`, {
    details: { limit: bound, max: String(max), actual: String(actual) },
  })
}
