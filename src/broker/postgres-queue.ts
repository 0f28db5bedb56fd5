/**
 * A PostgreSQL as a broker, for teams without one: a queue in tables of its own.
 *
 * | what            | how                                                                                              |
 * |-----------------|--------------------------------------------------------------------------------------------------|
 * | confirm         | COMMIT with synchronous_commit on; one statement a batch                                          |
 * | order           | within a key, for each group: a message is handed out once those before it are acknowledged       |
 * | duplicates      | an id that is there already isn't written again, for `deduplicationMs`: a resend after a COMMIT   |
 * |                 | whose answer was lost makes none. A reader that dies, or loses its connection, leaves what it had  |
 * |                 | not acknowledged to be received again: consumers deduplicate by `escrow-id`                        |
 * | delay           | Escrow holds delayed messages itself                                                              |
 * | groups          | several read a topic, each by itself; up to 16 readers of a group share it                        |
 * | kept            | until all groups have acknowledged it, and `deduplicationMs`; `retentionMs` at most               |
 * | trace headers   | as JSON beside the body                                                                           |
 * | maximum size    | 64 MiB: body, key and headers                                                                     |
 * | `replicated`    | fsync, full_page_writes, synchronous_commit, synchronous_standby_names                            |
 * | what it isn't   | fast beyond some ten thousand messages a second; a message that a handler rejects for ever stops   |
 * |                 | its lane, a sixteenth of the keys, once 128 of its key wait behind it                             |
 *
 * How groups read, and why a message that commits late isn't skipped: `postgres-queue/lanes.ts`. A service whose business
 * rows are in the same database needs no half messages: `postgres-queue/enqueue.ts`.
 */
import { EscrowError } from '../core/errors.ts'
import { postgresCode } from '../core/postgres-failure.ts'
import type {
  Broker,
  BrokerMessage,
  PublishOutcome,
  SubscribeOptions,
  Subscription,
  Topic,
  TopicPolicy,
} from './broker.ts'
import { type Connection, Connections, queueFailure } from './postgres-queue/connections.ts'
import {
  countWithin,
  faultOf,
  insertMessages,
  MESSAGE_BYTES_MAX,
  publishStatement,
} from './postgres-queue/insert.ts'
import { laneStatements } from './postgres-queue/lanes.ts'
import { Listener } from './postgres-queue/listener.ts'
import { type ParsedOptions, parseOptions } from './postgres-queue/options.ts'
import { Reader } from './postgres-queue/reader.ts'
import { migrateQueue } from './postgres-queue/schema.ts'
import { Sweep } from './postgres-queue/sweep.ts'
import { Topics } from './postgres-queue/topics.ts'

export {
  type EnqueueClient,
  type EnqueuedMessage,
  type EnqueueOptions,
  enqueue,
} from './postgres-queue/enqueue.ts'

/** What the queue takes. */
export interface PostgresQueueOptions extends TopicPolicy {
  /** `postgres://user:password@host:port/database`, of the server itself: behind a pooler it is refused. */
  readonly url: string
  /** A schema of its own, made if it isn't there: a-z, 0-9 and '_', at most 48, not first a digit. Default `escrow_queue`. */
  readonly schema?: string | undefined
  /** Whether the tables are made, and brought to this version's format, at first use. Default true. */
  readonly migrate?: boolean | undefined
  /** Connections at once, 2 to 100, beside the one by which readers are woken. Default 8. */
  readonly connectionsMax?: number | undefined
  /** How long a reader that died keeps its messages from the others: 1 s to 10 minutes, default 30 s. */
  readonly leaseMs?: number | undefined
  /** How often a reader looks that nobody woke: 10 ms to 1 minute, default 500 ms. */
  readonly pollMs?: number | undefined
  /** How long an id is remembered, and its message kept, at least: 1 minute to 31 days, default 1 h. */
  readonly deduplicationMs?: number | undefined
  /** How long a message is kept that not all groups acknowledge, or that nobody reads: up to a year, default 7 days. */
  readonly retentionMs?: number | undefined
}

