import {
  Consumer,
  type GroupPartitionsAssigner,
  type Message,
  type MessagesStream,
  MessagesStreamFallbackModes,
  MessagesStreamModes,
} from '@platformatic/kafka'
import { messageOf } from '../headers.ts'
import type { ReaderLink, Reading, ReadingEvents, Received } from './links.ts'
import type { KafkaSettings } from './options.ts'
import { baseOptions, Connections, TRIES_MAX, troubleOf } from './platformatic-client.ts'

const READER_RETRIES_MAX = 30
/** How long a fetch waits for messages; leaving a group waits for it. */
const FETCH_MS_MAX = 500
const SESSION_MS_MAX = 10_000
const HEARTBEAT_MS = 2_000
const REBALANCE_MS_MAX = 60_000
const PARTITION_BYTES_MAX = 1 << 20
const FETCH_BYTES_MAX = 16 << 20

/** A member of a group, through @platformatic/kafka: see `kafka-platformatic.ts`. */
export class PlatformaticReader implements ReaderLink {
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
