/** What crosses a session, item by item. `frame.ts` packs items into the frames of protos/escrow/v1/session.proto. */
import type {
  CheckBackRequest,
  CheckBackResponse,
  DeliverRequest,
  DeliverResponse,
  OperationRequest,
  OperationResponse,
  Registration,
  StepRequest,
  StepResponse,
} from '../core/api.ts'
import type { Limits } from '../core/envelope.ts'
import type { EscrowError } from '../core/errors.ts'

/** Who a node is, by the store's directory. */
export interface NodeName {
  /** `host:port`. */
  readonly node: string
  readonly incarnation: string
}

/** The first item of a service, or of a node. */
export interface HelloItem {
  readonly type: 'hello'
  /** Only of a node, whose namespace, service and registration are empty. */
  readonly node?: NodeName | undefined
  readonly namespace: string
  readonly service: string
  readonly deliveriesMax: number
  readonly checkBacksMax: number
  readonly stepsMax: number
  /** Empty for none. */
  readonly previousSession: string
  readonly registration: Registration
}

/** Names that are served from now on. */
export interface RegisterItem {
  readonly type: 'register'
  readonly number: number
  readonly registration: Registration
  /** Only from a node: whose names these are. */
  readonly owner?: { readonly namespace: string; readonly service: string } | undefined
}

/** What a service sends; a node sends the same, and tells what is not a service's to tell. */
export type ServiceItem =
  | HelloItem
  | RegisterItem
  | ({ readonly type: 'command'; readonly commandId: number; readonly timeoutMs: number } & OperationRequest)
  | { readonly type: 'deliveryAnswer'; readonly callId: number; readonly response: DeliverResponse }
  | { readonly type: 'checkBackAnswer'; readonly callId: number; readonly response: CheckBackResponse }
  | { readonly type: 'stepAnswer'; readonly callId: number; readonly response: StepResponse }
  /** Only from a node: nobody was asked. */
  | { readonly type: 'noSession'; readonly callId: number; readonly error: string }

/** A command that could be told from others, but not carried out: its outcome is this error. Only received, never sent. */
export interface UnreadableCommandItem {
  readonly type: 'unreadableCommand'
  readonly commandId: number
  readonly error: EscrowError
}

/** The first item of a coordinator. */
export interface WelcomeItem {
  readonly type: 'welcome'
  readonly session: string
  readonly commandsMax: number
  readonly routings: readonly string[]
  readonly limits: Limits
}

/** A call of a participant, of any class. */
export type CallItem = {
  readonly callId: number
  /** Only to a node: the database that its receiver told. */
  readonly databaseId?: string | undefined
} & (
  | { readonly type: 'delivery'; readonly request: DeliverRequest }
  | { readonly type: 'checkBack'; readonly request: CheckBackRequest }
  | { readonly type: 'step'; readonly request: StepRequest }
)

/** What a coordinator sends. */
export type CoordinatorItem =
  | WelcomeItem
  | { readonly type: 'registered'; readonly number: number; readonly error: EscrowError | undefined }
  | ({ readonly type: 'reply'; readonly commandId: number } & OperationResponse)
  | { readonly type: 'failure'; readonly commandId: number; readonly error: EscrowError }
  | CallItem
  | { readonly type: 'drain' }
  /** Routing parts of ids that are minted from now on; empty: those of before. */
  | { readonly type: 'routings'; readonly routings: readonly string[] }

/**
 * One side of an open session. Items queued in one turn of the event loop leave together, in frames; the order of items
 * of one class is kept, between classes none is promised. Received items are the receiver's own: nobody else holds them.
 */
export interface ItemStream<Sent, Received> {
  /**
   * Queues an item; it holds no reference to what is in it afterwards. Throws `tooLarge` for an item that no frame can
   * hold, `invalidArgument` for a number that no field can hold, and for a command `overloaded` while too much is queued;
   * the stream goes on after each. Does nothing once the stream is closed.
   */
  send(item: Sent): void
  /** Ends the stream in good order after what is queued; with an error it is torn down at once. */
  close(error?: EscrowError): void
  /** Names who takes what is received, frame by frame; to be called once, in the turn in which the stream was had. */
  onItems(callback: (items: readonly Received[]) => void): void
  /** Names who is told, once, that nothing is sent or received any more; undefined for an end in good order. */
  onClose(callback: (error: EscrowError | undefined) => void): void
}

/** The service's side of a session. */
export type ServiceStream = ItemStream<ServiceItem, CoordinatorItem>
/** The coordinator's side of a session. */
export type CoordinatorStream = ItemStream<CoordinatorItem, ServiceItem | UnreadableCommandItem>
