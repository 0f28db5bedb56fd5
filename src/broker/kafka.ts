/**
 * Kafka through kafkajs 2.2.4; what is guaranteed stands in `kafka/broker.ts`. Its maintainers left in 2023
 * (tulios/kafkajs#1603). It works with brokers of 4.x, as the versions of the protocol that it knows are still served there
 * (KIP-896), but it can do nothing newer:
 *
 * - no rebalancing by the brokers (KIP-848), no static members, no record errors that name the record, no fetch sessions of
 *   later versions; of compressed topics it reads gzip alone.
 *
 * Its traps, found in its source and by killing brokers under it, and what is done about each:
 *
 * | trap                                                                                         | here |
 * |----------------------------------------------------------------------------------------------|------|
 * | after an error it gives sequence numbers out again: another batch under them is confirmed and dropped | a producer ends with its first error, and has one user |
 * | at another attempt a partition whose leader has moved to a broker that had answered is left out, and `send` resolves (see #1303) | what isn't among the confirmed is sent again |
 * | a message without a key goes to another partition at each attempt, where it is no repetition | the partition stays in the message |
 * | one record batch a partition, however large                                                  | batches are split by `max.message.bytes` |
 * | an idempotent producer tries for ever, and connects again after `disconnect`                 | its sockets are ours, and its logger ends it |
 * | half an answer stays when a connection breaks, before the next one's bytes                   | `kafkajs-frames.ts` |
 * | its assigner gives members the leader's topics (#1040, #1679)                                | `kafkajs-assigner.ts` |
 * | a consumer that fails is started again, or isn't, depending on the error (#1443, #1721)      | never by it, always by the subscription |
 * | a batch that is being handled holds up the other partitions of its broker                    | `eachBatch` never waits |
 * | its metadata requests create topics by default                                               | `allowAutoTopicCreation: false` |
 * | it writes into the options that it is given                                                  | it gets copies |
 * | on Node 24 one `TimeoutNegativeWarning` a process (#1751)                                    | harmless, left |
 */
