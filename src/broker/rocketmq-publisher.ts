/** Sends batches to a proxy: plain messages many a request, ordered ones one a request and one of a key at a time. */
import { status as grpcStatus, type ServiceError } from '@grpc/grpc-js'
import type { Message } from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb.js'
import definition from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb.js'
import service from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/service_pb.js'
import type { BrokerMessage, PublishOutcome } from './broker.ts'
import { bytesOf } from './headers.ts'
import { type LinkOptions, type RocketmqLink, statusOf } from './rocketmq-link.ts'
import { toProtobuf } from './rocketmq-message.ts'

/** Of one request with plain messages; the servers take 4 MiB, and one larger message alone. */
const REQUEST_BYTES_MAX = 512 << 10
const REQUEST_MESSAGES_MAX = 64

const { Code } = definition
const PUBLISHED: PublishOutcome = { outcome: 'published' }
/** What is wrong with the message itself, or with one of its neighbours in the request. Nothing of the request was stored. */
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
    const plain: Entry[] = []
    for (const [at, message] of batch.entries()) {
      const entry = { at, message }
      if (kindFor(message.key) === 'plain') plain.push(entry)
      else if (message.key === '') chains.set(entry, [entry])
      else chains.set(message.key, [...(chains.get(message.key) ?? []), entry])
    }
    const ends = AbortSignal.any([signal, this.#closing.signal])
    await Promise.all([
      ...requests(plain).map((entries) => this.#plain(entries, outcomes, ends)),
      ...[...chains.values()].map((chain) => this.#chain(chain, outcomes, ends)),
    ])
    return outcomes
  }

  /** What is under way ends as `failed`. */
  close(): void {
    this.#closing.abort()
  }

  async #chain(chain: readonly Entry[], outcomes: PublishOutcome[], signal: AbortSignal): Promise<void> {
    let before: string | undefined
    for (const { at, message } of chain) {
      if (before !== undefined) {
        outcomes[at] = { outcome: 'unreachable', error: `it waits behind message ${before} of its key` }
        continue
      }
      const outcome = await this.#send([message], 'ordered', signal)
      outcomes[at] = outcome
      if (outcome.outcome !== 'published' && outcome.outcome !== 'refused') before = message.id
    }
  }

  async #plain(entries: readonly Entry[], outcomes: PublishOutcome[], signal: AbortSignal): Promise<void> {
    const messages = entries.map(({ message }) => message)
    const outcome = await this.#send(messages, 'plain', signal)
    if (outcome.outcome !== 'refused' || entries.length === 1) {
      for (const { at } of entries) outcomes[at] = outcome
      return
    }
    // One of them is to blame: each is sent by itself.
    for (const { at, message } of entries) outcomes[at] = await this.#send([message], 'plain', signal)
  }

  async #send(
    messages: readonly BrokerMessage[],
    kind: 'ordered' | 'plain',
    signal: AbortSignal,
  ): Promise<PublishOutcome> {
    if (signal.aborted) return { outcome: 'unreachable', error: 'no time was left to send it' }
    let sent: Message[]
    try {
      sent = messages.map((message) => toProtobuf(message, kind, this.#options.namespace))
    } catch (error) {
      return { outcome: 'refused', error: (error as Error).message }
    }
    try {
      const request = new service.SendMessageRequest().setMessagesList(sent)
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

/** As many to a request as its bounds allow. */
function requests(entries: readonly Entry[]): readonly (readonly Entry[])[] {
  const all: Entry[][] = []
  let bytes = 0
  for (const entry of entries) {
    const size = bytesOf(entry.message)
    const last = all.at(-1)
    if (last === undefined || last.length >= REQUEST_MESSAGES_MAX || bytes + size > REQUEST_BYTES_MAX) {
      all.push([entry])
      bytes = size
    } else {
      last.push(entry)
      bytes += size
    }
  }
  return all
}
