import type { FixedBody, PrepareRequest, PrepareResponse } from '../core/api.ts'
import { checkBody, type Headers, type Limits } from '../core/envelope.ts'
import { EscrowError } from '../core/errors.ts'
import type { CheckBackPolicy, RetryPolicy } from '../core/message.ts'
import type { Runtime } from '../core/runtime.ts'
import type { BarrierSubject } from './barrier/run.ts'
import { type BodyInput, encodeBody } from './body.ts'

/** One message of a transaction. */
export interface OutgoingMessage {
  /** `service/handler` of a participant, or `broker:topic`. */
  readonly to: string
  /** Bytes as they are, a string as UTF-8 text, anything else as JSON. Left out with `bodyAtCommit`. */
  readonly body?: BodyInput | undefined
  /** The body is fixed inside the local transaction: `tx.fixBody(index, body)`. */
  readonly bodyAtCommit?: boolean | undefined
  readonly headers?: Headers | undefined
  /** Partition or routing key. Default: the transaction's ordering key, from which it may not differ. */
  readonly key?: string | undefined
  /** Not before this time: a `Date`, or milliseconds since the Unix epoch. A delayed message leaves the order. */
  readonly deliverAt?: { getTime(): number } | number | undefined
  /** Default: what the kind of the body says; `application/json` for one that is fixed at commit. */
  readonly contentType?: string | undefined
}

/** Messages that are delivered if, and only if, a local transaction commits. */
export interface TransactionRequest {
  readonly namespace?: string | undefined
  /** An idempotency key for its window (24 h by default). Left out: an id is minted. */
  readonly id?: string | undefined
  /** The checker to ask when nobody says how the local transaction ended. */
  readonly checker: string
  /** Transactions of one key are published in the order in which they were committed; 1-128 bytes. */
  readonly orderingKey?: string | undefined
  readonly messages: readonly OutgoingMessage[]
  readonly checkBack?: Partial<CheckBackPolicy> | undefined
  readonly retry?: Partial<RetryPolicy> | undefined
  /** The database of the barrier. Default: that of the checker, when it is registered on this session. */
  readonly databaseId?: string | undefined
}

/** The local transaction of a half message, as the callback of `sendInTransaction` is given it. */
export interface LocalTransaction extends BarrierSubject {
  readonly operation: 'local'
  readonly namespace: string
  /** The global transaction's id. */
  readonly id: string
  /** The local transaction's id, unique for ever. */
  readonly executionId: string
  /**
   * Fixes the body of the message `index` (from 0), which was prepared with `bodyAtCommit`. May be repeated: the last one
   * counts. Throws `tooLarge` and `invalidArgument`, so that nothing commits that the coordinator would not take.
   */
  fixBody(index: number, body: BodyInput): void
}

/** What the caller gave, as the coordinator takes it. */
export function toPrepareRequest(request: TransactionRequest): PrepareRequest {
  const { namespace, id, checker, orderingKey, checkBack, retry, databaseId } = request
  const messages = request.messages.map((message, index) => {
    const { to: destination, bodyAtCommit, headers, key, deliverAt } = message
    const hasBody = bodyAtCommit !== true && message.body !== undefined
    const encoded = hasBody ? encodeBody(`body of message ${index}`, message.body) : undefined
    return {
      destination,
      body: encoded?.bytes,
      bodyAtCommit,
      headers,
      key,
      deliverAtMs: typeof deliverAt === 'object' ? deliverAt.getTime() : deliverAt,
      contentType: message.contentType ?? encoded?.contentType,
    }
  })
  return { namespace, id, checker, orderingKey, messages, checkBack, retry, databaseId }
}

/** A local transaction while its callback runs. */
export class OpenLocalTransaction implements LocalTransaction {
  readonly operation = 'local'
  readonly namespace: string
  readonly id: string
  readonly executionId: string
  readonly databaseId: string
  readonly #messages: PrepareRequest['messages']
  readonly #limits: Limits
  readonly #age: () => number
  #bodies = new Map<number, Uint8Array>()
  #isAbandoned = false

  constructor(
    request: PrepareRequest,
    prepared: PrepareResponse,
    context: { namespace: string; limits: Limits; runtime: Runtime },
  ) {
    this.namespace = request.namespace || context.namespace
    this.id = prepared.id
    this.executionId = prepared.executionId
    this.databaseId = request.databaseId ?? ''
    this.#messages = request.messages
    this.#limits = context.limits
    const preparedAt = context.runtime.monotonic()
    this.#age = () => context.runtime.monotonic() - preparedAt
  }

  fixBody(index: number, body: BodyInput): void {
    if (this.#messages[index]?.bodyAtCommit !== true) {
      throw new EscrowError('invalidArgument', `message ${index} was not prepared with bodyAtCommit`)
    }
    const { bytes } = encodeBody(`body of message ${index}`, body)
    checkBody(bytes, this.#limits)
    this.#bodies.set(index, bytes)
  }

  /** It didn't commit, and never will: see `BarrierSubject.abandon`. */
  get isAbandoned(): boolean {
    return this.#isAbandoned
  }

  abandon(): void {
    this.#isAbandoned = true
  }

  ageMs(): number {
    return this.#age()
  }

  /** The bodies that were fixed. Throws `bodiesMissing` and `tooLarge`. */
  sealBodies(): readonly FixedBody[] {
    const missing = this.#messages.findIndex(
      (message, index) => message.bodyAtCommit === true && !this.#bodies.has(index),
    )
    if (missing >= 0) throw new EscrowError('bodiesMissing', `the body of message ${missing} was not fixed`)
    let bytes = 0
    for (const [index, message] of this.#messages.entries()) {
      bytes += (this.#bodies.get(index) ?? message.body)?.length ?? 0
      for (const name in message.headers)
        bytes += name.length + Buffer.byteLength(message.headers[name] as string)
      bytes += 64
    }
    const max = this.#limits.transactionBytesMax
    if (bytes > max) {
      throw new EscrowError(
        'tooLarge',
        `transaction is ${bytes}, over the limit transactionBytesMax of ${max}`,
        {
          details: { limit: 'transactionBytesMax', max: String(max), actual: String(bytes) },
        },
      )
    }
    return [...this.#bodies].sort(([a], [b]) => a - b).map(([index, body]) => ({ index, body }))
  }

  restoreBodies(bodies: readonly FixedBody[]): void {
    this.#bodies = new Map(bodies.map(({ index, body }) => [index, body]))
  }
}
