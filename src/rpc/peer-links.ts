/** The links of this node: one to each other node, opened from here. The other direction is a `NodeGuest` here. */
import type { OperationRequest } from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import type { Runtime } from '../core/runtime.ts'
import type { Reply, RequestOptions } from '../engine/coordination.ts'
import type { NodeInfo, Peers } from '../engine/peers.ts'
import type { ServiceStream } from '../wire/items.ts'
import type { Participants } from './participants.ts'
import { PeerLink } from './peer-link.ts'

/** What links are made of. */
export interface PeerLinksOptions {
  /** This node. */
  readonly self: NodeInfo
  /** This node's own: other nodes call its sessions, and are told which names they serve. */
  readonly participants: Participants
  readonly runtime: Runtime
  /** Opens a stream to `host:port`. */
  open(address: string): ServiceStream
  /** A node is followed no more: what it holds here is to end, too. */
  left(node: NodeInfo): void
  log(level: 'info' | 'warn', message: string): void
}

export class PeerLinks implements Peers {
  readonly #options: PeerLinksOptions
  readonly #links = new Map<string, PeerLink>()

  constructor(options: PeerLinksOptions) {
    this.#options = options
    options.participants.roster.onOffer((offer) => {
      for (const link of this.#links.values()) link.offer(offer)
    })
  }

  follow(nodes: readonly NodeInfo[]): void {
    const followed = new Map(nodes.map((each) => [each.node, each]))
    for (const [node, link] of this.#links) {
      // One that came back under its old name is another one.
      if (followed.get(node)?.incarnation === link.peer.incarnation) continue
      this.#links.delete(node)
      link.close()
      this.#options.left(link.peer)
    }
    const { self, participants, runtime, open, log } = this.#options
    for (const [node, peer] of followed) {
      if (this.#links.has(node)) continue
      const link = new PeerLink({ self, peer, participants, runtime, open: () => open(node), log })
      this.#links.set(node, link)
    }
  }

  forward(node: string, operation: OperationRequest, reply: Reply, options: RequestOptions): void {
    const link = this.#links.get(node)
    if (link !== undefined) return link.forward(operation, reply, options)
    queueMicrotask(() => reply(new EscrowError('notOwner', `there is no node ${node} any more`)))
  }

  /** Ends all links, in good order. */
  close(): void {
    this.follow([])
  }
}
