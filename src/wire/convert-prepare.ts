/** A prepare, its policies and its messages between gen/ and core/api.ts; fixed bodies and traces too. */
import { create, type MessageInitShape } from '@bufbuild/protobuf'
import type { FixedBody, PrepareRequest } from '../core/api.ts'
import type { HalfMessageInput, TraceContext } from '../core/envelope.ts'
import { NO_TRACE } from '../core/envelope.ts'
import type { CheckBackPolicy, RetryPolicy } from '../core/message.ts'
import * as proto from './gen/escrow/v1/coordinator_pb.ts'
import type {
  CheckBackPolicy as CheckBackPolicyProto,
  CheckBackPolicySchema,
  FixedBody as FixedBodyProto,
  FixedBodySchema,
  HalfMessage as HalfMessageProto,
  HalfMessageSchema,
  RetryPolicy as RetryPolicyProto,
  RetryPolicySchema,
  TraceContext as TraceContextProto,
} from './gen/escrow/v1/transaction_pb.ts'
import { bigintOf, checkUint32, exhaustedNumber, exhaustedOf, numberOf } from './scalars.ts'

/** The prepare of a message. */
export function prepareFromProto(message: proto.PrepareRequest): PrepareRequest {
  return {
    namespace: message.namespace || undefined,
    id: message.id || undefined,
    checker: message.checker,
    orderingKey: message.orderingKey || undefined,
    messages: message.messages.map(halfMessageFrom),
    checkBack: message.checkBack === undefined ? undefined : checkBackPolicyFrom(message.checkBack),
    retry: message.retry === undefined ? undefined : retryPolicyFrom(message.retry),
    databaseId: message.databaseId || undefined,
    trace: message.trace === undefined ? undefined : traceFromProto(message.trace),
  }
}

/** The message of a prepare. */
export function prepareToProto(request: PrepareRequest): proto.PrepareRequest {
  return create(proto.PrepareRequestSchema, {
    namespace: request.namespace ?? '',
    id: request.id ?? '',
    checker: request.checker,
    orderingKey: request.orderingKey ?? '',
    messages: request.messages.map(halfMessageInit),
    databaseId: request.databaseId ?? '',
    ...(request.checkBack === undefined ? {} : { checkBack: checkBackPolicyInit(request.checkBack) }),
    ...(request.retry === undefined ? {} : { retry: retryPolicyInit(request.retry) }),
    ...(request.trace === undefined ? {} : { trace: { ...request.trace } }),
  })
}

/** The trace of a message; none for undefined. */
export function traceFromProto(trace: TraceContextProto | undefined): TraceContext {
  if (trace === undefined) return NO_TRACE
  return { traceparent: trace.traceparent, tracestate: trace.tracestate, baggage: trace.baggage }
}

/** The bodies of a message. */
export const bodiesFromProto = (bodies: readonly FixedBodyProto[]): readonly FixedBody[] =>
  bodies.map(({ index, body }) => ({ index, body }))

/** The message of bodies. */
export const bodiesToProto = (bodies: readonly FixedBody[]): MessageInitShape<typeof FixedBodySchema>[] =>
  bodies.map(({ index, body }) => ({ index: checkUint32('index', index), body: bytesFor(body) }))

/** Bytes as protobuf-es types them: it only reads them, so that any kind of buffer behind them will do. */
export const bytesFor = (bytes: Uint8Array): Uint8Array<ArrayBuffer> => bytes as Uint8Array<ArrayBuffer>

/** JSON in a message; no bytes stand for none, because no JSON is that short. */
export const jsonFrom = (bytes: Uint8Array): Uint8Array | undefined =>
  bytes.length === 0 ? undefined : bytes

/** JSON for a message. */
export const jsonFor = (bytes: Uint8Array | undefined): Uint8Array<ArrayBuffer> =>
  bytesFor(bytes ?? new Uint8Array(0))

/** A policy of check-backs; a zero field is left out, and takes the coordinator's default. */
export function checkBackPolicyFrom(message: CheckBackPolicyProto): Partial<CheckBackPolicy> {
  const onExhausted = exhaustedOf(message.onExhausted)
  return {
    ...milliseconds('delayMs', message.delayMs),
    ...milliseconds('delayMsMax', message.delayMsMax),
    ...(message.checksMax === 0 ? {} : { checksMax: message.checksMax }),
    ...(onExhausted === undefined ? {} : { onExhausted }),
    ...milliseconds('unresolvedMsMax', message.unresolvedMsMax),
  }
}

/** A policy of deliveries; a zero field is left out, and takes the coordinator's default. */
export function retryPolicyFrom(message: RetryPolicyProto): Partial<RetryPolicy> {
  return {
    ...(message.attemptsMax === 0 ? {} : { attemptsMax: message.attemptsMax }),
    ...milliseconds('delayMs', message.delayMs),
    ...milliseconds('delayMsMax', message.delayMsMax),
    ...milliseconds('attemptTimeoutMs', message.attemptTimeoutMs),
  }
}

/** The message of a policy of check-backs. */
export function checkBackPolicyInit(
  policy: Partial<CheckBackPolicy>,
): MessageInitShape<typeof CheckBackPolicySchema> {
  return {
    delayMs: bigintOf('delayMs', policy.delayMs ?? 0),
    delayMsMax: bigintOf('delayMsMax', policy.delayMsMax ?? 0),
    checksMax: checkUint32('checksMax', policy.checksMax ?? 0),
    onExhausted: exhaustedNumber(policy.onExhausted),
    unresolvedMsMax: bigintOf('unresolvedMsMax', policy.unresolvedMsMax ?? 0),
  }
}

/** The message of a policy of deliveries. */
export function retryPolicyInit(policy: Partial<RetryPolicy>): MessageInitShape<typeof RetryPolicySchema> {
  return {
    attemptsMax: checkUint32('attemptsMax', policy.attemptsMax ?? 0),
    delayMs: bigintOf('delayMs', policy.delayMs ?? 0),
    delayMsMax: bigintOf('delayMsMax', policy.delayMsMax ?? 0),
    attemptTimeoutMs: bigintOf('attemptTimeoutMs', policy.attemptTimeoutMs ?? 0),
  }
}

function halfMessageFrom(message: HalfMessageProto): HalfMessageInput {
  return {
    destination: message.destination,
    body: message.body,
    bodyAtCommit: message.bodyAtCommit,
    headers: message.headers,
    key: message.key || undefined,
    deliverAtMs: numberOf('deliver_at_ms', message.deliverAtMs),
    contentType: message.contentType || undefined,
  }
}

function halfMessageInit(message: HalfMessageInput): MessageInitShape<typeof HalfMessageSchema> {
  return {
    destination: message.destination,
    // A body beside `bodyAtCommit` means nothing, and isn't sent.
    body:
      message.bodyAtCommit === true || message.body === undefined
        ? new Uint8Array(0)
        : bytesFor(message.body),
    bodyAtCommit: message.bodyAtCommit ?? false,
    headers: { ...message.headers },
    key: message.key ?? '',
    deliverAtMs: bigintOf('deliverAtMs', message.deliverAtMs ?? 0),
    contentType: message.contentType ?? '',
  }
}

function milliseconds<Name extends string>(name: Name, value: bigint): { [K in Name]?: number } {
  return (value === 0n ? {} : { [name]: numberOf(name, value) }) as { [K in Name]?: number }
}
