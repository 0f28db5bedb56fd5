/** What the engine offers to those who speak for it: sessions, unary RPC, a library's user. */
import type { Operation, OperationRequest, Operations, Registration } from '../core/api.ts'
import type { Limits } from '../core/envelope.ts'
import type { EscrowError } from '../core/errors.ts'
import type { Namespace } from '../core/ids.ts'
import type { LogProgress } from './cluster-entries.ts'
import type { NodeInfo } from './peers.ts'

/** The end of a request: an error, or the response of its operation. Called exactly once, later than the request. */
export type Reply = (error: EscrowError | undefined, response?: Operations[Operation]['response']) => void

/** How a request came. */
export interface RequestOptions {
  /** Wall clock: past it the reply is `deadlineExceeded` or `uncertain`. */
  readonly deadlineMs: number
  /** The id is this session's next, so that nothing of it can be stored yet: no look-up. */
  readonly fresh: boolean
  /** Another node sent it: it isn't sent on. */
  readonly isForwarded?: boolean | undefined
}

/** A session as the engine opens it. */
export interface OpenedSession {
  /** `<milliseconds>-<unique>` in base 36, unique for ever: part of the ids that its client mints. */
  readonly session: string
  /** Routing parts whose slots this node owns. */
  readonly routings: readonly string[]
}

/** A node, as this one sees it. */
export interface NodeView {
  /** Empty for one that has the store to itself. */
  readonly node: string
  readonly state: 'here' | 'leaving' | 'silent'
  /** Wall clock. */
  readonly startedAtMs: number
  readonly silentMs: number
  readonly logs: readonly LogProgress[]
}

/** Who shares a store. */
export interface ClusterView {
  /** By name. */
  readonly nodes: readonly NodeView[]
  /** How many logs the store has. */
  readonly logs: number
}

/** The engine, as seen from the network. */
export interface Coordination {
  readonly limits: Limits
  /** Takes a request; parses, bounds and answers it. Never throws. */
  request(request: OperationRequest, reply: Reply, options: RequestOptions): void
  /** Makes names known, durably: `service` and its handlers as destinations, its checkers. Rejects with `unknownNamespace`, `invalidArgument`, `storeUnavailable`. */
  register(namespace: Namespace, service: string, registration: Registration): Promise<void>
  /** Where a service that listens is called, durably; an empty url takes it back. */
  registerUrl(namespace: Namespace, service: string, url: string, registration: Registration): Promise<void>
  openSession(): OpenedSession
  /** Calls back whenever other routing parts than before are best: this node took over logs, or gave some up. */
  onRoutings(callback: (routings: readonly string[]) => void): void
  /** The nodes that share the store, as this one sees them, itself included. Throws `storeUnavailable`, `shuttingDown`. */
  nodes(): ClusterView
  /** Whether a node of this name and incarnation is one of this cluster, by the store's directory. */
  isNode(node: NodeInfo): Promise<boolean>
  /** `starting` while logs are claimed and recovered, `ready`, `degraded` with a reason (the store is away), `draining`. */
  health(): { readonly state: 'starting' | 'ready' | 'degraded' | 'draining'; readonly reason: string }
}
