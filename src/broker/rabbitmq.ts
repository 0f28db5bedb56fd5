/**
 * RabbitMQ, from 3.8 on, by amqplib.
 *
 * | question              | answer                                                                                        |
 * |-----------------------|-----------------------------------------------------------------------------------------------|
 * | topic                 | a queue's name, or `exchange/routing.key`                                                     |
 * | confirm               | publisher confirms: a quorum queue has it on disk on a majority, a durable classic one on its disk |
 * | order                 | of a queue, kept by one consumer at a time; several on one queue need `x-single-active-consumer` |
 * | duplicates            | after a crash or a lost connection what was unconfirmed is sent again, and what was not acknowledged comes again: deduplicate by `escrow-id` |
 * | delay                 | Escrow holds delayed messages itself                                                          |
 * | trace headers         | as headers, with all others; `escrow-id` is the property `message-id` too                     |
 * | maximum size          | `max_message_size`: 128 MiB before 4.0, 16 MiB since; headers below 64 KiB                    |
 * | unroutable            | `mandatory`: returned, and so failed with the reason, never dropped                           |
 * | short of memory, disk | it blocks its publishers: `publish` waits, and what was not written is unreachable            |
 * | `replicated` checks   | durable, auto-delete, x-queue-type, and by `managementUrl` at least 3 members                 |
 *
 * Servers before the middle of 2024 note on disk which quorum queues they have half a second late (rabbitmq/ra#443): a
 * node that is killed so soon after a queue was declared has lost its copy of it.
 */
import { EscrowError } from '../core/errors.ts'
import type {
  Broker,
  BrokerMessage,
  PublishOutcome,
  SubscribeOptions,
  Subscription,
  Topic,
  TopicPolicy,
} from './broker.ts'
import { NEVER, type OpenConnection, RabbitConnection } from './rabbitmq/connection.ts'
import { RabbitManagement } from './rabbitmq/management.ts'
import { checkOptions } from './rabbitmq/options.ts'
import { faultOf, RabbitPublisher, type SizeLimit } from './rabbitmq/publisher.ts'
import { RabbitReader } from './rabbitmq/reader.ts'
import { addressOf, askQueue, onChannel, type QueueFacts, shortfallsOf } from './rabbitmq/topology.ts'
import { Readers } from './readers.ts'

/** How to reach RabbitMQ, and what to ask of it. */
export interface RabbitmqOptions extends TopicPolicy {
  /**
   * `amqp://user:password@host:5672/vhost`, or `amqps://`; several nodes of one cluster are tried in turn. Without a user
   * it is `guest`; without a virtual host it is `/`.
   */
  readonly url: string | readonly string[]
  /** For `amqps`: what Node's `tls.connect` takes. */
  readonly tls?: RabbitmqTls | undefined
  /**
   * `http://host:15672` of the management plugin, by which the members of a queue are learnt; without a user it is that of
   * the first `url`. Default: none, and `durability: 'replicated'` is refused, as nothing else tells the members.
   */
  readonly managementUrl?: string | undefined
  /** Seconds, 1 to 3,600: a server that is silent for two of them is gone. Default 10. */
  readonly heartbeatSeconds?: number | undefined
  /** Milliseconds until a server that doesn't answer is given up, 1 to 60,000. Default 5,000. */
  readonly connectTimeoutMs?: number | undefined
  /** The server's `max_message_size` in bytes, where it was changed. Default: 134,217,728 before 4.0, 16,777,216 since. */
  readonly messageBytesMax?: number | undefined
  /** Of queues that are created. Default `quorum`. */
  readonly queueType?: 'quorum' | 'classic' | undefined
  /**
   * `x-delivery-limit` of quorum queues that are created: so many times RabbitMQ brings a message again whose consumer
   * was lost, then it drops it, or dead-letters it where that is configured. From 1; -1, since 4.0, is no limit.
   * Default: the server's, which is none before 4.0 and 20 since.
   */
  readonly deliveryLimit?: number | undefined
  /** Of queues that are created: one consumer at a time, so that order holds with several. Default false. */
  readonly singleActiveConsumer?: boolean | undefined
}

/** Certificates as Node's `tls` takes them. */
export interface RabbitmqTls {
  readonly ca?: string | Buffer | undefined
  readonly cert?: string | Buffer | undefined
  readonly key?: string | Buffer | undefined
  readonly passphrase?: string | undefined
  readonly servername?: string | undefined
  readonly rejectUnauthorized?: boolean | undefined
}

/**
 * Makes an adapter for RabbitMQ; it connects when it is first used. `missingTopics: 'create'` declares a durable queue;
 * exchanges are never made, only bound to the queue of a group that subscribes. Throws `invalidArgument`.
 */
export function rabbitmq(options: RabbitmqOptions): Broker {
  return new RabbitBroker(checkOptions(options))
}

/** Options that were checked, with their defaults. */
export type RabbitSettings = ReturnType<typeof checkOptions>

const CONCURRENCY = 16

class RabbitBroker implements Broker {
  readonly kind = 'rabbitmq'
  readonly faultOf = faultOf
  readonly #settings: RabbitSettings
  readonly #publishing: RabbitConnection
  /** A connection of its own: RabbitMQ stops reading from one that publishes when it is short of memory or disk. */
  readonly #reading: RabbitConnection
  readonly #publisher: RabbitPublisher
  readonly #management: RabbitManagement | undefined
  readonly #limit: SizeLimit
  readonly #readers = new Readers<RabbitReader>()

