import type {
  Broker,
  BrokerMessage,
  PublishOutcome,
  SubscribeOptions,
  Subscription,
  Topic,
} from './broker.ts'

/** How many messages an in-memory topic keeps; older ones are dropped. */
const KEPT_MAX = 100_000
const RETRY_MS = 100

interface Reader {
  /** The number of the next message that it handles. */
  next: number
  isClosed: boolean
  wake: () => void
}

class Messages {
  readonly kept: BrokerMessage[] = []
  dropped = 0
  readonly nextOf = new Map<string, number>()
  readonly readers = new Set<Reader>()

  get end(): number {
    return this.dropped + this.kept.length
  }

  add(message: BrokerMessage): void {
    if (this.kept.push(message) > KEPT_MAX) {
      this.kept.shift()
      this.dropped += 1
    }
    for (const reader of this.readers) reader.wake()
  }
}

/** A broker inside the process, for development and tests: durable as long as the process lives, and no longer. */
export class MemoryBroker implements Broker {
  readonly kind = 'memory'
  readonly #topics = new Map<string, Messages>()
  isClosed = false

  #topic(name: string): Messages {
    const topic = this.#topics.get(name) ?? new Messages()
    this.#topics.set(name, topic)
    return topic
  }

  /** What was published on `topic`, oldest first; at most the last 100,000. */
  messages(topic: string): readonly BrokerMessage[] {
    return this.#topics.get(topic)?.kept ?? []
  }

  async register(): Promise<Topic> {
    return { messageBytesMax: Number.POSITIVE_INFINITY, isOrdered: true, shortfalls: [] }
  }

  async publish(batch: readonly BrokerMessage[]): Promise<readonly PublishOutcome[]> {
    if (this.isClosed) return batch.map(() => ({ outcome: 'unreachable', error: 'the broker is closed' }))
    for (const message of batch) this.#topic(message.topic).add(message)
    return batch.map(() => ({ outcome: 'published' }))
  }

  /** One message at a time, for each subscription by itself; a group goes on where its last one has ended. */
  async subscribe(
    { topic: name, group, from = 'earliest' }: SubscribeOptions,
    handle: (message: BrokerMessage) => Promise<void>,
  ): Promise<Subscription> {
    const topic = this.#topic(name)
    const next = topic.nextOf.get(group) ?? (from === 'earliest' ? topic.dropped : topic.end)
    const reader: Reader = { next, isClosed: false, wake: () => {} }
    topic.nextOf.set(group, next)
    topic.readers.add(reader)
    const ended = read(topic, reader, group, handle)
    return {
      async close() {
        reader.isClosed = true
        reader.wake()
        topic.readers.delete(reader)
        await ended
      },
    }
  }

  async lag(topic: string, group: string): Promise<number> {
    const messages = this.#topics.get(topic)
    if (messages === undefined) return 0
    return messages.end - Math.max(messages.nextOf.get(group) ?? 0, messages.dropped)
  }

  async close(): Promise<void> {
    this.isClosed = true
    for (const { readers } of this.#topics.values()) {
      for (const reader of readers) {
        reader.isClosed = true
        reader.wake()
      }
      readers.clear()
    }
  }
}

async function read(
  topic: Messages,
  reader: Reader,
  group: string,
  handle: (message: BrokerMessage) => Promise<void>,
): Promise<void> {
  while (!reader.isClosed) {
    const message = topic.kept[Math.max(reader.next, topic.dropped) - topic.dropped]
    if (message === undefined) {
      await new Promise<void>((resolve) => {
        reader.wake = resolve
      })
      continue
    }
    try {
      await handle(message)
    } catch {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, RETRY_MS)
        reader.wake = () => {
          if (!reader.isClosed) return
          clearTimeout(timer)
          resolve()
        }
      })
      continue
    }
    reader.next = Math.max(reader.next, topic.dropped) + 1
    topic.nextOf.set(group, reader.next)
  }
}

/** Makes an in-memory broker, for `brokers` in the configuration. */
export const memory = (): MemoryBroker => new MemoryBroker()