import { connect as connectTcp, isIP, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import {
  type Admin,
  type Batch,
  type ConfigResourceTypes,
  type Consumer,
  type ISocketFactory,
  Kafka,
  type KafkaConfig,
  type KafkaMessage,
  logLevel,
  type Message,
  type PartitionerArgs,
  type Producer,
} from 'kafkajs'
import type { Broker } from './broker.ts'
import { messageOf } from './headers.ts'
import { KafkaBroker } from './kafka/broker.ts'
import { bySubscription } from './kafka/kafkajs-assigner.ts'
import { withWholeAnswers } from './kafka/kafkajs-frames.ts'
import type {
  AdminLink,
  KafkaDriver,
  KafkaRecord,
  PartitionOffsets,
  ProducerLink,
  ReaderLink,
  Reading,
  ReadingEvents,
  Received,
} from './kafka/links.ts'
import { type KafkaOptions, type KafkaSettings, parseKafkaOptions } from './kafka/options.ts'
import type { TopicDescription, Trouble } from './kafka/topics.ts'
import { isTlsCode } from './tls.ts'

/** Makes an adapter of Kafka; opens nothing. Throws `invalidArgument`. */
export function kafka(options: KafkaOptions): Broker {
  const settings = parseKafkaOptions(options)
  const driver: KafkaDriver = {
    kind: 'kafka',
    producer: (transactionalId) => new KafkaJsProducer(settings, transactionalId),
    admin: () => new KafkaJsAdmin(settings),
    reader: (reading, events) => new KafkaJsReader(settings, reading, events),
    trouble: troubleOf,
  }
  return new KafkaBroker(driver, settings)
}

const CONNECT_MS_MAX = 5_000
const REQUEST_MS_MAX = 30_000
/** Pauses of a link's own attempts: short, as nothing else ends a pause. */
const RETRY = { initialRetryTime: 50, maxRetryTime: 500, factor: 0.2, multiplier: 2 }
/** How long a fetch waits for messages; leaving a group waits for it. */
const FETCH_MS_MAX = 500
const READER_RETRIES_MAX = 30
const SESSION_MS_MAX = 10_000
const HEARTBEAT_MS = 2_000
/** Node finds no name of `ConfigResourceTypes` in this CommonJS module: a number, then, as it is in the protocol. */
const TOPIC_RESOURCE: ConfigResourceTypes.TOPIC = 2
const PARTITION_BYTES_MAX = 1 << 20

interface KafkaJsFailure {
  readonly name?: string
  readonly message?: string
  readonly type?: string
  readonly code?: unknown
  readonly cause?: unknown
  readonly errors?: readonly unknown[]
}

function troubleOf(thrown: unknown): Trouble {
  const { name, message = String(thrown), type, code, cause, errors } = (thrown ?? {}) as KafkaJsFailure
  if (typeof type === 'string') return { type, message }
  if (name === 'KafkaJSSASLAuthenticationError') return { type: 'SASL_AUTHENTICATION_FAILED', message }
  if (isTlsCode(code)) return { type: 'TLS', message }
  const inner = errors?.[0] ?? cause
  if (inner === undefined) return { type: '', message }
  return troubleOf(inner)
}

/** A `Kafka` whose sockets are at hand: what the library has no means to end ends with them. */
class KafkaJsLink {
  readonly kafka: Kafka
  readonly #sockets = new Set<Socket>()
  #isBroken = false
  #isDestroyed = false

  constructor({ brokers, clientId, tls, sasl }: KafkaSettings, retries = brokers.length) {
    const socketFactory: ISocketFactory = ({ host, port, onConnect }) => {
      if (this.#isDestroyed) throw new Error('the link has been ended')
      const server = isIP(host) === 0 ? { servername: host } : {}
      const socket = tls
        ? connectTls({ host, port, ...server, ...tls }, onConnect)
        : connectTcp({ host, port }, onConnect)
      withWholeAnswers(socket)
      this.#sockets.add(socket)
      socket.setNoDelay(true).setKeepAlive(true, 60_000)
      socket.once('close', () => {
        this.#sockets.delete(socket)
        this.#isBroken = true
      })
      return socket
    }
    this.kafka = new Kafka({
      brokers: [...brokers],
      clientId,
      ...(tls && { ssl: tls }),
      // A copy: the library puts a field of its own into it.
      ...(sasl && { sasl: { ...sasl } as NonNullable<KafkaConfig['sasl']> }),
      connectionTimeout: CONNECT_MS_MAX,
      requestTimeout: REQUEST_MS_MAX,
      // By default the first connection is tried with each broker of the list.
      retry: { ...RETRY, retries },
      socketFactory,
      logLevel: logLevel.ERROR,
      logCreator: () => (entry) => this.#logged(entry.namespace),
    })
  }

  /**
   * A producer that has been asked to send tries for ever, and asks nobody; but before each pause it logs. What is thrown
   * there ends the attempts. Other parts log where nobody would catch it.
   */
  #logged(namespace: string): void {
    if (this.#isDestroyed && (namespace === 'Producer' || namespace === 'BrokerPool'))
      throw Object.assign(new Error('the link has been ended'), { retriable: false })
  }

  get isBroken(): boolean {
    return this.#isBroken
  }

  destroy(): void {
    this.#isDestroyed = true
    this.#isBroken = true
    // With an error: after a plain close the library's requests would wait for their time-out.
    for (const socket of this.#sockets) socket.destroy(new Error('the link has been ended'))
  }
}

class KafkaJsProducer extends KafkaJsLink implements ProducerLink {
  readonly #producer: Producer
  readonly #transactionalId: string | undefined

  constructor(settings: KafkaSettings, transactionalId: string | undefined) {
    super(settings)
    this.#transactionalId = transactionalId
    this.#producer = this.kafka.producer({
      idempotent: true,
      maxInFlightRequests: 1,
      allowAutoTopicCreation: false,
      ...(transactionalId !== undefined && { transactionalId, transactionTimeout: 60_000 }),
      retry: { ...RETRY, retries: Number.MAX_SAFE_INTEGER },
      createPartitioner: () => partitionOf,
    })
  }

  async connect(): Promise<void> {
    await this.#producer.connect()
  }

  async send(topic: string, records: readonly KafkaRecord[]): Promise<void> {
    const messages: Placed[] = records.map((record) => ({ ...record }))
    if (this.#transactionalId === undefined) {
      await sendAll(this.#producer, topic, messages)
      return
    }
    const transaction = await this.#producer.transaction()
    // Where this fails the link is ended, and the next one with this id ends the transaction.
    await sendAll(transaction, topic, messages)
    await transaction.commit()
  }
}

interface Placed extends Message {
  readonly hash: number
}

/** Kept in the message: at another attempt it must go where the first one may have put it. */
function partitionOf({ message, partitionMetadata }: PartitionerArgs): number {
  message.partition ??= (message as Placed).hash % partitionMetadata.length
  return message.partition
}

/**
 * Where a partition's leader moves, between two attempts, to a broker that has confirmed others already, kafkajs leaves that
 * partition out, and says nothing: what isn't among the confirmed is sent again, under the same sequence numbers.
 */
async function sendAll(sender: Pick<Producer, 'send'>, topic: string, messages: Placed[]): Promise<void> {
  for (let left = messages; left.length > 0; ) {
    const confirmed = await sender.send({ topic, messages: left, acks: -1 })
    const partitions = new Set(confirmed.map(({ partition }) => partition))
    left = left.filter(({ partition }) => !partitions.has(partition as number))
  }
}

class KafkaJsAdmin extends KafkaJsLink implements AdminLink {
  readonly #admin: Admin

  constructor(settings: KafkaSettings) {
    super(settings)
    this.#admin = this.kafka.admin()
  }

  async connect(): Promise<void> {
    await this.#admin.connect()
  }

  async describe(topic: string): Promise<TopicDescription | undefined> {
    try {
      const { topics } = await this.#admin.fetchTopicMetadata({ topics: [topic] })
      const { resources } = await this.#admin.describeConfigs({
        includeSynonyms: false,
        resources: [{ type: TOPIC_RESOURCE, name: topic }],
      })
      return {
        replicas: topics.flatMap(({ partitions }) => partitions.map(({ replicas }) => replicas.length)),
        configs: new Map(
          resources.flatMap(({ configEntries }) =>
            configEntries.map(({ configName, configValue }) => [configName, configValue] as const),
          ),
        ),
      }
    } catch (thrown) {
      if (troubleOf(thrown).type === 'UNKNOWN_TOPIC_OR_PARTITION') return undefined
      throw thrown
    }
  }

  async create(topic: string, settings: KafkaSettings): Promise<void> {
    const { partitions, replicationFactor, minInsyncReplicas } = settings
    const insync = { name: 'min.insync.replicas', value: String(minInsyncReplicas) }
    const configEntries = minInsyncReplicas > 0 ? [insync] : []
    await this.#admin.createTopics({
      topics: [{ topic, numPartitions: partitions, replicationFactor, configEntries }],
    })
  }

  async offsets(topic: string, group: string): Promise<readonly PartitionOffsets[]> {
    const ends = await this.#admin.fetchTopicOffsets(topic)
    const [committed] = await this.#admin.fetchOffsets({ groupId: group, topics: [topic] })
    return ends.map(({ partition, low, high }) => ({
      low: BigInt(low),
      high: BigInt(high),
      committed: BigInt(committed?.partitions.find((each) => each.partition === partition)?.offset ?? -1),
    }))
  }
}

