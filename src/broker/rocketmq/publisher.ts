/**
 * Sends batches to a proxy, one message a request: plain ones all at once, ordered ones with one of a key under way. The protocol
 * has requests of many messages, but a proxy (5.3.3, `ProducerProcessor.java`) gives them all the properties of the first,
 * `escrow-id` among them, and sends those of an ordered topic to whichever queue comes next.
 */
import { status as grpcStatus, type ServiceError } from '@grpc/grpc-js'
import type { Message } from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb.js'
import definition from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb.js'
import service from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/service_pb.js'
import type { BrokerMessage, PublishOutcome } from '../broker.ts'
import { type LinkOptions, type RocketmqLink, statusOf } from './link.ts'
import { toProtobuf } from './message.ts'

const { Code } = definition
const PUBLISHED: PublishOutcome = { outcome: 'published' }
/** What is wrong with the message itself: nothing of it was stored. */
const REFUSED: ReadonlySet<number> = new Set([
  Code.ILLEGAL_MESSAGE_TAG,
  Code.ILLEGAL_MESSAGE_KEY,
  Code.ILLEGAL_MESSAGE_GROUP,
  Code.ILLEGAL_MESSAGE_PROPERTY_KEY,
  Code.ILLEGAL_MESSAGE_ID,
  Code.MESSAGE_CORRUPTED,
  Code.PAYLOAD_TOO_LARGE,
  Code.MESSAGE_BODY_TOO_LARGE,
  Code.MESSAGE_BODY_EMPTY,
  Code.REQUEST_HEADER_FIELDS_TOO_LARGE,
  Code.MESSAGE_PROPERTIES_TOO_LARGE,
])
/** Credentials that may be corrected while messages wait: nothing was stored, and that is no attempt. */
const UNAUTHORIZED: ReadonlySet<number> = new Set([Code.UNAUTHORIZED, Code.FORBIDDEN, Code.PAYMENT_REQUIRED])

interface Entry {
  readonly at: number
  readonly message: BrokerMessage
  readonly kind: 'ordered' | 'plain'
}

/** See the file's comment. */
export class RocketmqPublisher {
  readonly #link: RocketmqLink
  readonly #options: LinkOptions
  readonly #closing = new AbortController()
  #hasMismatch = false

  constructor(link: RocketmqLink, options: LinkOptions) {
    this.#link = link
    this.#options = options
  }

  /** A message of the last batch was not of the type that its topic takes. */
  get hasMismatch(): boolean {
    return this.#hasMismatch
  }

  /** Publishes messages of one topic; `kindFor` says by its key how one is sent. Never rejects. */
  async publish(
    batch: readonly BrokerMessage[],
    kindFor: (key: string) => 'ordered' | 'plain',
    signal: AbortSignal,
  ): Promise<readonly PublishOutcome[]> {
    this.#hasMismatch = false
    const outcomes: PublishOutcome[] = []
    const chains = new Map<unknown, Entry[]>()
    for (const [at, message] of batch.entries()) {
      const entry = { at, message, kind: kindFor(message.key) }
      const chain = entry.kind === 'plain' || message.key === '' ? undefined : chains.get(message.key)
      if (chain !== undefined) chain.push(entry)
      else chains.set(entry.kind === 'plain' || message.key === '' ? entry : message.key, [entry])
    }
    const ends = AbortSignal.any([signal, this.#closing.signal])
    await Promise.all([...chains.values()].map((chain) => this.#chain(chain, outcomes, ends)))
    return outcomes
  }

  /** What is under way ends as `failed`. */
  close(): void {
    this.#closing.abort()
  }

  async #chain(chain: readonly Entry[], outcomes: PublishOutcome[], signal: AbortSignal): Promise<void> {
    let before: string | undefined
    for (const { at, message, kind } of chain) {
      if (before !== undefined) {
        outcomes[at] = { outcome: 'unreachable', error: `it waits behind message ${before} of its key` }
        continue
      }
      const outcome = await this.#send(message, kind, signal)
      outcomes[at] = outcome
      if (outcome.outcome !== 'published' && outcome.outcome !== 'refused') before = message.id
    }
  }

  async #send(
    message: BrokerMessage,
    kind: 'ordered' | 'plain',
    signal: AbortSignal,
  ): Promise<PublishOutcome> {
    if (signal.aborted) return { outcome: 'unreachable', error: 'no time was left to send it' }
    let sent: Message
    try {
      sent = toProtobuf(message, kind, this.#options.namespace)
    } catch (error) {
      return { outcome: 'refused', error: (error as Error).message }
    }
    try {
      const request = new service.SendMessageRequest().setMessagesList([sent])
      return this.#outcome(await this.#link.call((client) => client.sendMessage, request, { signal }))
    } catch (error) {
      const { code, details } = error as ServiceError
      const outcome = code === grpcStatus.UNAUTHENTICATED ? 'unreachable' : 'failed'
      return { outcome, error: `${details} (gRPC ${code})` }
    }
  }

  #outcome(answer: InstanceType<typeof service.SendMessageResponse>): PublishOutcome {
    const { code, message } = statusOf(answer)
    if (code === Code.OK) return PUBLISHED
    if (code === Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE || code === Code.TOPIC_NOT_FOUND)
      this.#hasMismatch = true
    const error = `${message} (${code})`
    if (REFUSED.has(code)) return { outcome: 'refused', error }
    return { outcome: UNAUTHORIZED.has(code) ? 'unreachable' : 'failed', error }
  }
}
