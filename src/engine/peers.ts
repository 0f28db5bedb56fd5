/** The port through which a request reaches the node that owns its log. */
import type { OperationRequest } from '../core/api.ts'
import type { Reply, RequestOptions } from './coordination.ts'

/** A node as it announces itself in the store's directory. */
export interface NodeInfo {
  /** `host:port` where other nodes reach its gRPC server; no two processes have the same one at a time. */
  readonly node: string
  /** Minted when it started; only who reads the store's directory knows it. */
  readonly incarnation: string
}

/** The other nodes. */
export interface Peers {
  /** Keeps a connection to each of these from now on, and to nobody else: told at each change. This node isn't among them. */
  follow(nodes: readonly NodeInfo[]): void
  /**
   * Has another node do it, as it is: one hop. `reply` is called exactly once, later: with what that node answered, with
   * `notOwner` where nothing was sent, and with `uncertain` where the connection was lost before the answer.
   */
  forward(node: string, operation: OperationRequest, reply: Reply, options: RequestOptions): void
}
