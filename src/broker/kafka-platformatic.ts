/**
 * Kafka through @platformatic/kafka 2.12, which is maintained; what is guaranteed stands in `kafka/broker.ts`. It reads all
 * compressions and needs Node ≥ 22.22 or ≥ 24.6. Its traps, and what is done about each:
 *
 * | trap                                                                                         | here |
 * |----------------------------------------------------------------------------------------------|------|
 * | its partitioner isn't Kafka's (`>>> 0`, not `& 0x7fffffff`): half of all keys go elsewhere    | partitions are chosen by `kafka/hash.ts` |
 * | several partitions in one `send` go, at each attempt, to the leader of the first             | a `send` for each partition |
 * | an idempotent producer allows one request at a time to each broker                           | idempotent by the request, not the producer |
 * | many questions go to the first broker of the list at each attempt, though it hangs           | brokers take turns |
 * | an `error` event of a connection, a second one, of the consumer has nobody who listens       | somebody listens |
 * | `close` waits for peers that read no more                                                    | sockets are destroyed |
 * | its assigner gives members topics that they didn't ask for                                   | `bySubscription` |
 * | no pause for one partition                                                                   | all of a member's wait: one message that fails for long holds up its neighbours when 1,000 are in hand |
 * | where a group has no commit, a partition that comes back goes on where it was left           | a beginning is committed as well |
 * | a transaction's marker is never part of what is committed                                    | with `transactional`, `lag` stays 1 or more a partition |
 */
import { Admin, ConfigResourceTypes, ListOffsetTimestamps, ProduceAcks, Producer } from '@platformatic/kafka'
import type { Broker } from './broker.ts'
import { KafkaBroker } from './kafka/broker.ts'
import type { AdminLink, KafkaDriver, KafkaRecord, PartitionOffsets, ProducerLink } from './kafka/links.ts'
import { type KafkaOptions, type KafkaSettings, parseKafkaOptions } from './kafka/options.ts'
import { baseOptions, Connections, TRIES_MAX, troubleOf } from './kafka/platformatic-client.ts'
import { PlatformaticReader } from './kafka/platformatic-reader.ts'
import type { TopicDescription } from './kafka/topics.ts'

/** Makes an adapter of Kafka; opens nothing. Throws `invalidArgument`. */
export function kafkaPlatformatic(options: KafkaOptions): Broker {
  const settings = parseKafkaOptions(options, 'kafkaPlatformatic')
  const driver: KafkaDriver = {
    kind: 'kafka-platformatic',
    producer: (transactionalId) => new PlatformaticProducer(settings, transactionalId),
    admin: () => new PlatformaticAdmin(settings),
    reader: (reading, events) => new PlatformaticReader(settings, reading, events),
    trouble: troubleOf,
  }
  return new KafkaBroker(driver, settings)
}

/** Asks for an id; the library's default names one, which is refused where the transactional id has had another. */
const NEW_PRODUCER = { producerId: -1n, producerEpoch: -1 }
/** Requests on one connection, of which each partition has one. */
const REQUESTS_MAX = 100

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
    const { topics } = await this.#producer.metadata({ topics: [topic], retries: TRIES_MAX })
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
      const transaction = await this.#producer.beginTransaction(NEW_PRODUCER)
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
    const partitions = await this.#partitions(topic)
    if (partitions === undefined) throw new Error(`Unknown topic ${topic}.`)
    const indexes = Array.from(partitions.keys())
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
