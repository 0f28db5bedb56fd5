/** All sessions that this node holds. */
import { EscrowError } from '../core/errors.ts'
import type { Runtime } from '../core/runtime.ts'
import type { Coordination } from '../engine/coordination.ts'
import type { NodeInfo } from '../engine/peers.ts'
import type { CoordinatorStream } from '../wire/items.ts'
import { nodeIdentity } from './node-guest.ts'
import type { Participants } from './participants.ts'
import { SessionHost } from './session-host.ts'

/** What sessions are made of, and their bounds. */
export interface SessionHostsOptions {
  readonly coordination: Coordination
  readonly participants: Participants
  readonly runtime: Pick<Runtime, 'now' | 'setTimer'>
  /** Commands that one session may have unanswered. Default 4,096. */
  readonly commandsMax?: number | undefined
  /** Sessions at once; more are refused with `overloaded`. Default 10,000. */
  readonly sessionsMax?: number | undefined
  /** How long a stream may stay without a hello, and its names without being durable. Default 10,000 ms. */
  readonly helloTimeoutMs?: number | undefined
  /** After `drain`, how long commands are still taken. Default 1,000 ms: services go on elsewhere at once. */
  readonly drainGraceMs?: number | undefined
  /** After that, how long what is under way may take. Default 10,000 ms. */
  readonly drainMsMax?: number | undefined
}

const DEFAULTS = {
  commandsMax: 4096,
  sessionsMax: 10_000,
  helloTimeoutMs: 10_000,
  drainGraceMs: 1000,
  drainMsMax: 10_000,
}
/** How often a drain looks whether calls were answered. */
const DRAIN_LOOK_MS = 20

type Complete<T> = { readonly [K in keyof T]-?: Exclude<T[K], undefined> }

export class SessionHosts {
  readonly options: Complete<SessionHostsOptions>
  readonly #hosts = new Set<SessionHost>()
  readonly #bySession = new Map<string, SessionHost>()
  #whenEmpty: (() => void) | undefined
  #draining: Promise<void> | undefined

  constructor(options: SessionHostsOptions) {
    const given = Object.entries(options).filter(([, value]) => value !== undefined)
    this.options = { ...DEFAULTS, ...Object.fromEntries(given) } as Complete<SessionHostsOptions>
    options.coordination.onRoutings((routings) => {
      for (const host of this.#hosts) host.reroute(routings)
    })
  }

  /** Streams that are open, those without a hello included. */
  get size(): number {
    return this.#hosts.size
  }

  get isDraining(): boolean {
    return this.#draining !== undefined
  }

  /** Takes a stream, from a connection or from within the process; ends it at once with `overloaded` or `shuttingDown`. */
  accept(stream: CoordinatorStream): void {
    if (this.isDraining) return stream.close(new EscrowError('shuttingDown', 'this coordinator is stopping'))
    const { sessionsMax } = this.options
    if (this.#hosts.size >= sessionsMax) {
      return stream.close(new EscrowError('overloaded', `sessionsMax of ${sessionsMax} is reached`))
    }
    this.#hosts.add(new SessionHost(this, stream))
  }

  /** Closes the session that a new one goes on from, if it is still here and the same one's. */
  supersede(session: string, identity: string): void {
    const previous = this.#bySession.get(session)
    if (previous?.identity === identity)
      previous.close(new EscrowError('disconnected', 'the session goes on in another connection'))
  }

  /** Ends what another node holds here: it is silent, or gone, and its calls are made again by way of others. */
  leftBy(node: NodeInfo): void {
    for (const host of [...this.#hosts])
      if (host.identity === nodeIdentity(node))
        host.close(new EscrowError('disconnected', `nothing was heard of node ${node.node} for its lease`))
  }

  /** For hosts: a session has its id. */
  opened(host: SessionHost): void {
    this.#bySession.set(host.session, host)
  }

  /** For hosts: a session is over. */
  closed(host: SessionHost): void {
    this.#hosts.delete(host)
    if (host.session !== '') this.#bySession.delete(host.session)
    if (this.#hosts.size === 0) this.#whenEmpty?.()
  }

  /**
   * Tells every service to go on elsewhere, takes commands for `drainGraceMs` longer, lets what is under way finish for at
   * most `drainMsMax`, and resolves when all sessions have ended. New ones are refused with `shuttingDown`. Idempotent.
   */
  drain(): Promise<void> {
    this.#draining ??= this.#drain()
    return this.#draining
  }

  async #drain(): Promise<void> {
    // In a turn of its own, so that `isDraining` holds for whatever a host does.
    await Promise.resolve()
    for (const host of [...this.#hosts]) host.drain()
    if (this.#hosts.size === 0) return
    const { setTimer } = this.options.runtime
    await new Promise<void>((resolve) => {
      let cancel = (): void => {}
      const look = (): void => {
        for (const host of [...this.#hosts]) host.look()
        if (this.#hosts.size > 0) cancel = setTimer(look, DRAIN_LOOK_MS)
      }
      this.#whenEmpty = () => {
        cancel()
        resolve()
      }
      cancel = setTimer(look, DRAIN_LOOK_MS)
    })
  }
}
