/** Several coordinators on one store, and a network between them that a test can cut. */
import { EscrowError } from '../../src/core/errors.ts'
import type { EngineOptions } from '../../src/engine/engine.ts'
import type { Peers } from '../../src/engine/peers.ts'
import { type Coordinator, World } from './world.ts'

export const LEASE_MS = 5_000

/** A node of a cluster, until it is killed. */
export interface Node extends Coordinator {
  readonly name: string
  /** Those that it was told to keep connections to. */
  readonly followed: string[]
}

/** A world of nodes. */
export class ClusterWorld extends World {
  readonly nodes = new Map<string, Node>()
  /** Links that are cut, as `from to`. */
  readonly cut = new Set<string>()
  #incarnations = 0

  /** Starts a node; an earlier process of the same name must be gone. */
  async startNode(name: string, overrides: Partial<EngineOptions> = {}): Promise<Node> {
    const followed: string[] = []
    const peers: Peers = {
      follow: (nodes) => followed.splice(0, followed.length, ...nodes.map(({ node }) => node)),
      forward: (to, operation, reply, options) => {
        const other = this.nodes.get(to)
        if (other === undefined || this.cut.has(`${name} ${to}`)) {
          this.clock.defer(() => reply(new EscrowError('notOwner', `${to} is not connected`)))
          return
        }
        other.engine.request(operation, reply, { ...options, fresh: false, isForwarded: true })
      },
    }
    this.#incarnations += 1
    const incarnation = `incarnation-${this.#incarnations}`
    const started = await this.start({
      cluster: () => ({ node: { node: name, incarnation }, peers, leaseMs: LEASE_MS }),
      bounds: { checkpointRowsMax: 5, provenMsMax: LEASE_MS / 2 },
      ...overrides,
    })
    const node: Node = { ...started, name, followed }
    this.nodes.set(name, node)
    return node
  }

  /** Ends a node as by SIGKILL. */
  killNode(node: Node): void {
    node.kill()
    this.nodes.delete(node.name)
  }

  /** The logs that each node has, by its own account. */
  owned(): Record<string, number[]> {
    const owned: Record<string, number[]> = {}
    for (const [name, { engine }] of this.nodes) {
      const view = engine.nodes().nodes.find(({ node }) => node === name)
      owned[name] = (view?.logs ?? []).map(({ log }) => log)
    }
    return owned
  }

  /** Waits until every log has exactly one of these nodes, and none of them has more than its share. */
  async balanced(ms = 20_000): Promise<void> {
    const logs = this.disk.logs.length
    await this.clock.until(() => {
      const counts = Object.values(this.owned()).map((each) => each.length)
      const most = Math.ceil(logs / this.nodes.size)
      return counts.reduce((sum, count) => sum + count, 0) === logs && Math.max(...counts) <= most
    }, ms)
  }
}
