/**
 * The port behind which brokers are: what the engine needs to deliver, and a consumer to receive. An adapter is one file
 * beside this one; it throws and rejects with `EscrowError`s only.
 */
import type { Headers } from '../core/envelope.ts'

/** A message as a broker gets it, and gives it. */
export interface BrokerMessage {
  /** A topic, a queue, a stream or a subject, by the broker's own word. */
  readonly topic: string
  /** Stable over all attempts, unique for ever: published as the header `escrow-id`, for consumers to deduplicate by. */
  readonly id: string
  /** Messages of one key stay in order, and go to one partition where there are any. Empty: none. */
  readonly key: string
  readonly body: Uint8Array
  /** With the trace context among them, and without those that an adapter adds: see `headers.ts`. */
  readonly headers: Headers
  readonly contentType: string
}

/** What of a message is text, and goes along with its body: as headers, with most brokers. */
export type MessageText = Pick<BrokerMessage, 'key' | 'headers' | 'contentType'>

/** How one message of a batch ended. */
export type PublishOutcome =
  /** The broker has confirmed that it is durable there. */
  | { readonly outcome: 'published' }
  /** It may or may not have got there: publish it again. */
  | { readonly outcome: 'failed'; readonly error: string }
  /** It certainly never left, as the broker can't be reached: that is no attempt. */
  | { readonly outcome: 'unreachable'; readonly error: string }
  /** The broker will never take it. */
  | { readonly outcome: 'refused'; readonly error: string }

/** What was found out about a topic when it was registered. */
export interface Topic {
  /** Of a body, its key and its headers together; refused at prepare beyond that. Infinity where the broker tells no limit. */
  readonly messageBytesMax: number
  /** Whether a consumer sees the messages of one key in the order in which they were published. */
  readonly isOrdered: boolean
  /** In which ways it may lose what it has confirmed, each with the setting that says so. */
  readonly shortfalls: readonly string[]
}

/** What to receive. */
export interface SubscribeOptions {
  readonly topic: string
  /** Those of one group share the messages between them. */
  readonly group: string
  /** Messages that are handled at once; those of one key one after the other. Default 16. */
  readonly concurrencyMax?: number | undefined
  /** Where a group begins that never read before. Default `earliest`. */
  readonly from?: 'earliest' | 'latest' | undefined
}

/** A running subscription. */
export interface Subscription {
  /** Takes no further messages and waits for those that are handled; what isn't acknowledged comes again, to whoever. */
  close(): Promise<void>
}

/** A broker. */
export interface Broker {
  /** Such as `kafka`: for messages to people. */
  readonly kind: string
  /**
   * Looks at a topic before anything is sent to it, and creates it where the adapter's options say so. Throws
   * `unknownDestination` (it isn't there), `notDurable` (it falls short of what the options ask for), `brokerRefused`
   * (credentials, permissions), `brokerUnavailable` (the broker can't be asked now).
   */
  register(topic: string, signal: AbortSignal): Promise<Topic>
  /**
   * What of a message this broker can't carry, as `header "note" has a line break`; undefined for nothing. Refused at prepare,
   * and by `publish`: both ask here. Left out: it carries all that Escrow takes.
   */
  faultOf?(text: MessageText): string | undefined
  /**
   * Publishes a batch of one topic and waits for the broker's confirmation of each; within one key in the batch's order.
   * Never rejects, connects again by itself, and is called anew only after it has returned. After `signal` nothing is
   * waited for any more: what isn't confirmed is `failed`.
   */
  publish(batch: readonly BrokerMessage[], signal: AbortSignal): Promise<readonly PublishOutcome[]>
  /**
   * Hands each message to `handle`, and acknowledges it once that has resolved; where it rejects, the message comes again
   * after a pause, and those of its key wait behind it where the topic is ordered. Connects again by itself.
   */
  subscribe(
    options: SubscribeOptions,
    handle: (message: BrokerMessage) => Promise<void>,
  ): Promise<Subscription>
  /** How many messages of a topic a group has not acknowledged yet. Throws as `register` does. */
  lag(topic: string, group: string): Promise<number>
  /** Ends every connection; what is unconfirmed then ends as `failed`. May be repeated. */
  close(): Promise<void>
}

/** How far an adapter goes with topics, where its options don't say: see each adapter. */
export interface TopicPolicy {
  /** `replicated`: a topic that may lose confirmed messages when one machine dies is refused. Default `any`. */
  readonly durability?: 'any' | 'replicated' | undefined
  /** What happens to a topic that isn't there. Default `refuse`. */
  readonly missingTopics?: 'refuse' | 'create' | undefined
}
