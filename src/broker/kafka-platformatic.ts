import {
  Admin,
  type BaseOptions,
  ConfigResourceTypes,
  type ConnectionPool,
  Consumer,
  type GroupPartitionsAssigner,
  kGetBootstrapConnection,
  ListOffsetTimestamps,
  type Message,
  type MessagesStream,
  MessagesStreamFallbackModes,
  MessagesStreamModes,
  ProduceAcks,
  Producer,
} from '@platformatic/kafka'
import type { Broker } from './broker.ts'
import { messageOf } from './headers.ts'
import { KafkaBroker } from './kafka/broker.ts'
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
import { isTlsCode, type TopicDescription, type Trouble } from './kafka/topics.ts'

/** Makes an adapter of Kafka; opens nothing. Throws `invalidArgument`. */
export function kafkaPlatformatic(options: KafkaOptions): Broker {
  const settings = parseKafkaOptions(options)
  return new KafkaBroker(new PlatformaticDriver(settings), settings)
}

const CONNECT_MS_MAX = 5_000
const REQUEST_MS_MAX = 30_000
/** Of a question that decides whether the cluster can be reached; each goes to the next broker. */
const TRIES_MAX = 3
const METADATA_MS_MAX = 60_000
const RETRY_MS_MAX = 500
const READER_RETRIES_MAX = 30
/** How long a fetch waits for messages; leaving a group waits for it. */
const FETCH_MS_MAX = 500
const SESSION_MS_MAX = 10_000
const HEARTBEAT_MS = 2_000
const REBALANCE_MS_MAX = 60_000
const PARTITION_BYTES_MAX = 1 << 20
const FETCH_BYTES_MAX = 16 << 20
/** Requests on one connection, of which each partition has one. */
const REQUESTS_MAX = 100

class PlatformaticDriver implements KafkaDriver {
  readonly kind = 'kafka-platformatic'
  readonly #settings: KafkaSettings

  constructor(settings: KafkaSettings) {
    this.#settings = settings
  }

