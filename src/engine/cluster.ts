/**
 * Which logs this node drives, where several nodes share a store. What is here only decides who should try: that a log has
 * one writer is the store's fence's to see to.
 *
 * | log            | because                                              | leaves by                                          |
 * |----------------|------------------------------------------------------|----------------------------------------------------|
 * | elsewhere      | a node that lives has it                             | that node dies, leaves or gives it up → free       |
 * | free           | nobody who lives has it                              | this node is the first for it → taken              |
 * | being taken    | claimed, recovered, started                          | started → driven; failed → free, at the next look  |
 * | driven         | its driver runs here                                 | fenced → elsewhere; broken → free; another node is the first → being given up |
 * | being given up | what it took is made durable, and it is checkpointed | done → free                                        |
 *
 * A node announces itself by an entry of the directory that it writes again and again (its heartbeat), and notes in an entry
 * of each log that it has it. Whoever sees a heartbeat stand still for the lease takes the logs over.
 */
import { boundMs } from '../core/backoff.ts'
import { EscrowError } from '../core/errors.ts'
import type { Runtime } from '../core/runtime.ts'
import type { Directory } from '../store/directory.ts'
import { assign } from './assignment.ts'
import {
  bumpNames,
  type ClusterEntries,
  decode,
  encode,
  type NodeEntry,
  nodeEntry,
  noteOwner,
  readCluster,
  WRITES_MAX,
} from './cluster-entries.ts'
import type { NodeView } from './coordination.ts'
import { Liveness } from './liveness.ts'
import type { Logs } from './logs.ts'
import type { NodeInfo, Peers } from './peers.ts'

/** What makes a node one of many. */
export interface ClusterOptions {
  readonly node: NodeInfo
  readonly peers: Peers
  /** How long a node may be silent before others take its logs over. Milliseconds. */
  readonly leaseMs: number
}

/** What a cluster needs of its engine. */
export interface ClusterParts extends ClusterOptions {
  readonly directory: Directory
  readonly logs: Logs
  readonly runtime: Runtime
  /** The logs that are driven here are others than before. */
  readonly onLogs: () => void
  /** Names were registered, here or elsewhere: reads them. */
  readonly onNames: () => Promise<void>
  /** Why it can't take part (a reason), or does again (empty). */
  readonly onDegraded: (reason: string) => void
  readonly log: (level: 'info' | 'warn' | 'error', message: string) => void
}

/** How often one looks, and announces oneself, within a lease. */
const LOOKS_A_LEASE = 10
const HEARTBEATS_A_LEASE = 4
/** Logs that are being taken at once: each reads its tail. */
const TAKEN_AT_ONCE_MAX = 4
/** The pauses before one that could not be taken is tried again. */
const AGAIN = { delayMs: 250, delayMsMax: 10_000 }
/** For how long the entry of a node that is silent stays: an operator may want to see it. */
const REMEMBERED_MS = 86_400_000

/** This node among the others. */
export class Cluster {
  readonly #parts: ClusterParts
  readonly #me: NodeInfo
  readonly #lookMs: number
  readonly #liveness: Liveness
  readonly #startedAtMs: number
  /** Logs that are being taken or given up. */
  readonly #busy = new Map<number, Promise<void>>()
  /** By log: how often in a row it could not be taken, and until when it isn't tried again. */
  readonly #failed = new Map<number, { readonly times: number; readonly untilMs: number }>()
  #namesVersion = -1
  #entries: ClusterEntries = { nodes: new Map(), owners: new Map(), namesVersion: -1 }
  #followed = ''
  #myVersion = 0
  #announcedAtMs = Number.NEGATIVE_INFINITY
  #state: 'here' | 'leaving' | 'over' = 'here'
  #cancelLook: () => void = () => {}

  constructor(parts: ClusterParts) {
    this.#parts = parts
    this.#me = parts.node
    this.#lookMs = parts.leaseMs / LOOKS_A_LEASE
    this.#liveness = new Liveness(this.#lookMs)
    this.#startedAtMs = parts.runtime.now()
  }

  /** The way to the other nodes. */
  get peers(): Peers {
    return this.#parts.peers
  }

  /** Announces this node, and takes the logs that nobody has; then goes on by itself. Rejects with `storeUnavailable`. */
  async join(): Promise<void> {
    await this.#announce()
    await this.#look()
    while (this.#busy.size > 0) {
      await Promise.all(this.#busy.values())
      if (this.#state !== 'over') await this.#look()
    }
    this.#plan()
  }

  #plan(): void {
    if (this.#state === 'over') return
    const { runtime, onDegraded } = this.#parts
    this.#cancelLook = runtime.setTimer(() => {
      this.#turn().then(
        () => this.#state !== 'over' && onDegraded(''),
        (error) => this.#state !== 'over' && onDegraded(EscrowError.from(error).message),
      )
    }, this.#lookMs)
  }