  constructor(settings: RabbitSettings) {
    this.#settings = settings
    this.#publishing = new RabbitConnection(settings)
    this.#reading = new RabbitConnection(settings)
    this.#limit = { bytesMax: settings.messageBytesMax ?? Number.POSITIVE_INFINITY }
    this.#publisher = new RabbitPublisher(this.#publishing, this.#limit)
    if (settings.managementUrl !== undefined)
      this.#management = new RabbitManagement(settings.managementUrl, settings.vhost)
  }

  async register(topic: string, signal: AbortSignal): Promise<Topic> {
    const address = addressOf(topic)
    const connection = await this.#reading.get(signal)
    this.#learnLimit(connection)
    const shortfalls =
      address.exchange === ''
        ? shortfallsOf(await this.#queue(connection, topic, signal))
        : await this.#exchange(connection, address.exchange, signal)
    if (this.#settings.durability === 'replicated' && shortfalls.length > 0)
      throw new EscrowError(
        'notDurable',
        `${address.text} falls short of being replicated: ${shortfalls.join('; ')}`,
      )
    return { messageBytesMax: this.#limit.bytesMax, isOrdered: true, shortfalls }
  }

  #learnLimit({ version }: OpenConnection): void {
    const ofVersion = Number.parseInt(version, 10) < 4 ? 134_217_728 : 16_777_216
    if (this.#limit.bytesMax === Number.POSITIVE_INFINITY) this.#limit.bytesMax = ofVersion
  }

  async #queue(connection: OpenConnection, queue: string, signal: AbortSignal): Promise<QueueFacts> {
    try {
      await onChannel(connection, signal, (channel) => channel.checkQueue(queue))
    } catch (error) {
      if (EscrowError.from(error).code !== 'unknownDestination') throw error
      if (this.#settings.missingTopics !== 'create')
        throw new EscrowError(
          'unknownDestination',
          `queue "${queue}" is not there: declare it, or set missingTopics to 'create'`,
        )
      await this.#create(connection, queue, signal)
    }
    if (this.#management !== undefined) return await this.#management.queue(queue, signal)
    return await askQueue(connection, queue, signal)
  }

  async #create(connection: OpenConnection, queue: string, signal: AbortSignal): Promise<void> {
    const { queueType, deliveryLimit, singleActiveConsumer } = this.#settings
    const options = {
      durable: true,
      arguments: {
        'x-queue-type': queueType,
        ...(deliveryLimit !== undefined && { 'x-delivery-limit': deliveryLimit }),
        ...(singleActiveConsumer && { 'x-single-active-consumer': true }),
      },
    }
    await onChannel(connection, signal, (channel) => channel.assertQueue(queue, options))
  }

  async #exchange(
    connection: OpenConnection,
    exchange: string,
    signal: AbortSignal,
  ): Promise<readonly string[]> {
    try {
      await onChannel(connection, signal, (channel) => channel.checkExchange(exchange))
    } catch (error) {
      if (EscrowError.from(error).code !== 'unknownDestination') throw error
      throw new EscrowError(
        'unknownDestination',
        `exchange "${exchange}" is not there: declare it (missingTopics creates queues only)`,
      )
    }
    return ['which queues the exchange leads to is not checked: name a queue as the topic']
  }

  publish(batch: readonly BrokerMessage[], signal: AbortSignal): Promise<readonly PublishOutcome[]> {
    return this.#publisher.publish(batch, signal)
  }

  /**
   * A queue has one group: whoever reads it. Of an exchange each group has a queue, named as the group; `missingTopics:
   * 'create'` makes and binds it. `from` says nothing here: a queue holds what has come since it was made.
   */
  async subscribe(
    { topic, group, concurrencyMax = CONCURRENCY }: SubscribeOptions,
    handle: (message: BrokerMessage) => Promise<void>,
  ): Promise<Subscription> {
    const { exchange, routingKey } = addressOf(topic)
    const queue = queueOf(topic, group)
    if (exchange !== '' && this.#settings.missingTopics === 'create') {
      const connection = await this.#reading.get(NEVER)
      await this.#create(connection, queue, NEVER)
      await onChannel(connection, NEVER, (channel) => channel.bindQueue(queue, exchange, routingKey))
    }
    const reader = new RabbitReader({ connection: this.#reading, queue, topic, concurrencyMax, handle })
    return await this.#readers.start(reader)
  }

  /**
   * What waits in the queue, and what was fetched and not acknowledged: by the readers of this broker, or by `managementUrl`
   * by all others, some seconds old.
   */
  async lag(topic: string, group: string): Promise<number> {
    const queue = queueOf(topic, group)
    const connection = await this.#reading.get(NEVER)
    const { messageCount } = await onChannel(connection, NEVER, (channel) => channel.checkQueue(queue))
    let unacknowledged = 0
    for (const reader of this.#readers.all)
      if (reader.queue === queue) unacknowledged += reader.unacknowledged
    const told = await this.#management?.queue(queue, NEVER)
    return messageCount + Math.max(unacknowledged, told?.unacknowledged ?? 0)
  }

  async close(): Promise<void> {
    await this.#readers.abandon()
    await Promise.all([this.#publishing.close(), this.#reading.close()])
  }
}

function queueOf(topic: string, group: string): string {
  return addressOf(topic).exchange === '' ? topic : group
}