/** How long what has no signal of its own may take. */
const OPERATION_MS = 30_000
/** Between two notifications of a topic, at least. */
const WAKE_MS = 25
/** How long closing waits for readers to give up what they have. */
const FAREWELL_MS = 2_000
const CONCURRENCY_MAX = 16
const GROUP_BYTES_MAX = 255

/**
 * A queue in a PostgreSQL. Nothing is opened before it is used. Throws `invalidArgument` for an option, naming it.
 */
export function postgresQueue(options: PostgresQueueOptions): Broker {
  return new PostgresQueue(parseOptions(options))
}

class PostgresQueue implements Broker {
  readonly kind = 'postgres'
  readonly #options: ParsedOptions
  readonly #connections: Connections
  readonly #topics: Topics
  readonly #publish
  readonly #statements
  readonly #sweep: Sweep
  readonly #readers = new Set<Reader>()
  readonly #listener: Listener
  /** By topic: when readers were last woken, or are to be. */
  readonly #wokenAt = new Map<number, number>()

  constructor(options: ParsedOptions) {
    const { url, schema, migrate, connectionsMax } = options
    this.#options = options
    this.#connections = new Connections({
      url,
      connectionsMax,
      prepare: (client) => migrateQueue(client, { schema, mayChange: migrate }),
    })
    this.#topics = new Topics(options)
    this.#publish = publishStatement(schema)
    this.#statements = laneStatements(schema)
    this.#sweep = new Sweep({ ...options, connections: this.#connections })
    this.#listener = new Listener(this.#connections, schema, this.#readers)
  }

  async register(topic: string, signal: AbortSignal): Promise<Topic> {
    const shortfalls = await this.#use(`registering topic ${topic}`, signal, async (connection) => {
      await this.#numberOf(connection, topic, signal)
      return await this.#topics.shortfalls(connection, signal)
    })
    if (this.#options.durability === 'replicated' && shortfalls.length > 0)
      throw new EscrowError(
        'notDurable',
        `topic ${topic} may lose what it has confirmed: ${shortfalls.join('; ')}`,
      )
    return { messageBytesMax: MESSAGE_BYTES_MAX, isOrdered: true, shortfalls }
  }

  async publish(batch: readonly BrokerMessage[], signal: AbortSignal): Promise<readonly PublishOutcome[]> {
    const outcomes = new Array<PublishOutcome>(batch.length)
    const byTopic = new Map<string, number[]>()
    for (const [at, message] of batch.entries()) {
      const fault = faultOf(message)
      if (fault !== undefined) outcomes[at] = { outcome: 'refused', error: fault }
      else if (byTopic.get(message.topic)?.push(at) === undefined) byTopic.set(message.topic, [at])
    }
    for (const [topic, places] of byTopic) {
      const messages = places.map((at) => batch[at] as BrokerMessage)
      for (let from = 0; from < messages.length; ) {
        const some = messages.slice(from, from + countWithin(messages, from))
        const outcome = await this.#publishSome(topic, some, signal)
        for (const at of places.slice(from, from + some.length)) outcomes[at] = outcome
        from += some.length
      }
    }
    return outcomes
  }

  /** What one statement brings: all of it, or nothing. */
  async #publishSome(
    topic: string,
    messages: readonly BrokerMessage[],
    signal: AbortSignal,
  ): Promise<PublishOutcome> {
    const doing = `publishing to topic ${topic}`
    let connection: Connection
    try {
      connection = await this.#connections.take(signal)
    } catch (error) {
      return { outcome: 'unreachable', error: queueFailure(error, doing).message }
    }
    try {
      const number = await this.#numberOf(connection, topic, signal)
      await insertMessages(connection, this.#publish, number, messages, signal)
      this.#wakeReaders(number)
      return { outcome: 'published' }
    } catch (error) {
      this.#forgetIfMissing(error)
      return { outcome: 'failed', error: queueFailure(error, doing).message }
    } finally {
      connection.release()
    }
  }

  /**
   * At once, or a little after the last time: batches that follow each other wake readers who look again and again anyway. In
   * a transaction of its own, after the COMMIT: those that notify wait for each other, on the whole server.
   */
  #wakeReaders(topic: number): void {
    const last = this.#wokenAt.get(topic) ?? Number.NEGATIVE_INFINITY
    const now = performance.now()
    // One is to come.
    if (last > now) return
    const at = Math.max(now, last + WAKE_MS)
    this.#wokenAt.set(topic, at)
    const values = [this.#options.schema, `m${topic}`]
    setTimeout(() => {
      const signal = AbortSignal.timeout(OPERATION_MS)
      this.#connections
        .use('waking readers', signal, (connection) =>
          connection.run(this.#statements.notify, values, signal),
        )
        // They look by themselves.
        .catch(() => {})
    }, at - now).unref()
  }

  async subscribe(
    { topic: name, group, concurrencyMax = CONCURRENCY_MAX, from = 'earliest' }: SubscribeOptions,
    handle: (message: BrokerMessage) => Promise<void>,
  ): Promise<Subscription> {
    if (!Number.isInteger(concurrencyMax) || concurrencyMax < 1)
      throw new EscrowError(
        'invalidArgument',
        `concurrencyMax ${concurrencyMax} is not a whole number from 1`,
      )
    if (group === '' || Buffer.byteLength(group) > GROUP_BYTES_MAX || group.includes('\0'))
      throw new EscrowError('invalidArgument', `group is not 1 to ${GROUP_BYTES_MAX} bytes without U+0000`)
    const signal = AbortSignal.timeout(OPERATION_MS)
    const numbers = await this.#use(`subscribing to topic ${name}`, signal, async (connection) => {
      const topic = await this.#numberOf(connection, name, signal)
      await connection.run(this.#statements.join, [topic, group, from === 'latest'], signal)
      const [row] = await connection.run(this.#statements.group, [topic, group], signal)
      return { topic, group: row?.[0] as number }
    })
    if (this.#connections.closed.aborted) throw new EscrowError('brokerUnavailable', 'the broker is closed')
    const reader = new Reader({
      ...this.#options,
      connections: this.#connections,
      statements: this.#statements,
      topic: { name, number: numbers.topic },
      group: { name: group, number: numbers.group },
      concurrencyMax,
      handle,
      onOver: (one) => this.#readers.delete(one),
    })
    this.#readers.add(reader)
    this.#listener.start()
    return { close: () => reader.close() }
  }

  async lag(topic: string, group: string): Promise<number> {
    const signal = AbortSignal.timeout(OPERATION_MS)
    return await this.#use(`counting in topic ${topic}`, signal, async (connection) => {
      const number = await this.#numberOf(connection, topic, signal)
      const [row] = await connection.run(this.#statements.lag, [number, group], signal)
      return row?.[0] as number
    })
  }

  async close(): Promise<void> {
    this.#listener.stop()
    this.#sweep.stop()
    const abandoned = Promise.all([...this.#readers].map((reader) => reader.abandon()))
    const timer = Promise.withResolvers<void>()
    const timeout = setTimeout(timer.resolve, FAREWELL_MS)
    await Promise.race([abandoned, timer.promise])
    clearTimeout(timeout)
    await this.#connections.close()
    await abandoned
  }

  async #numberOf(connection: Connection, topic: string, signal: AbortSignal): Promise<number> {
    const number = await this.#topics.numberOf(connection, topic, signal)
    this.#sweep.add(number)
    return number
  }

  async #use<T>(
    doing: string,
    signal: AbortSignal,
    work: (connection: Connection) => Promise<T>,
  ): Promise<T> {
    try {
      return await this.#connections.use(doing, signal, work)
    } catch (error) {
      this.#forgetIfMissing(error)
      throw error
    }
  }

  /** Tables that are gone, as when a database was made anew, are made again, and have other numbers. */
  #forgetIfMissing(error: unknown): void {
    const code = error instanceof EscrowError ? error.details.cause : postgresCode(error)
    if (code !== '42P01' && code !== '3F000') return
    this.#topics.forget()
    this.#connections.unprepare()
  }
}
