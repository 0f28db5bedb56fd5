import type { DeliverRequest } from '../core/api.ts'
import type { Headers, TraceContext } from '../core/envelope.ts'
import { EscrowError } from '../core/errors.ts'
import type { BarrierSubject } from './barrier/run.ts'
import { IncomingCall } from './incoming-call.ts'

/** A message as a handler is given it. It may come more than once under the same execution id: see `barrier.run`. */
export interface ReceivedMessage extends BarrierSubject {
  readonly operation: 'deliver'
  readonly namespace: string
  /** The transaction that it belongs to. */
  readonly transactionId: string
  /** Stable over all attempts, unique for ever: what to deduplicate by. */
  readonly executionId: string
  /** From 1. */
  readonly attempt: number
  readonly handler: string
  readonly body: Uint8Array
  readonly headers: Headers
  /** Partition or routing key; empty for none. */
  readonly key: string
  readonly contentType: string
  readonly trace: TraceContext
  /** Aborted when the time for an answer has passed: an answer that comes later is dropped. */
  readonly signal: AbortSignal
  /** The body as JSON. Throws `malformed`. */
  json<T = unknown>(): T
  /** The body as UTF-8 text. */
  text(): string
}

/**
 * Takes a message. Resolving means delivered; throwing a `Refusal` (`throw refuse('why')`) means never; throwing anything
 * else means not now: the message comes again after a pause.
 */
export type MessageHandler = (message: ReceivedMessage) => unknown

/** A message while its handler runs. */
export class IncomingMessage extends IncomingCall implements ReceivedMessage {
  readonly operation = 'deliver'
  readonly #request: DeliverRequest

  constructor(request: DeliverRequest) {
    super()
    this.#request = request
  }

  get namespace(): string {
    return this.#request.namespace
  }

  get transactionId(): string {
    return this.#request.transactionId
  }

  get executionId(): string {
    return this.#request.executionId
  }

  get attempt(): number {
    return this.#request.attempt
  }

  get handler(): string {
    return this.#request.handler
  }

  get body(): Uint8Array {
    return this.#request.body
  }

  get headers(): Headers {
    return this.#request.headers
  }

  get key(): string {
    return this.#request.key
  }

  get contentType(): string {
    return this.#request.contentType
  }

  get trace(): TraceContext {
    return this.#request.trace
  }

  json<T = unknown>(): T {
    try {
      return JSON.parse(this.text()) as T
    } catch (cause) {
      throw new EscrowError('malformed', `the body of ${this.executionId} is not JSON`, { cause })
    }
  }

  text(): string {
    const { body } = this
    return Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString()
  }
}
