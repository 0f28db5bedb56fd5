/**
 * An adapter of Kafka, whichever client library drives it (`kafka.ts`, `kafka-platformatic.ts`).
 *
 * | of                        | it guarantees                                                                            |
 * |---------------------------|------------------------------------------------------------------------------------------|
 * | confirm                   | acks=all: `min.insync.replicas` brokers have it; each flushes to disk as its own settings say, by default later |
 * | order                     | of a key, in its partition; held through retries by sequence numbers, one batch at a time |
 * | duplicates after a crash  | at most the batches that were under way: an attempt's own are removed by the brokers (idempotent producer), those of a later `publish` by consumers, by `escrow-id` |
 * | delay                     | none of its own: Escrow holds delayed messages                                           |
 * | trace headers             | as record headers, `traceparent` among them                                              |
 * | maximum size              | the topic's `max.message.bytes` (1 MiB by default) less 2 KiB; it bounds a whole record batch, so that batches are split by it |
 * | what `replicated` checks  | replication.factor, min.insync.replicas, unclean.leader.election.enable                  |
 *
 * A message that only the broker finds too large, or invalid, is sought out by halving its batch; its neighbours may then
 * come twice. A producer is used by one `publish` at a time and ended after any error: what it would send next could pass for
 * a repetition of what has failed, and be thrown away with a confirmation.
 */
import { EscrowError } from '../../core/errors.ts'
import type {
  Broker,
  BrokerMessage,
  PublishOutcome,
  SubscribeOptions,
  Subscription,
  Topic,
} from '../broker.ts'
import { headersOf } from '../headers.ts'
import { Readers } from '../readers.ts'
import { hashOfKey } from './hash.ts'
import {
  type AdminLink,
  type KafkaDriver,
  type KafkaRecord,
  Links,
  type ProducerLink,
  within,
} from './links.ts'
import type { KafkaSettings } from './options.ts'
import { KafkaSubscription } from './subscription.ts'
import {
  BATCH_BYTES_DEFAULT,
  batchBytesMax,
  errorOf,
  isRefusing,
  isWithin,
  recordBytes,
  type TopicDescription,
  topicOf,
} from './topics.ts'

/** What one question to the cluster may take, where its asker has no more patience than that. */
const ASK_MS_MAX = 15_000
/** What one batch may take, where its sender waits longer: `delivery.timeout.ms` of Kafka's own producer. */
const SEND_MS_MAX = 120_000
/** A topic that was created is known to one broker before the others. */
const CREATED_TRIES_MAX = 50
const CREATED_PAUSE_MS = 100

/** Some messages of a batch, by their places in it. */
type Part = readonly number[]

/** The adapter itself. */
export class KafkaBroker implements Broker {
  readonly kind: string
  readonly #driver: KafkaDriver
  readonly #settings: KafkaSettings
  readonly #producers: Links<ProducerLink>
  readonly #admins: Links<AdminLink>
  readonly #subscriptions = new Readers<KafkaSubscription>()
  /** `max.message.bytes` of the topics that were registered. */
  readonly #batchBytesMax = new Map<string, number>()

