/**
 * What a client library of Kafka does for the adapter: links, each with sockets of its own and one user at a time.
 *
 * | state   | sockets | leaves by                                                     |
 * |---------|---------|---------------------------------------------------------------|
 * | new     | none    | `connect`                                                     |
 * | ready   | open    | being used; a socket that closes by itself: broken            |
 * | broken  | some    | `destroy`: the next user gets a new link                      |
 * | ended   | none    | never: what was pending rejects, and nothing is sent any more |
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { fullJitterMs } from '../../core/backoff.ts'
import { EscrowError } from '../../core/errors.ts'
import type { BrokerMessage } from '../broker.ts'
import type { KafkaSettings } from './options.ts'
import { errorOf, type TopicDescription, type Trouble } from './topics.ts'

/** A connection to a cluster. */
export interface Link {
  /** Ends in the library's own error. */
  connect(): Promise<void>
  /** A socket has closed, or it has been destroyed. */
  readonly isBroken: boolean
  /** At once and for good, whatever is under way. */
  destroy(): void
}

/** A record as it is sent. */
export interface KafkaRecord {
  readonly key: Buffer | null
  /** Its partition is this modulo their number. */
  readonly hash: number
  readonly value: Buffer
  readonly headers: Record<string, string>
}

/** Publishes as one idempotent producer, which is never used again after an error: see the adapters. */
export interface ProducerLink extends Link {
  /** Resolves when all are confirmed. Tries again what may succeed, under the same sequence numbers, until it is destroyed. */
  send(topic: string, records: readonly KafkaRecord[]): Promise<void>
}

/** One partition, as `lag` needs it. */
export interface PartitionOffsets {
  readonly low: bigint
  readonly high: bigint
  /** -1: none. */
  readonly committed: bigint
}

/** Asks about topics. */
export interface AdminLink extends Link {
  /** Undefined where the topic isn't there. */
  describe(topic: string): Promise<TopicDescription | undefined>
  /** Resolves as well where somebody else has just created it. */
  create(topic: string, settings: KafkaSettings): Promise<void>
  offsets(topic: string, group: string): Promise<readonly PartitionOffsets[]>
}

/** A message with its place. */
export interface Received {
  readonly offset: bigint
  readonly message: BrokerMessage
}

/** What a member of a group is told. */
export interface ReadingEvents {
  /** Messages of one partition in order; `next` is the offset after the last one, those included that nobody gets to see. */
  received(partition: number, messages: readonly Received[], next: bigint): void
  /** The partitions that are this member's from now on. */
  assigned(partitions: readonly number[]): void
  /** It has ended by itself; connecting anew is up to its user. */
  ended(trouble: Trouble): void
}

/** A member of a group. Connected: it has partitions, or none are left for it. */
export interface ReaderLink extends Link {
  commit(offsets: ReadonlyMap<number, bigint>): Promise<void>
  /** Takes no more of that partition for the time being. */
  pause(partition: number): void
  resume(partition: number): void
  /** Leaves the group. */
  leave(): Promise<void>
}

/** What to read. */
export interface Reading {
  readonly topic: string
  readonly group: string
  readonly from: 'earliest' | 'latest'
}

/** A client library. */
export interface KafkaDriver {
  readonly kind: string
  /** `transactionalId` undefined: no transactions. */
  producer(transactionalId: string | undefined): ProducerLink
  admin(): AdminLink
  reader(reading: Reading, events: ReadingEvents): ReaderLink
  /** Total: whatever was thrown. */
  trouble(thrown: unknown): Trouble
}

/** How long a link may take to be ready; then it is given up, and nothing was sent. */
export const CONNECT_MS_MAX = 10_000
/** The pauses between attempts to connect. */
export const RECONNECT = { delayMs: 100, delayMsMax: 2_000 }
/** Links that are kept for later. */
const IDLE_MAX = 8

/** Waits for work on a link, and ends the link, and with it the work, when the time is over or the signal says so. */
export async function within<T>(
  link: Link,
  work: Promise<T>,
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<T> {
  let giveUp = (): void => {}
  const over = new Promise<never>((_, reject) => {
    giveUp = () => {
      link.destroy()
      reject(new EscrowError('brokerUnavailable', 'no answer in time'))
    }
  })
  const timer = setTimeout(giveUp, timeoutMs)
  if (signal?.aborted === true) giveUp()
  else signal?.addEventListener('abort', giveUp, { once: true })
  try {
    return await Promise.race([work, over])
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', giveUp)
  }
}

/** Links of one sort; as many as are used at the same time. */
export class Links<L extends Link> {
  readonly #open: (number: number) => L
  readonly #trouble: KafkaDriver['trouble']
  readonly #inUse = new Map<L, number>()
  readonly #idle: { readonly link: L; readonly number: number }[] = []
  #failures = 0
  #notBeforeMs = 0
  #isClosed = false

  constructor(open: (number: number) => L, trouble: KafkaDriver['trouble']) {
    this.#open = open
    this.#trouble = trouble
  }

  /** A link that is ready, for one user. Rejects with an `EscrowError`; after failures only after a pause. */
  async take(signal?: AbortSignal): Promise<L> {
    for (let kept = this.#idle.pop(); kept !== undefined; kept = this.#idle.pop()) {
      if (!kept.link.isBroken) {
        this.#inUse.set(kept.link, kept.number)
        return kept.link
      }
      kept.link.destroy()
    }
    const pauseMs = this.#notBeforeMs - performance.now()
    if (pauseMs > 0)
      await sleep(pauseMs, undefined, { ref: false, ...(signal && { signal }) }).catch(() => {})
    return await this.#connect(signal)
  }

  async #connect(signal?: AbortSignal): Promise<L> {
    if (this.#isClosed) throw new EscrowError('brokerUnavailable', 'the broker is closed')
    const number = this.#freeNumber()
    const link = this.#open(number)
    this.#inUse.set(link, number)
    try {
      await within(link, link.connect(), CONNECT_MS_MAX, signal)
    } catch (thrown) {
      this.drop(link)
      this.#failures += 1
      this.#notBeforeMs = performance.now() + fullJitterMs(RECONNECT, this.#failures, Math.random())
      throw errorOf('Kafka cannot be reached', this.#trouble(thrown), thrown)
    }
    this.#failures = 0
    return link
  }

  /** The least one that no link has, so that names that depend on it come back. */
  #freeNumber(): number {
    const taken = new Set([...this.#inUse.values(), ...this.#idle.map(({ number }) => number)])
    let number = 0
    while (taken.has(number)) number += 1
    return number
  }

  /** Gives a link back that has done its work. */
  release(link: L): void {
    const number = this.#inUse.get(link)
    this.#inUse.delete(link)
    if (number === undefined || this.#isClosed || link.isBroken || this.#idle.length >= IDLE_MAX) {
      link.destroy()
      return
    }
    this.#idle.push({ link, number })
  }

  /** Ends a link that has failed. */
  drop(link: L): void {
    this.#inUse.delete(link)
    link.destroy()
  }

  close(): void {
    this.#isClosed = true
    for (const link of [...this.#inUse.keys(), ...this.#idle.map((each) => each.link)]) link.destroy()
    this.#inUse.clear()
    this.#idle.length = 0
  }
}
