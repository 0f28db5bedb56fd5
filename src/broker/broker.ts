/** The port behind which brokers are: what the engine needs of one, and no more. */
import type { Headers } from '../core/envelope.ts'

/** A message as a broker gets it. */
export interface BrokerMessage {
  readonly topic: string
  /** Stable over all attempts, unique for ever: published as the header `escrow-id`, for consumers to deduplicate by. */
  readonly id: string
  readonly key: string
  readonly body: Uint8Array
  readonly headers: Headers
  readonly contentType: string
}

/** How one message of a batch ended. */
export type PublishOutcome =
  /** The broker has confirmed that it is durable there. */
  | { readonly outcome: 'published' }
  /** It may or may not have got there: publish it again. */
  | { readonly outcome: 'failed'; readonly error: string }
  /** The broker will never take it. */
  | { readonly outcome: 'refused'; readonly error: string }

/** A broker. */
export interface Broker {
  /** Publishes a batch and waits for the broker's confirmation of each. Never rejects; within one key in the batch's order. */
  publish(batch: readonly BrokerMessage[], signal: AbortSignal): Promise<readonly PublishOutcome[]>
  close(): Promise<void>
}