  async #turn(): Promise<void> {
    try {
      const sinceMs = this.#parts.runtime.monotonic() - this.#announcedAtMs
      if (sinceMs >= this.#parts.leaseMs / HEARTBEATS_A_LEASE) await this.#announce()
      if (this.#state !== 'over') await this.#look()
    } finally {
      this.#plan()
    }
  }

  /** Writes this node's entry, over that of an earlier process with its name; gives way to a later one. */
  async #announce(): Promise<void> {
    const { directory, leaseMs, runtime, logs } = this.#parts
    const state = this.#state === 'here' ? 'here' : 'leaving'
    const { incarnation } = this.#me
    const name = nodeEntry(this.#me.node)
    const value: NodeEntry = {
      incarnation,
      state,
      startedAtMs: this.#startedAtMs,
      leaseMs,
      logs: logs.progress(),
    }
    for (let attempt = 1; attempt <= WRITES_MAX; attempt++) {
      const begunAtMs = runtime.monotonic()
      const version = await directory.compareAndSet(name, this.#myVersion, encode(value))
      if (version !== undefined) {
        this.#myVersion = version
        this.#announcedAtMs = begunAtMs
        return
      }
      const found = await directory.get(name)
      const isMine = found === undefined || decode<NodeEntry>(found).incarnation === incarnation
      if (!isMine && this.#announcedAtMs > Number.NEGATIVE_INFINITY) return this.#superseded()
      this.#myVersion = found?.version ?? 0
    }
    throw new EscrowError('storeUnavailable', `the entry ${name} is written by others all the time`)
  }

  #superseded(): void {
    this.#state = 'over'
    const reason = `another process announces itself as ${this.#me.node}: give each an address of its own (--advertise)`
    const { logs, log, onDegraded, peers } = this.#parts
    log('error', reason)
    logs.stop(new EscrowError('notOwner', reason))
    peers.follow([])
    onDegraded(reason)
  }

  async #look(): Promise<void> {
    const { directory, runtime } = this.#parts
    const entries = await readCluster(directory)
    if (this.#state === 'over') return
    this.#entries = entries
    this.#liveness.look(entries.nodes, runtime.monotonic())
    this.#readNames(entries.namesVersion)
    this.#follow()
    this.#settle()
    await this.#forget()
  }

  /** Has new names read; a look that fails is repeated at the next one. */
  #readNames(version: number): void {
    if (version === this.#namesVersion) return
    const before = this.#namesVersion
    this.#namesVersion = version
    this.#parts.onNames().catch(() => {
      this.#namesVersion = before
    })
  }

