/**
 * One member of a consumer group, over as many connections as it takes.
 *
 * | state      | link | handles | leaves by                                        |
 * |------------|------|---------|--------------------------------------------------|
 * | connecting | new  | what it has in hand | joined: reading; failed: waiting     |
 * | reading    | yes  | yes     | the link ends: waiting                           |
 * | waiting    | no   | what it has in hand | its pause: connecting                |
 * | closed     | no   | no      |                                                  |
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { fullJitterMs } from '../../core/backoff.ts'
import { EscrowError } from '../../core/errors.ts'
import type { BrokerMessage, SubscribeOptions } from '../broker.ts'
import { Inbox } from './inbox.ts'
import { type KafkaDriver, RECONNECT, type ReaderLink, type Reading, within } from './links.ts'
import { errorOf } from './topics.ts'

/** Joining waits for the other members to join again. */
const JOIN_MS_MAX = 60_000
/** The first time is given up after so long. */
const START_MS_MAX = 20_000
const COMMIT_MS_MAX = 10_000
const LEAVE_MS_MAX = 5_000
/** Commits are collected for so long. */
const COMMIT_PAUSE_MS = 50
const CONCURRENCY_DEFAULT = 16

/** Reads, handles, commits. */
export class KafkaSubscription {
  readonly #driver: KafkaDriver
  readonly #reading: Reading
  readonly #inbox: Inbox
  #link: ReaderLink | undefined
  #isClosed = false
  #failures = 0
  #commitTimer: NodeJS.Timeout | undefined
  #committing: Promise<void> | undefined
  readonly #closing = new AbortController()

  constructor(
    driver: KafkaDriver,
    { topic, group, from = 'earliest', concurrencyMax = CONCURRENCY_DEFAULT }: SubscribeOptions,
    handle: (message: BrokerMessage) => Promise<void>,
  ) {
    this.#driver = driver
    this.#reading = { topic, group, from }
    this.#inbox = new Inbox({
      concurrencyMax,
      // A handler may throw before it has promised anything.
      handle: async (message) => await handle(message),
      progress: () => this.#commitSoon(),
      pause: (partition) => this.#link?.pause(partition),
      resume: (partition) => this.#link?.resume(partition),
    })
  }

  /** Joins the group. Throws what `register` throws where it can't the first time; after that it connects by itself. */
  async start(): Promise<void> {
    const deadline = performance.now() + START_MS_MAX
    for (;;) {
      try {
        await this.#connect()
        return
      } catch (thrown) {
        const { topic, group } = this.#reading
        const what = `group ${group} cannot read topic ${topic}`
        const error = errorOf(what, this.#driver.trouble(thrown), thrown)
        // A new cluster's first group waits for the topic that groups are kept in.
        if (!error.retryable || this.#isClosed || performance.now() > deadline) throw error
        await this.#pause()
      }
    }
  }

  async #connect(): Promise<void> {
    if (this.#isClosed) throw new EscrowError('brokerUnavailable', 'the broker is closed')
    let isReady = false
    const link = this.#driver.reader(this.#reading, {
      received: (partition, messages, next) => {
        if (this.#link === link) this.#inbox.add(partition, messages, next)
      },
      assigned: (partitions) => {
        if (this.#link === link) this.#inbox.keep(partitions)
      },
      ended: () => {
        // While it leaves its group, it ends as well.
        if (this.#link !== link || this.#isClosed) return
        this.#drop(link)
        // Before that, who waits for it to be ready is told, and tries again.
        if (isReady) void this.#reconnect()
      },
    })
    this.#link = link
    try {
      await within(link, link.connect(), JOIN_MS_MAX, this.#closing.signal)
    } catch (error) {
      this.#drop(link)
      throw error
    }
    isReady = true
    this.#failures = 0
    this.#commitSoon()
  }

  #drop(link: ReaderLink): void {
    if (this.#link === link) this.#link = undefined
    link.destroy()
  }

  async #reconnect(): Promise<void> {
    while (!this.#isClosed && this.#link === undefined) {
      await this.#pause()
      if (!this.#isClosed) await this.#connect().catch(() => {})
    }
  }

  async #pause(): Promise<void> {
    this.#failures += 1
    const pauseMs = fullJitterMs(RECONNECT, this.#failures, Math.random())
    await sleep(pauseMs, undefined, { signal: this.#closing.signal }).catch(() => {})
  }

  #commitSoon(): void {
    if (this.#commitTimer !== undefined || this.#isClosed) return
    this.#commitTimer = setTimeout(() => {
      this.#commitTimer = undefined
      this.#committing = this.#commit().finally(() => {
        this.#committing = undefined
      })
    }, COMMIT_PAUSE_MS)
  }

  async #commit(): Promise<void> {
    await this.#committing
    const link = this.#link
    const offsets = this.#inbox.committable()
    if (link === undefined || offsets.size === 0) return
    try {
      await within(link, link.commit(offsets), COMMIT_MS_MAX)
      if (this.#link === link) this.#inbox.committed(offsets)
    } catch {
      // The next one says as much and more; a link that is gone is replaced, and a lost partition is another's.
      this.#commitSoon()
    }
  }

  /** Waits for what is being handled, commits it, and leaves the group. */
  async close(): Promise<void> {
    await this.#inbox.close()
    await this.#end(async () => await this.#commit())
  }

  /** Leaves the group at once: what is being handled comes again, to whoever. */
  async abandon(): Promise<void> {
    void this.#inbox.close()
    await this.#end(async () => {})
  }

  async #end(last: () => Promise<void>): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    clearTimeout(this.#commitTimer)
    const link = this.#link
    if (link !== undefined) {
      const leaving = last().then(() => link.leave())
      await within(link, leaving, LEAVE_MS_MAX).catch(() => {})
      this.#drop(link)
    }
    this.#closing.abort()
  }
}
