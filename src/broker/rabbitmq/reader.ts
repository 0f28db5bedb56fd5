/**
 * Reads a queue, and goes on reading after the channel or the connection broke.
 *
 * | a message is | because                                   | leaves by                                                     |
 * |--------------|-------------------------------------------|---------------------------------------------------------------|
 * | waiting      | one of its key, or every hand, is at work | its turn: handled; its channel closes: forgotten, comes again |
 * | handled      | its turn came                             | resolved: acknowledged; rejected: paused; channel closed: done |
 * | paused       | `handle` rejected                         | the pause ends: handled; its channel closes: forgotten        |
 *
 * What is rejected is not given back to the server: there it would come behind what was fetched already, and count
 * against the delivery limit of a quorum queue, at which RabbitMQ drops a message.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Channel, ConsumeMessage } from 'amqplib'
import { type Backoff, fullJitterMs } from '../../core/backoff.ts'
import type { EscrowError } from '../../core/errors.ts'
import type { BrokerMessage } from '../broker.ts'
import { messageOf } from '../headers.ts'
import type { Reader } from '../readers.ts'
import { inTime, NEVER, type RabbitConnection } from './connection.ts'
import { channelFailure } from './topology.ts'

const RECONNECT: Backoff = { delayMs: 200, delayMsMax: 5_000 }
const REPEAT: Backoff = { delayMs: 200, delayMsMax: 10_000 }

export interface ReaderOptions {
  readonly connection: RabbitConnection
  readonly queue: string
  readonly topic: string
  readonly concurrencyMax: number
  readonly handle: (message: BrokerMessage) => Promise<void>
}

interface Delivery {
  readonly message: BrokerMessage
  readonly source: Source
  readonly tag: ConsumeMessage
}

/** A channel that consumes, until it closes. */
interface Source {
  readonly channel: Channel
  readonly ended: Promise<void>
  isOpen: boolean
}

/** One subscription. */
export class RabbitReader implements Reader {
  readonly #options: ReaderOptions
  readonly #hands: Hands
  readonly #closing = new AbortController()
  #source: Source | undefined
  #ended: Promise<void> = Promise.resolve()

  constructor(options: ReaderOptions) {
    this.#options = options
    this.#hands = new Hands(options.concurrencyMax, (delivery) => this.#handle(delivery))
  }

  get queue(): string {
    return this.#options.queue
  }

  /** Messages that it has got and not acknowledged. */
  get unacknowledged(): number {
    return this.#hands.held
  }