  producer(transactionalId: string | undefined): ProducerLink {
    return new PlatformaticProducer(this.#settings, transactionalId)
  }

  admin(): AdminLink {
    return new PlatformaticAdmin(this.#settings)
  }

  reader(reading: Reading, events: ReadingEvents): ReaderLink {
    return new PlatformaticReader(this.#settings, reading, events)
  }

  trouble(thrown: unknown): Trouble {
    return troubleOf(thrown)
  }
}

interface Failure {
  readonly message?: string
  readonly code?: unknown
  readonly apiId?: string
  readonly cause?: unknown
  readonly errors?: readonly unknown[]
}

/** The reason stands inside: errors of attempts hold those of brokers, which hold those of sockets. */
function troubleOf(thrown: unknown): Trouble {
  const { message = String(thrown), code, apiId, cause, errors } = (thrown ?? {}) as Failure
  if (typeof apiId === 'string') return { type: apiId, message }
  if (code === 'PLT_KFK_AUTHENTICATION') return { type: 'SASL_AUTHENTICATION_FAILED', message }
  if (isTlsCode(code)) return { type: 'TLS', message }
  // The library has a text of its own for this one, and no code.
  if (message.startsWith('Unknown topic ')) return { type: 'UNKNOWN_TOPIC_OR_PARTITION', message }
  const inner = errors?.at(-1) ?? cause
  return inner === undefined ? { type: '', message } : troubleOf(inner)
}

function baseOptions({ brokers, clientId, tls, sasl }: KafkaSettings): BaseOptions {
  return {
    clientId,
    bootstrapBrokers: [...brokers],
    autocreateTopics: false,
    connectTimeout: CONNECT_MS_MAX,
    requestTimeout: REQUEST_MS_MAX,
    timeout: REQUEST_MS_MAX,
    metadataMaxAge: METADATA_MS_MAX,
    retries: brokers.length,
    retryDelay: (_, __, attempt) =>
      Math.min(RETRY_MS_MAX, 25 * 2 ** Math.min(attempt, 10)) * (0.5 + Math.random() / 2),
    ...(tls && { tls, tlsServerName: true }),
    ...(sasl && {
      sasl: {
        mechanism: sasl.mechanism.toUpperCase() as 'PLAIN' | 'SCRAM-SHA-256' | 'SCRAM-SHA-512',
        username: sasl.username,
        password: sasl.password,
      },
    }),
  }
}

/** A client's connections, as a link needs them. */
class Connections {
  readonly #pools: ConnectionPool[] = []
  isBroken = false

  constructor(client: Producer | Admin | Consumer) {
    this.watch(client.connections)
    const ask = client[kGetBootstrapConnection].bind(client)
    let turn = 0
    // Many of the library's questions go to the first broker that takes a connection, at each attempt: one that hangs, or
    // whose proxy takes connections for it, would keep everything from the others. So they take turns.
    client[kGetBootstrapConnection] = (callback) => ask(callback, turn++)
  }

  watch(pool: ConnectionPool): void {
    this.#pools.push(pool)
    // A connection that fails a second time has nobody left who listens, which would end the process.
    pool.on('connecting', ({ connection }) => connection.on('error', () => {}))
    pool.on('disconnect', () => {
      this.isBroken = true
    })
  }

  /** Closing waits until a peer has read everything, which it may never do. */
  destroy(): void {
    this.isBroken = true
    for (const pool of this.#pools) {
      for (const [, connection] of pool) connection.socket?.destroy()
    }
  }
}

class PlatformaticProducer implements ProducerLink {
  readonly #producer: Producer
  readonly #connections: Connections
  readonly #isTransactional: boolean

  constructor(settings: KafkaSettings, transactionalId: string | undefined) {
    this.#isTransactional = transactionalId !== undefined
    this.#producer = new Producer({
      ...baseOptions(settings),
      acks: ProduceAcks.ALL,
      // Until the link is ended.
      retries: Number.MAX_SAFE_INTEGER,
      // Transactions ask for it here; it allows one request at a time.
      ...(this.#isTransactional
        ? { idempotent: true, transactionalId: transactionalId as string }
        : { maxInflights: REQUESTS_MAX }),
    })
    this.#connections = new Connections(this.#producer)
  }

  get isBroken(): boolean {
    return this.#connections.isBroken
  }

  async connect(): Promise<void> {
    await this.#producer.metadata({ topics: [], forceUpdate: true, retries: TRIES_MAX })
    if (!this.#isTransactional) await this.#producer.initIdempotentProducer({})
  }

  async send(topic: string, records: readonly KafkaRecord[]): Promise<void> {
    const { topics } = await this.#producer.metadata({ topics: [topic], retries: 0 })
    const count = topics.get(topic)?.partitionsCount ?? 1
    const partitions = Map.groupBy(records, ({ hash }) => hash % count)
    const messages = ([partition, group]: [number, KafkaRecord[]]) =>
      group.map(({ key, value, headers }) => ({
        topic,
        partition,
        value,
        headers: new Map(
          Object.entries(headers).map(([name, text]) => [Buffer.from(name), Buffer.from(text)]),
        ),
        ...(key !== null && { key }),
      }))
    if (this.#isTransactional) {
      const transaction = await this.#producer.beginTransaction()
      await transaction.send({ messages: [...partitions].flatMap(messages) })
      await transaction.commit()
      return
    }
    // One request a partition: where one holds several, and their leaders part, its attempts all go to the first one's.
    await Promise.all(
      Array.from(partitions, (each) =>
        this.#producer.send({ messages: messages(each), idempotent: true, acks: ProduceAcks.ALL }),
      ),
    )
  }

  destroy(): void {
    this.#connections.destroy()
    void this.#producer.close(true).catch(() => {})
  }
}

class PlatformaticAdmin implements AdminLink {
  readonly #admin: Admin
  readonly #connections: Connections

  constructor(settings: KafkaSettings) {
    this.#admin = new Admin(baseOptions(settings))
    this.#connections = new Connections(this.#admin)
  }

  get isBroken(): boolean {
    return this.#connections.isBroken
  }

  async connect(): Promise<void> {
    await this.#admin.metadata({ topics: [], forceUpdate: true, retries: TRIES_MAX })
  }

  async describe(topic: string): Promise<TopicDescription | undefined> {
    const partitions = await this.#partitions(topic)
    if (partitions === undefined) return undefined
    const resource = { resourceType: ConfigResourceTypes.TOPIC, resourceName: topic }
    const described = await this.#admin.describeConfigs({ resources: [resource] })
    return {
      replicas: partitions.map(({ replicas }) => replicas.length),
      configs: new Map(
        described.flatMap(({ configs }) => configs.map(({ name, value }) => [name, value ?? ''] as const)),
      ),
    }
  }

  async #partitions(topic: string) {
    try {
      const { topics } = await this.#admin.metadata({
        topics: [topic],
        forceUpdate: true,
        retries: TRIES_MAX,
      })
      return topics.get(topic)?.partitions
    } catch (thrown) {
      if (troubleOf(thrown).type === 'UNKNOWN_TOPIC_OR_PARTITION') return undefined
      throw thrown
    }
  }

  async create(topic: string, settings: KafkaSettings): Promise<void> {
    const { partitions, replicationFactor, minInsyncReplicas } = settings
    const insync = { name: 'min.insync.replicas', value: String(minInsyncReplicas) }
    try {
      await this.#admin.createTopics({
        topics: [topic],
        partitions,
        replicas: replicationFactor,
        configs: minInsyncReplicas > 0 ? [insync] : [],
      })
    } catch (thrown) {
      if (troubleOf(thrown).type !== 'TOPIC_ALREADY_EXISTS') throw thrown
    }
  }

  async offsets(topic: string, group: string): Promise<readonly PartitionOffsets[]> {
    const count = (await this.#partitions(topic))?.length ?? 0
    const indexes = Array.from({ length: count }, (_, at) => at)
    const [lows, highs, groups] = await Promise.all([
      this.#ends(topic, indexes, ListOffsetTimestamps.EARLIEST),
      this.#ends(topic, indexes, ListOffsetTimestamps.LATEST),
      this.#admin.listConsumerGroupOffsets({
        groups: [{ groupId: group, topics: [{ name: topic, partitionIndexes: indexes }] }],
      }),
    ])
    const committed = groups[0]?.topics.find(({ name }) => name === topic)?.partitions ?? []
    return indexes.map((index) => ({
      low: lows.get(index) ?? 0n,
      high: highs.get(index) ?? 0n,
      committed: committed.find(({ partitionIndex }) => partitionIndex === index)?.committedOffset ?? -1n,
    }))
  }

  async #ends(topic: string, indexes: readonly number[], timestamp: bigint): Promise<Map<number, bigint>> {
    const partitions = indexes.map((partitionIndex) => ({ partitionIndex, timestamp }))
    const listed = await this.#admin.listOffsets({ topics: [{ name: topic, partitions }] })
    return new Map(
      listed.flatMap((each) => each.partitions.map(({ partitionIndex, offset }) => [partitionIndex, offset])),
    )
  }

  destroy(): void {
    this.#connections.destroy()
    void this.#admin.close().catch(() => {})
  }
}