class KafkaJsReader extends KafkaJsLink implements ReaderLink {
  readonly #consumer: Consumer
  readonly #reading: Reading
  readonly #events: ReadingEvents

  constructor(settings: KafkaSettings, reading: Reading, events: ReadingEvents) {
    // Longer than a broker takes to start again: the member stays the same, and its group isn't disturbed.
    super(settings, READER_RETRIES_MAX)
    this.#reading = reading
    this.#events = events
    this.#consumer = this.kafka.consumer({
      groupId: reading.group,
      allowAutoTopicCreation: false,
      partitionAssigners: [bySubscription],
      maxWaitTimeInMs: FETCH_MS_MAX,
      maxBytesPerPartition: PARTITION_BYTES_MAX,
      // Handlers don't hold up heartbeats here, so a member that is silent for this long is gone.
      sessionTimeout: SESSION_MS_MAX,
      heartbeatInterval: HEARTBEAT_MS,
      // Given here as well: without it the library has another one, and starts a consumer that has failed again by itself.
      retry: { ...RETRY, retries: READER_RETRIES_MAX, restartOnFailure: async () => false },
    })
  }

  async connect(): Promise<void> {
    const { topic, from } = this.#reading
    const consumer = this.#consumer
    await consumer.connect()
    await consumer.subscribe({ topics: [topic], fromBeginning: from === 'earliest' })
    const joined = new Promise<void>((resolve, reject) => {
      consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
        this.#events.assigned(payload.memberAssignment[topic] ?? [])
        resolve()
      })
      consumer.on(consumer.events.CRASH, ({ payload }) => {
        reject(payload.error)
        this.#events.ended(troubleOf(payload.error))
      })
    })
    const running = consumer.run({
      autoCommit: false,
      eachBatchAutoResolve: true,
      // Never waits: a batch that is being handled would hold up all partitions of its broker.
      eachBatch: async ({ batch }) => this.#received(batch),
    })
    await Promise.all([running, joined])
  }

  #received(batch: Batch): void {
    const { topic, partition, messages } = batch
    const received = messages.map((message) => receivedOf(topic, partition, message))
    this.#events.received(partition, received, BigInt(batch.lastOffset()) + 1n)
  }

  async commit(offsets: ReadonlyMap<number, bigint>): Promise<void> {
    const { topic } = this.#reading
    await this.#consumer.commitOffsets(
      Array.from(offsets, ([partition, offset]) => ({ topic, partition, offset: String(offset) })),
    )
  }

  pause(partition: number): void {
    this.#consumer.pause([{ topic: this.#reading.topic, partitions: [partition] }])
  }

  resume(partition: number): void {
    this.#consumer.resume([{ topic: this.#reading.topic, partitions: [partition] }])
  }

  async leave(): Promise<void> {
    await this.#consumer.disconnect()
  }

  override destroy(): void {
    // It would go on trying; told to stop, it ends with its sockets.
    void this.#consumer.disconnect().catch(() => {})
    super.destroy()
  }
}

function receivedOf(topic: string, partition: number, message: KafkaMessage): Received {
  const headers: Record<string, string> = {}
  for (const [name, value] of Object.entries(message.headers ?? {})) {
    const last = Array.isArray(value) ? value.at(-1) : value
    if (last !== undefined) headers[name] = last.toString()
  }
  const id = `${topic}/${partition}/${message.offset}`
  const key = message.key?.toString() ?? ''
  const body = message.value ?? Buffer.alloc(0)
  return { offset: BigInt(message.offset), message: messageOf(topic, headers, body, { id, key }) }
}
