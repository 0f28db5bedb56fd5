/**
 * What may be asked of a coordinator, and what it asks of participants: the same shapes in process, on a session and over
 * unary RPC. Fields that are optional take the default named in protos/escrow/v1.
 */
import type { HalfMessageInput, Headers, TraceContext } from './envelope.ts'
import type { CheckBackPolicy, RetryPolicy, SettledBy } from './message.ts'

/** Where a transaction of messages stands. */
export type MessageStatus = 'prepared' | 'committed' | 'delivered' | 'rolledBack' | 'parked'

/** Where a saga stands. */
export type SagaStatus = 'running' | 'completed' | 'compensating' | 'compensated' | 'parked'

/** Where a global transaction stands. */
export type TransactionStatus = MessageStatus | SagaStatus

/** The kind of a global transaction. */
export type TransactionKind = 'message' | 'saga'

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

/** Asks for transactions; without statuses for all that have not ended. What else is given narrows it further. */
export interface ListRequest {
  readonly namespace?: string | undefined
  readonly statuses?: readonly TransactionStatus[] | undefined
  readonly kind?: TransactionKind | undefined
  /** Only sagas of the definition with this name. */
  readonly saga?: string | undefined
  /** Only sagas with this business key: found by an index, as tags are. */
  readonly businessKey?: string | undefined
  /** Only sagas that have all of these tags. */
  readonly tags?: Readonly<Record<string, string>> | undefined
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

/** One entry into a step of a saga, for a reader. */
export interface ExecutionView {
  readonly executionId: string
  /** As the definition names it. */
  readonly step: string
  /** `running`, `stopping`, `parked`, `done`, `skipped`, `failed` or `stopped`; a newer coordinator may know more. */
  readonly status: string
  readonly attempts: number
  readonly error: string
  /** How its compensation stands, in the same words; empty before it is to be undone. */
  readonly compensation: string
}

/** What a saga is beside a transaction, for a reader. */
export interface SagaView {
  /** The definition's; empty for a routing slip. */
  readonly name: string
  readonly version: number
  /** Of the definition's structure and policies. */
  readonly hash: string
  readonly businessKey: string
  readonly tags: Readonly<Record<string, string>>
  /** JSON; undefined before it completed, and for none. */
  readonly output?: Uint8Array | undefined
  /** Why it failed; empty otherwise. */
  readonly error: string
  /** The value of its machine, as JSON. */
  readonly state: string
  readonly executions: readonly ExecutionView[]
  /** The names of signals that came early and are kept. */
  readonly signals: readonly string[]
  /** How many timers run. */
  readonly timers: number
}

/** A transaction, for a reader. */
export interface TransactionView {
  readonly namespace: string
  readonly id: string
  readonly kind: TransactionKind
  readonly status: TransactionStatus
  readonly executionId: string
  /** Empty for a saga. */
  readonly checker: string
  readonly orderingKey: string
  /** Wall clock: when it was prepared, or started. */
  readonly preparedAtMs: number
  /** Wall clock: when it was settled, or a saga ended; 0 before. */
  readonly settledAtMs: number
  /** Empty before. */
  readonly settledBy: SettledBy | ''
  readonly checks: number
  readonly reason: string
  readonly deliveries: readonly DeliveryView[]
  readonly trace: TraceContext
  /** Undefined for messages. */
  readonly saga?: SagaView | undefined
}

/** Transactions as they were at `asOfMs`. */
export interface ListResponse {
  readonly transactions: readonly TransactionView[]
  readonly asOfMs: number
  /** Empty at the end. A page that a filter emptied may have one. */
  readonly nextPageToken: string
}

/** Begins a saga: of a definition, or of a routing slip. */
export interface StartRequest {
  readonly namespace?: string | undefined
  /** An idempotency key for its window; left out: one is minted. */
  readonly id?: string | undefined
  /** The definition's name; empty with a routing slip. */
  readonly saga: string
  /** 0, the default: the newest. */
  readonly version?: number | undefined
  /** A routing slip, as JSON. */
  readonly slip?: Uint8Array | undefined
  /** JSON; left out for none. */
  readonly input?: Uint8Array | undefined
  readonly orderingKey?: string | undefined
  readonly businessKey?: string | undefined
  readonly tags?: Readonly<Record<string, string>> | undefined
  /** How long it may take; past it, it is undone. 0, the default: what the definition says. */
  readonly timeoutMs?: number | undefined
  readonly trace?: TraceContext | undefined
}

/** The saga has begun, durably. */
export interface StartResponse {
  readonly id: string
  /** What the ids of its executions begin with. */
  readonly executionId: string
  readonly status: TransactionStatus
  /** The version that it runs, to its end. */
  readonly version: number
}

/** Tells a saga something. */
export interface SignalRequest extends TransactionRef {
  readonly signal: string
  /** JSON; left out for nothing. */
  readonly payload?: Uint8Array | undefined
  /** The same one twice is one signal; left out: each is its own. */
  readonly signalId?: string | undefined
}

/** Asks to undo a saga that is running. */
export interface CancelRequest extends TransactionRef {
  readonly reason?: string | undefined
}

/** Asks to go on with another version of a saga's definition. */
export interface MigrateRequest extends TransactionRef {
  /** From 1: no default, so that nobody migrates by mistake. */
  readonly toVersion: number
}

/** Says how a step ended that was answered `later`. */
export interface CompleteRequest extends ExecutionRef {
  /**
   * The attempt that ended, as its call had it. Left out, or 0: the first, which is enough for `done`, and where a barrier
   * makes all attempts one.
   */
  readonly attempt?: number | undefined
  readonly response: StepResponse
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
  startSaga: { request: StartRequest; response: StartResponse }
  signal: { request: SignalRequest; response: StatusResponse }
  cancel: { request: CancelRequest; response: StatusResponse }
  complete: { request: CompleteRequest; response: StatusResponse }
  migrateSaga: { request: MigrateRequest; response: StatusResponse }
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

/** A call of a step of a saga: its action, or its compensation. */
export interface StepRequest {
  readonly namespace: string
  readonly transactionId: string
  /** Stable over all attempts, and the same for the compensation; unique for ever. */
  readonly executionId: string
  /** From 1. */
  readonly attempt: number
  readonly service: string
  readonly step: string
  readonly operation: 'action' | 'compensation'
  /** The action's input, as JSON text; empty for none. The compensation is given the same. */
  readonly input: string
  /** Compensation: the action's result, as JSON text; empty for none, or where it isn't known. */
  readonly result: string
  /** Compensation: the action is known to be done; otherwise it may have been done, or be under way. */
  readonly isActionDone: boolean
  /** The definition's name; empty for a routing slip. */
  readonly saga: string
  readonly trace: TraceContext
  readonly timeoutMs: number
}

/**
 * How a step ended. `refused`: nothing was done, and no attempt of this execution ever does it; `failed`: not now;
 * `later`: the action goes on, and its end is told by `complete` (from a compensation it counts as `failed`); whatever else is
 * `unknown`.
 */
export interface StepResponse {
  readonly outcome: 'done' | 'refused' | 'failed' | 'unknown' | 'later'
  /** What an action that is done gave, as JSON; undefined for none. */
  readonly result?: Uint8Array | undefined
  /** What went wrong, for programs; a word of the participant's own, or empty. */
  readonly code: string
  /** What went wrong, for people. */
  readonly error: string
}

/** The names that a service serves, and the database of the barrier behind them (empty without one). */
export interface Registration {
  readonly checkers: readonly string[]
  readonly handlers: readonly string[]
  /** Steps of sagas; left out for none. */
  readonly steps?: readonly string[] | undefined
  readonly databaseId: string
}
