import type { Broker, BrokerMessage, PublishOutcome } from './broker.ts'

/** How many messages an in-memory topic keeps; older ones are dropped. */
const KEPT_MAX = 100_000

/** A broker inside the process, for development and tests: durable as long as the process lives, and no longer. */
export class MemoryBroker implements Broker {
  readonly #topics = new Map<string, BrokerMessage[]>()
  readonly #subscribers = new Map<string, Set<(message: BrokerMessage) => void>>()

  /** What is published next on `topic` goes to `callback`; the function that it returns ends that. */
  subscribe(topic: string, callback: (message: BrokerMessage) => void): () => void {
    const subscribers = this.#subscribers.get(topic) ?? new Set()
    this.#subscribers.set(topic, subscribers.add(callback))
    return () => subscribers.delete(callback)
  }

  /** What was published on `topic`, oldest first; at most the last 100,000. */
  messages(topic: string): readonly BrokerMessage[] {
    return this.#topics.get(topic) ?? []
  }

  async publish(batch: readonly BrokerMessage[]): Promise<readonly PublishOutcome[]> {
    for (const message of batch) {
      const topic = this.#topics.get(message.topic) ?? []
      this.#topics.set(message.topic, topic)
      if (topic.push(message) > KEPT_MAX) topic.shift()
      for (const subscriber of this.#subscribers.get(message.topic) ?? []) subscriber(message)
    }
    return batch.map(() => ({ outcome: 'published' }))
  }

  async close(): Promise<void> {}
}

/** Makes an in-memory broker, for `brokers` in the configuration. */
export const memory = (): MemoryBroker => new MemoryBroker()