class PlatformaticReader implements ReaderLink {
  readonly #consumer: Consumer
  readonly #connections: Connections
  readonly #reading: Reading
  readonly #events: ReadingEvents
  readonly #paused = new Set<number>()
  #stream: MessagesStream<Buffer, Buffer, Buffer, Buffer> | undefined
  #hasEnded = false

  constructor(settings: KafkaSettings, reading: Reading, events: ReadingEvents) {
    this.#reading = reading
    this.#events = events
    this.#consumer = new Consumer({
      ...baseOptions(settings),
      groupId: 'escrow',
      // Longer than a broker takes to start again: the member stays the same, and its group isn't disturbed.
      retries: READER_RETRIES_MAX,
      // Handlers don't hold up heartbeats here, so a member that is silent for this long is gone.
      sessionTimeout: SESSION_MS_MAX,
      heartbeatInterval: HEARTBEAT_MS,
      rebalanceTimeout: REBALANCE_MS_MAX,
      // The name that kafkajs gives to the same, so that members on either adapter can share a group.
      protocols: [{ name: 'RoundRobinAssigner', version: 0 }],
      partitionAssigner: bySubscription,
      autocommit: false,
      maxWaitTime: FETCH_MS_MAX,
      maxBytes: FETCH_BYTES_MAX,
      maxBytesPerPartition: PARTITION_BYTES_MAX,
    })
    // Its constructor refuses names with spaces, which Kafka doesn't.
    this.#consumer.groupId = reading.group
    this.#connections = new Connections(this.#consumer)
  }

  get isBroken(): boolean {
    return this.#hasEnded
  }

  async connect(): Promise<void> {
    const { topic, from } = this.#reading
    await this.#consumer.metadata({ topics: [topic], forceUpdate: true, retries: TRIES_MAX })
    this.#consumer.on('error', (error: Error) => this.#end(error))
    this.#consumer.on('consumer:group:join', ({ assignments }) => {
      this.#events.assigned(assignments?.find((each) => each.topic === topic)?.partitions ?? [])
    })
    const fallbackMode =
      from === 'earliest' ? MessagesStreamFallbackModes.EARLIEST : MessagesStreamFallbackModes.LATEST
    const stream = await this.#consumer.consume({
      topics: [topic],
      mode: MessagesStreamModes.COMMITTED,
      fallbackMode,
      autocommit: false,
    })
    this.#stream = stream
    this.#connections.watch(stream.connections)
    stream.on('data', (message) => {
      this.#events.received(message.partition, [receivedOf(message)], message.offset + 1n)
    })
    stream.on('error', (error: Error) => this.#end(error))
    stream.on('close', () => this.#end(new Error('the stream has ended')))
  }

  #end(error: Error): void {
    if (this.#hasEnded) return
    this.#hasEnded = true
    this.#events.ended(troubleOf(error))
  }

  async commit(offsets: ReadonlyMap<number, bigint>): Promise<void> {
    const { topic } = this.#reading
    await this.#consumer.commit({
      offsets: Array.from(offsets, ([partition, offset]) => ({ topic, partition, offset, leaderEpoch: -1 })),
    })
  }

  /** The library has no pause for one partition: all of this member's wait. */
  pause(partition: number): void {
    this.#paused.add(partition)
    this.#stream?.pause()
  }

  resume(partition: number): void {
    this.#paused.delete(partition)
    if (this.#paused.size === 0) this.#stream?.resume()
  }

  async leave(): Promise<void> {
    await this.#consumer.close(true)
  }

  destroy(): void {
    this.#hasEnded = true
    this.#connections.destroy()
    this.#stream?.destroy()
    void this.#consumer.close(true).catch(() => {})
  }
}

