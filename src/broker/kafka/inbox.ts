/** The messages that a member of a group has in hand: handled in the order of each key, acknowledged in the order of each partition. */
import { fullJitterMs } from '../../core/backoff.ts'
import type { BrokerMessage } from '../broker.ts'
import type { Received } from './links.ts'

/** Of one partition; then no more of it is taken until half of them are done. */
const HELD_MAX = 1_000
const RETRY = { delayMs: 200, delayMsMax: 10_000 }

interface Entry {
  readonly offset: bigint
  readonly message: BrokerMessage
  isDone: boolean
  attempts: number
}

/** Entries of one key, the first of which is handled, waits for its turn, or for another attempt. */
interface Chain {
  readonly partition: Partition
  readonly entries: Entry[]
}

class Partition {
  /** Not done yet, or done before one that isn't; in order. */
  readonly held: Entry[] = []
  readonly chains = new Map<string, Chain>()
  /** Where the next message to be taken stands. */
  next = -1n
  committed = -1n
  isPaused = false
  isLost = false

  /** All before it are done. */
  get done(): bigint {
    return this.held[0]?.offset ?? this.next
  }
}

/** What an inbox needs. */
export interface InboxOptions {
  readonly concurrencyMax: number
  readonly handle: (message: BrokerMessage) => Promise<void>
  /** Something can be committed that couldn't before. */
  readonly progress: () => void
  readonly pause: (partition: number) => void
  readonly resume: (partition: number) => void
}

/** Outlives the connections by which the messages came. */
export class Inbox {
  readonly #options: InboxOptions
  readonly #partitions = new Map<number, Partition>()
  #ready: Chain[] = []
  readonly #pauses = new Map<NodeJS.Timeout, () => void>()
  #running = 0
  #isClosed = false
  #idle = (): void => {}

  constructor(options: InboxOptions) {
    this.#options = options
  }

  /** Takes messages of one partition, in order; those that it has already are left out. */
  add(number: number, messages: readonly Received[], next: bigint): void {
    if (this.#isClosed) return
    const partition = this.#partitions.get(number) ?? new Partition()
    this.#partitions.set(number, partition)
    for (const { offset, message } of messages) {
      if (offset < partition.next) continue
      const entry: Entry = { offset, message, isDone: false, attempts: 0 }
      partition.held.push(entry)
      this.#chain(partition, entry)
    }
    if (next > partition.next) partition.next = next
    if (!partition.isPaused && partition.held.length >= HELD_MAX) {
      partition.isPaused = true
      this.#options.pause(number)
    }
    this.#run()
    this.#options.progress()
  }

  #chain(partition: Partition, entry: Entry): void {
    const { key } = entry.message
    const chain = key === '' ? undefined : partition.chains.get(key)
    if (chain !== undefined) {
      chain.entries.push(entry)
      return
    }
    const started = { partition, entries: [entry] }
    if (key !== '') partition.chains.set(key, started)
    this.#ready.push(started)
  }

  #run(): void {
    while (this.#running < this.#options.concurrencyMax && !this.#isClosed) {
      const chain = this.#ready.shift()
      if (chain === undefined) return
      if (!chain.partition.isLost) void this.#handle(chain)
    }
  }

  async #handle(chain: Chain): Promise<void> {
    const entry = chain.entries[0] as Entry
    this.#running += 1
    try {
      await this.#options.handle(entry.message)
      entry.isDone = true
    } catch {
      entry.attempts += 1
    }
    this.#running -= 1
    if (entry.isDone) this.#finish(chain, entry)
    else if (!this.#isClosed) this.#later(chain, fullJitterMs(RETRY, entry.attempts, Math.random()))
    if (this.#running === 0) this.#idle()
    this.#run()
  }

  #later(chain: Chain, pauseMs: number): void {
    const timer = setTimeout(() => {
      this.#pauses.delete(timer)
      this.#ready.push(chain)
      this.#run()
    }, pauseMs)
    this.#pauses.set(timer, () => clearTimeout(timer))
  }

  #finish(chain: Chain, entry: Entry): void {
    const { partition, entries } = chain
    entries.shift()
    if (entries.length > 0) this.#ready.push(chain)
    else if (partition.chains.get(entry.message.key) === chain) partition.chains.delete(entry.message.key)
    if (partition.held[0] !== entry) return
    const firstOpen = partition.held.findIndex(({ isDone }) => !isDone)
    partition.held.splice(0, firstOpen < 0 ? partition.held.length : firstOpen)
    if (partition.isLost) return
    if (partition.isPaused && partition.held.length < HELD_MAX / 2) {
      partition.isPaused = false
      const number = [...this.#partitions].find(([, each]) => each === partition)?.[0]
      if (number !== undefined) this.#options.resume(number)
    }
    this.#options.progress()
  }

  /** The partitions that are still this member's; what it has of others is forgotten, once what is being handled has ended. */
  keep(partitions: readonly number[]): void {
    for (const [number, partition] of this.#partitions) {
      if (partitions.includes(number)) {
        // A new connection knows nothing of the old one's pauses, nor of what it may have failed to commit.
        partition.committed = -1n
        if (partition.isPaused) this.#options.pause(number)
        continue
      }
      partition.isLost = true
      this.#partitions.delete(number)
    }
  }

  /** What can be committed and isn't: the offset of the next message to read, by partition. */
  committable(): Map<number, bigint> {
    const offsets = new Map<number, bigint>()
    for (const [number, partition] of this.#partitions) {
      if (partition.done >= 0n && partition.done > partition.committed) offsets.set(number, partition.done)
    }
    return offsets
  }

  committed(offsets: ReadonlyMap<number, bigint>): void {
    for (const [number, offset] of offsets) {
      const partition = this.#partitions.get(number)
      if (partition !== undefined) partition.committed = offset
    }
  }

  /** Begins nothing any more. Resolves when nothing is being handled. */
  async close(): Promise<void> {
    this.#isClosed = true
    for (const cancel of this.#pauses.values()) cancel()
    this.#pauses.clear()
    this.#ready = []
    if (this.#running === 0) return
    await new Promise<void>((resolve) => {
      this.#idle = resolve
    })
  }
}