  /** Resolves when it reads, or once it is known that it must try again; throws what can't pass by itself. */
  async start(): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#ended = this.#read(resolve, reject)
    await promise
  }

  async #read(began: () => void, refused: (error: EscrowError) => void): Promise<void> {
    const { signal } = this.#closing
    let hasBegun = false
    for (let failures = 0; !signal.aborted; ) {
      try {
        this.#source = await this.#consume()
        // Closed in this very moment: `close` has not seen it.
        if (signal.aborted) await this.#source.channel.close()
        failures = 0
        hasBegun = true
        began()
        await this.#source.ended
      } catch (error) {
        const failure = channelFailure(error)
        if (!hasBegun && !failure.retryable) return refused(failure)
        hasBegun = true
        began()
      }
      if (signal.aborted) return
      this.#hands.forget()
      failures += 1
      await pause(RECONNECT, failures, signal)
    }
  }

  async #consume(): Promise<Source> {
    const { connection, queue, concurrencyMax } = this.#options
    const { signal } = this.#closing
    const { model } = await connection.get(signal)
    const close = (late: Channel) => void late.close().catch(() => {})
    const channel = await inTime(model.createChannel(), signal, close)
    const { promise: ended, resolve: end } = Promise.withResolvers<void>()
    const source: Source = { channel, ended, isOpen: true }
    channel.on('error', () => {})
    channel.on('close', () => {
      source.isOpen = false
      end()
    })
    try {
      await inTime(channel.prefetch(concurrencyMax), signal)
      const take = (tag: ConsumeMessage | null) => {
        // The server has cancelled: the queue was deleted, or its leader has moved.
        if (tag === null) close(channel)
        else this.#hands.take({ message: this.#messageOf(tag), source, tag })
      }
      await inTime(channel.consume(queue, take, { consumerTag: CONSUMER }), signal)
      return source
    } catch (error) {
      if (source.isOpen) close(channel)
      throw error
    }
  }

  #messageOf({ content, properties }: ConsumeMessage): BrokerMessage {
    const headers: Record<string, string> = {}
    for (const [name, value] of Object.entries(properties.headers ?? {}))
      headers[name] = typeof value === 'string' ? value : JSON.stringify(value)
    const id = typeof properties.messageId === 'string' ? properties.messageId : ''
    return messageOf(this.#options.topic, headers, content, { id, key: '' })
  }

  async #handle({ message, source, tag }: Delivery): Promise<void> {
    for (let attempt = 1; source.isOpen && !this.#closing.signal.aborted; attempt++) {
      try {
        await this.#options.handle(message)
      } catch {
        await Promise.race([pause(REPEAT, attempt, this.#closing.signal), source.ended])
        continue
      }
      if (source.isOpen) source.channel.ack(tag)
      return
    }
  }

  async close(): Promise<void> {
    const source = this.#source
    if (source?.isOpen === true)
      await inTime(source.channel.cancel(CONSUMER), this.#closing.signal).catch(() => {})
    this.#closing.abort()
    this.#hands.forget()
    await this.#hands.rest()
    if (source?.isOpen === true) await inTime(source.channel.close(), NEVER).catch(() => {})
    await this.#ended
  }

  async abandon(): Promise<void> {
    this.#closing.abort()
    this.#hands.forget()
  }
}

/** Of one channel each. */
const CONSUMER = 'escrow'

async function pause(backoff: Backoff, attempt: number, signal: AbortSignal): Promise<void> {
  await sleep(fullJitterMs(backoff, attempt, Math.random()), undefined, { signal }).catch(() => {})
}

/** Handles so many messages at once, and those of one key one after the other. */
class Hands {
  readonly #max: number
  readonly #handle: (delivery: Delivery) => Promise<void>
  /** By key; the first of each is handled, or is the next of its key. */
  readonly #queues = new Map<string | symbol, Delivery[]>()
  readonly #ready: (string | symbol)[] = []
  readonly #busy = new Set<string | symbol>()
  #rested = Promise.withResolvers<void>()

  constructor(max: number, handle: (delivery: Delivery) => Promise<void>) {
    this.#max = max
    this.#handle = handle
  }

  get held(): number {
    let count = 0
    for (const queue of this.#queues.values()) count += queue.length
    return count
  }

  take(delivery: Delivery): void {
    const key = delivery.message.key || Symbol()
    const queue = this.#queues.get(key)
    if (queue !== undefined) {
      queue.push(delivery)
      return
    }
    this.#queues.set(key, [delivery])
    this.#ready.push(key)
    this.#next()
  }

  #next(): void {
    while (this.#busy.size < this.#max) {
      const key = this.#ready.shift()
      if (key === undefined) break
      void this.#work(key, this.#queues.get(key)!)
    }
    if (this.#busy.size === 0) this.#rested.resolve()
  }

  async #work(key: string | symbol, queue: Delivery[]): Promise<void> {
    if (this.#busy.size === 0) this.#rested = Promise.withResolvers()
    this.#busy.add(key)
    await this.#handle(queue[0]!)
    this.#busy.delete(key)
    queue.shift()
    if (queue.length > 0) this.#ready.push(key)
    else this.#queues.delete(key)
    this.#next()
  }

  /** Forgets what is not handled yet: it comes again. */
  forget(): void {
    this.#ready.length = 0
    for (const [key, queue] of this.#queues) {
      if (this.#busy.has(key)) queue.length = 1
      else this.#queues.delete(key)
    }
  }

  /** Resolves when nothing is handled. */
  async rest(): Promise<void> {
    if (this.#busy.size > 0) await this.#rested.promise
  }
}