/**
 * The library's own gives partitions to members that didn't ask for their topic, and those that the leader didn't ask for
 * to nobody; the topics that it names are the leader's.
 */
const bySubscription: GroupPartitionsAssigner = (_, members, __, { topics }) => {
  const assigned = Array.from(members.keys(), (memberId) => ({
    memberId,
    assignments: new Map<string, { topic: string; partitions: number[] }>(),
  }))
  for (const [topic, metadata] of topics) {
    const readers = assigned
      .filter(({ memberId }) => members.get(memberId)?.topics?.includes(topic))
      .sort((a, b) => (a.memberId < b.memberId ? -1 : 1))
    for (let partition = 0; partition < (metadata?.partitionsCount ?? 0); partition++) {
      const reader = readers[partition % readers.length]
      if (reader === undefined) break
      const assignment = reader.assignments.get(topic) ?? { topic, partitions: [] }
      assignment.partitions.push(partition)
      reader.assignments.set(topic, assignment)
    }
  }
  return assigned
}

function receivedOf(message: Message<Buffer, Buffer, Buffer, Buffer>): Received {
  const { topic, partition, offset, key, value } = message
  const headers: Record<string, string> = {}
  for (const [name, text] of message.headers) headers[String(name)] = text?.toString() ?? ''
  const otherwise = { id: `${topic}/${partition}/${offset}`, key: key?.toString() ?? '' }
  return { offset, message: messageOf(topic, headers, value ?? Buffer.alloc(0), otherwise) }
}