  /** Connects to those that live. */
  #follow(): void {
    const others = [...this.#entries.nodes]
      .filter(([node, { value }]) => node !== this.#me.node && this.#lives(node, value))
      .map(([node, { value }]) => ({ node, incarnation: value.incarnation }))
    const text = JSON.stringify(others)
    if (text === this.#followed) return
    this.#followed = text
    this.#parts.peers.follow(others)
  }

  #lives(node: string, { leaseMs }: NodeEntry): boolean {
    return this.#liveness.silentMs(node) < leaseMs
  }

  /** Whether this very process lives, as far as is known. */
  #has({ node, incarnation }: NodeInfo): boolean {
    if (node === this.#me.node) return incarnation === this.#me.incarnation
    const entry = this.#entries.nodes.get(node)?.value
    return entry !== undefined && entry.incarnation === incarnation && this.#lives(node, entry)
  }

  /** Sees to each log: see the table. */
  #settle(): void {
    const { logs } = this.#parts
    const nodes = [...this.#entries.nodes]
      .filter(
        ([node, { value }]) => value.state === 'here' && this.#has({ node, incarnation: value.incarnation }),
      )
      .map(([node]) => node)
    const first = nodes.length === 0 ? [] : assign(logs.count, nodes)
    for (let log = 0; log < logs.count; log++) {
      if (this.#busy.has(log)) continue
      const entry = this.#entries.owners.get(log)
      const driver = logs.at(log)
      const epoch = driver?.progress.epoch ?? 0
      const isFirst = first[log] === this.#me.node && this.#state === 'here'
      if (driver !== undefined) {
        if (entry !== undefined && entry.epoch > epoch) driver.stop(takenOver(log, entry.node))
        else if (!isFirst && first.length > 0) this.#run(log, () => this.#giveUp(log))
        else if (entry?.epoch !== epoch) this.#run(log, () => this.#note(log, this.#me, epoch))
      } else if (isFirst && (entry === undefined || isMe(entry, this.#me) || !this.#has(entry))) {
        if (this.#busy.size < TAKEN_AT_ONCE_MAX && this.#mayTry(log)) this.#run(log, () => this.#take(log))
      } else if (entry !== undefined && isMe(entry, this.#me)) {
        this.#run(log, () => this.#note(log, NOBODY, entry.epoch))
      }
    }
  }

  #run(log: number, work: () => Promise<void>): void {
    const { log: tell } = this.#parts
    this.#busy.set(
      log,
      work()
        .catch((error) => tell('warn', `log ${log}: ${EscrowError.from(error).message}`))
        .finally(() => {
          this.#busy.delete(log)
        }),
    )
  }

  #mayTry(log: number): boolean {
    return this.#parts.runtime.monotonic() >= (this.#failed.get(log)?.untilMs ?? 0)
  }

  async #take(log: number): Promise<void> {
    const { logs, onLogs, runtime } = this.#parts
    const times = (this.#failed.get(log)?.times ?? 0) + 1
    // Until it is seen to go well: a log that can't be recovered is no endless loop of claims.
    this.#failed.set(log, { times, untilMs: runtime.monotonic() + boundMs(AGAIN, times) })
    const epoch = await logs.claim(log)
    this.#failed.delete(log)
    if (logs.at(log) === undefined) return
    onLogs()
    await this.#note(log, this.#me, epoch)
  }

  async #giveUp(log: number): Promise<void> {
    const { logs, onLogs } = this.#parts
    const epoch = logs.at(log)?.progress.epoch ?? 0
    await logs.giveUp(log)
    onLogs()
    await this.#note(log, NOBODY, epoch)
  }

  async #note(log: number, { node, incarnation }: NodeInfo, epoch: number): Promise<void> {
    await noteOwner(this.#parts.directory, log, { node, incarnation, epoch })
  }

  /** Takes out what is left of nodes that have been silent for a day. */
  async #forget(): Promise<void> {
    for (const [node, { version }] of this.#entries.nodes) {
      if (this.#liveness.silentMs(node) > REMEMBERED_MS)
        await this.#parts.directory.remove(nodeEntry(node), version)
    }
  }

  /** Tells the other nodes that there are new names. */
  async bumpNames(): Promise<void> {
    await bumpNames(this.#parts.directory)
  }

  /** Where a log is that isn't driven here; undefined where nobody who lives is known to have it. */
  ownerOf(log: number): string | undefined {
    const entry = this.#entries.owners.get(log)
    return entry !== undefined && entry.node !== this.#me.node && entry.node !== '' && this.#has(entry)
      ? entry.node
      : undefined
  }

  /** Whether a node of this name and incarnation has announced itself and lives. */
  async isNode(node: NodeInfo): Promise<boolean> {
    if (this.#has(node)) return true
    const entry = await this.#parts.directory.get(nodeEntry(node.node))
    return entry !== undefined && decode<NodeEntry>(entry).incarnation === node.incarnation
  }

  /** All nodes, by name, this one as it is now. */
  nodes(): readonly NodeView[] {
    return [...this.#entries.nodes]
      .map(([node, { value }]): NodeView => {
        const { state, startedAtMs, logs } = value
        const isMe = node === this.#me.node
        const silentMs = isMe ? 0 : this.#liveness.silentMs(node)
        return {
          node,
          state: this.#lives(node, value) ? state : 'silent',
          startedAtMs,
          silentMs,
          logs: isMe ? this.#parts.logs.progress() : logs,
        }
      })
      .sort((one, other) => (one.node < other.node ? -1 : 1))
  }

  /** Takes no log any more, and gives its logs to the others, if there are any; those that fail wait for `left`. */
  async leave(): Promise<void> {
    if (this.#state !== 'here') return
    this.#state = 'leaving'
    await this.#announce()
    await this.#look()
    await Promise.all(this.#busy.values())
  }

  /** Gives every log up, and takes this node's entry out. What fails is left to the lease. */
  async left(): Promise<void> {
    this.#cancelLook()
    const wasOver = this.#state === 'over'
    this.#state = 'over'
    await Promise.all(this.#busy.values())
    if (wasOver) return
    const { directory, logs, peers } = this.#parts
    const driven = logs.progress()
    await Promise.all(
      driven.map(async ({ log, epoch }) => {
        await logs.giveUp(log)
        await this.#note(log, NOBODY, epoch).catch(() => {})
      }),
    )
    await directory.remove(nodeEntry(this.#me.node), this.#myVersion).catch(() => {})
    peers.follow([])
  }

  /** Stops looking: the store is being closed. */
  stop(): void {
    this.#state = 'over'
    this.#cancelLook()
  }
}

const NOBODY: NodeInfo = { node: '', incarnation: '' }

const isMe = (entry: NodeInfo, me: NodeInfo): boolean =>
  entry.node === me.node && entry.incarnation === me.incarnation

const takenOver = (log: number, node: string): EscrowError =>
  new EscrowError('notOwner', `log ${log} was taken over by ${node || 'another node'}`)
