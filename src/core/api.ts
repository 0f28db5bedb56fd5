/**
 * What may be asked of a coordinator, and what it asks of participants: the same shapes in process, on a session and over
 * unary RPC. Fields that are optional take the default named in protos/escrow/v1.
 */
import type { HalfMessageInput, Headers, TraceContext } from './envelope.ts'
import type { CheckBackPolicy, RetryPolicy, SettledBy } from './message.ts'

/** Where a global transaction stands. */
export type TransactionStatus = 'prepared' | 'committed' | 'delivered' | 'rolledBack' | 'parked'

/** How a local transaction ended, as its service or its checker says. */
export type Resolution = 'commit' | 'rollback' | 'unknown'

/** Names a transaction. */
export interface TransactionRef {
  readonly namespace?: string | undefined
  readonly id: string
}

/** Names one parked execution of a transaction. */
export interface ExecutionRef extends TransactionRef {
  readonly executionId: string
}

/** A body that was fixed inside the local transaction; `index` counts the messages from 0. */
export interface FixedBody {
  readonly index: number
  readonly body: Uint8Array
}

/** Asks to hold messages until the local transaction's outcome is known. */
export interface PrepareRequest {
  readonly namespace?: string | undefined
  /** An idempotency key for its window; left out: one is minted. */
  readonly id?: string | undefined
  readonly checker: string
  readonly orderingKey?: string | undefined
  readonly messages: readonly HalfMessageInput[]
  readonly checkBack?: Partial<CheckBackPolicy> | undefined
  readonly retry?: Partial<RetryPolicy> | undefined
  readonly databaseId?: string | undefined
  readonly trace?: TraceContext | undefined
}

/** The messages are held, durably. */
export interface PrepareResponse {
  readonly id: string
  /** The local transaction's id, unique for ever: the barrier's key. */
  readonly executionId: string
  readonly status: TransactionStatus
}

/** Says that the local transaction committed. */
export interface CommitRequest extends TransactionRef {
  readonly bodies?: readonly FixedBody[] | undefined
}

/** Says that the local transaction rolled back. */
export interface RollbackRequest extends TransactionRef {
  readonly reason?: string | undefined
}

/** Asks to try a parked execution again. */
export interface RetryRequest extends ExecutionRef {
  readonly acceptPossibleDuplicate?: boolean | undefined
}

/** Asks for transactions by status; none means all that have not ended. */
export interface ListRequest {
  readonly namespace?: string | undefined
  readonly statuses?: readonly TransactionStatus[] | undefined
  /** 1-1,000; default 100. */
  readonly limit?: number | undefined
  readonly pageToken?: string | undefined
}

/** What the transaction is now. */
export interface StatusResponse {
  readonly status: TransactionStatus
}

/** One delivery, for a reader. */
export interface DeliveryView {
  readonly executionId: string
  readonly destination: string
  readonly status: 'waiting' | 'delivered' | 'parked' | 'skipped'
  readonly attempts: number
  readonly error: string
  /** Wall clock; 0 when nothing is planned. */
  readonly nextAttemptAtMs: number
}

/** A transaction, for a reader. */
export interface TransactionView {
  readonly namespace: string
  readonly id: string
  readonly kind: 'message'
  readonly status: TransactionStatus
  readonly executionId: string
  readonly checker: string
  readonly orderingKey: string
  readonly preparedAtMs: number
  /** Wall clock; 0 before. */
  readonly settledAtMs: number
  /** Empty before. */
  readonly settledBy: SettledBy | ''
  readonly checks: number
  readonly reason: string
  readonly deliveries: readonly DeliveryView[]
  readonly trace: TraceContext
}

/** Transactions as they were at `asOfMs`. */
export interface ListResponse {
  readonly transactions: readonly TransactionView[]
  readonly asOfMs: number
  /** Empty at the end. */
  readonly nextPageToken: string
}

/** Every operation with its request and its response. */
export interface Operations {
  prepare: { request: PrepareRequest; response: PrepareResponse }
  commit: { request: CommitRequest; response: StatusResponse }
  rollback: { request: RollbackRequest; response: StatusResponse }
  requestCheckBack: { request: TransactionRef; response: StatusResponse }
  get: { request: TransactionRef; response: TransactionView }
  list: { request: ListRequest; response: ListResponse }
  wait: { request: TransactionRef; response: TransactionView }
  retry: { request: RetryRequest; response: StatusResponse }
  skip: { request: ExecutionRef; response: StatusResponse }
  compensate: { request: ExecutionRef; response: StatusResponse }
}

/** The name of an operation. */
export type Operation = keyof Operations

/** A request together with the name of its operation. */
export type OperationRequest = {
  [Op in Operation]: { readonly op: Op; readonly request: Operations[Op]['request'] }
}[Operation]

/** A response together with the name of its operation. */
export type OperationResponse = {
  [Op in Operation]: { readonly op: Op; readonly response: Operations[Op]['response'] }
}[Operation]

/** A message for a participant's handler. */
export interface DeliverRequest {
  readonly namespace: string
  readonly transactionId: string
  /** Stable over all attempts, unique for ever: what to deduplicate by. */
  readonly executionId: string
  /** From 1. */
  readonly attempt: number
  readonly service: string
  readonly handler: string
  readonly body: Uint8Array
  readonly headers: Headers
  readonly key: string
  readonly contentType: string
  readonly trace: TraceContext
  readonly timeoutMs: number
}

/** How a participant took a message; anything but these three is unknown, and the message comes again. */
export interface DeliverResponse {
  readonly outcome: 'delivered' | 'failed' | 'refused' | 'unknown'
  readonly error: string
}

/** A question about a local transaction. */
export interface CheckBackRequest {
  readonly namespace: string
  readonly transactionId: string
  /** The local transaction's id: the barrier's key. */
  readonly executionId: string
  /** From 1. */
  readonly attempt: number
  readonly checker: string
  /** Wall clock; a barrier that may have forgotten a row of that age answers unknown. */
  readonly preparedAtMs: number
  readonly trace: TraceContext
  readonly timeoutMs: number
}

/** How the local transaction ended; `unknown` is an answer. */
export interface CheckBackResponse {
  readonly resolution: Resolution
  readonly bodies: readonly FixedBody[]
  readonly error: string
}

/** The names that a service serves, and the database of the barrier behind them (empty without one). */
export interface Registration {
  readonly checkers: readonly string[]
  readonly handlers: readonly string[]
  readonly databaseId: string
}