  constructor(driver: KafkaDriver, settings: KafkaSettings) {
    this.kind = driver.kind
    this.#driver = driver
    this.#settings = settings
    const trouble = (thrown: unknown) => driver.trouble(thrown)
    const { idPrefix } = settings
    this.#producers = new Links(
      (number) => driver.producer(idPrefix === undefined ? undefined : `${idPrefix}-${number}`),
      trouble,
    )
    this.#admins = new Links(() => driver.admin(), trouble)
  }

  async register(topic: string, signal: AbortSignal): Promise<Topic> {
    const described = await this.#ask(`topic ${topic}`, (admin) => this.#describe(admin, topic), signal)
    const found = topicOf(described)
    if (this.#settings.isReplicatedAsked && found.shortfalls.length > 0) {
      const why = found.shortfalls.join('; ')
      throw new EscrowError('notDurable', `topic ${topic} is not replicated: ${why}`, { details: { topic } })
    }
    this.#batchBytesMax.set(topic, batchBytesMax(described))
    return found
  }

  async #describe(admin: AdminLink, topic: string): Promise<TopicDescription> {
    const found = await admin.describe(topic)
    if (found !== undefined) return found
    if (!this.#settings.createsTopics)
      throw new EscrowError(
        'unknownDestination',
        `topic ${topic} is not there: create it, or set missingTopics of the broker to 'create'`,
        { details: { topic } },
      )
    await admin.create(topic, this.#settings)
    for (let attempt = 1; attempt <= CREATED_TRIES_MAX; attempt++) {
      const created = await admin.describe(topic).catch(() => undefined)
      if (created !== undefined) return created
      await new Promise((resolve) => setTimeout(resolve, CREATED_PAUSE_MS))
    }
    throw new EscrowError('brokerUnavailable', `topic ${topic} was created, and nobody knows it yet`)
  }

  async #ask<T>(what: string, ask: (admin: AdminLink) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const admin = await this.#admins.take(signal)
    try {
      return await within(admin, ask(admin), ASK_MS_MAX, signal)
    } catch (thrown) {
      if (thrown instanceof EscrowError) throw thrown
      this.#admins.drop(admin)
      throw errorOf(what, this.#driver.trouble(thrown), thrown)
    } finally {
      this.#admins.release(admin)
    }
  }

  async publish(batch: readonly BrokerMessage[], signal: AbortSignal): Promise<readonly PublishOutcome[]> {
    const topic = batch[0]?.topic
    if (topic === undefined) return []
    const outcomes = new Array<PublishOutcome>(batch.length)
    const parts = this.#split(topic, batch, outcomes)
    let producer: ProducerLink
    try {
      producer = await this.#producers.take(signal)
    } catch (error) {
      const outcome = { outcome: 'unreachable', error: EscrowError.from(error).message } as const
      return Array.from(outcomes, (refused) => refused ?? outcome)
    }
    for (let part = parts.shift(); part !== undefined; part = parts.shift()) {
      try {
        // Those without a key stay together, as with Kafka's own producer: fewer requests.
        const hash = Math.floor(Math.random() * 2 ** 31)
        const records = part.map((at) => recordOf(batch[at] as BrokerMessage, hash))
        await within(producer, producer.send(topic, records), SEND_MS_MAX, signal)
        for (const at of part) outcomes[at] = { outcome: 'published' }
      } catch (thrown) {
        this.#producers.drop(producer)
        const trouble = this.#driver.trouble(thrown)
        if (!isRefusing(trouble)) return Array.from(outcomes, (known) => known ?? failed(trouble.message))
        if (part.length === 1) outcomes[part[0] as number] = { outcome: 'refused', error: trouble.message }
        // One of them is to blame, and the answer doesn't say which.
        else parts.unshift(part.slice(0, part.length / 2), part.slice(part.length / 2))
        try {
          producer = await this.#producers.take(signal)
        } catch (error) {
          const { message } = EscrowError.from(error)
          return Array.from(outcomes, (known) => known ?? failed(message))
        }
      }
    }
    this.#producers.release(producer)
    return outcomes
  }

  /** Parts that fit in one record batch each, in order; what fits in none is refused. */
  #split(topic: string, batch: readonly BrokerMessage[], outcomes: PublishOutcome[]): Part[] {
    const learnt = this.#batchBytesMax.get(topic)
    const bytesMax = learnt ?? BATCH_BYTES_DEFAULT
    const parts: number[][] = []
    let partBytes = Number.POSITIVE_INFINITY
    for (const [at, message] of batch.entries()) {
      const bytes = recordBytes(message)
      if (learnt !== undefined && !isWithin(bytes, learnt)) {
        const error = `about ${bytes} bytes, over max.message.bytes of ${topic}, which is ${learnt}`
        outcomes[at] = { outcome: 'refused', error }
        continue
      }
      if (!isWithin(partBytes + bytes, bytesMax)) {
        parts.push([])
        partBytes = 0
      }
      parts.at(-1)?.push(at)
      partBytes += bytes
    }
    return parts
  }

  subscribe(
    options: SubscribeOptions,
    handle: (message: BrokerMessage) => Promise<void>,
  ): Promise<Subscription> {
    return this.#subscriptions.start(new KafkaSubscription(this.#driver, options, handle))
  }

  async lag(topic: string, group: string): Promise<number> {
    const partitions = await this.#ask(`topic ${topic}`, (admin) => admin.offsets(topic, group))
    let lag = 0n
    for (const { low, high, committed } of partitions) lag += high - (committed < low ? low : committed)
    return Number(lag)
  }

  async close(): Promise<void> {
    this.#producers.close()
    this.#admins.close()
    await this.#subscriptions.abandon()
  }
}

function failed(error: string): PublishOutcome {
  return { outcome: 'failed', error }
}

function recordOf(message: BrokerMessage, hashOfNone: number): KafkaRecord {
  const { body } = message
  const key = message.key === '' ? null : Buffer.from(message.key)
  return {
    key,
    hash: key === null ? hashOfNone : hashOfKey(key),
    value: Buffer.from(body.buffer, body.byteOffset, body.byteLength),
    // The record has a key of its own.
    headers: headersOf({ ...message, key: '' }),
  }
}
