import type { Operation, Operations } from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import { type Namespace, type TransactionId, type TransactionKey, transactionKey } from '../core/ids.ts'
import type { MessageImage } from '../core/message.ts'
import type { SagaImage } from '../core/saga/image.ts'
import { type TransactionImage, transactionFinishedAtMs, transactionStatusOf } from '../core/transaction.ts'
import { ByteWriter } from '../store/binary.ts'
import type { Attributes, ImageFacts, ImageStatus } from '../store/images.ts'
import { attributesOf, decodeTransactionImage, encodeTransactionImage } from '../store/transaction-record.ts'
import type { Reply } from './coordination.ts'
import { factsOf } from './facts.ts'

/** What is asked about a transaction, and by whom. */
export interface Asked {
  readonly op: Operation
  readonly namespace: Namespace
  readonly id: TransactionId
  /** Nothing can be stored under this id yet. */
  readonly fresh: boolean
  readonly reply: Reply
  /** By the monotonic clock: the wall clock may be set. */
  readonly deadlineMs: number
}

/** Somebody who waits for an answer, and the answer once it is decided. */
export class Question {
  readonly op: Operation
  readonly namespace: Namespace
  readonly id: TransactionId
  readonly fresh: boolean
  readonly deadlineMs: number
  #reply: Reply | undefined
  error: EscrowError | undefined = undefined
  response: Operations[Operation]['response'] | undefined = undefined

  constructor({ op, namespace, id, fresh, reply, deadlineMs }: Asked) {
    this.op = op
    this.namespace = namespace
    this.id = id
    this.fresh = fresh
    this.deadlineMs = deadlineMs
    this.#reply = reply
  }

  /** Whether it was answered: what comes later is dropped. */
  get isOver(): boolean {
    return this.#reply === undefined
  }

  /** Gives the answer that was decided. */
  answer(): void {
    this.reply(this.error, this.response)
  }

  reply(error: EscrowError | undefined, response?: Operations[Operation]['response']): void {
    const reply = this.#reply
    this.#reply = undefined
    reply?.(error, response)
  }
}

/** What those are told for whom nothing was decided when a log stops: that it may be tried again. */
export function nothingDone(error: EscrowError): EscrowError {
  if (error.retryable) return error
  return new EscrowError('storeUnavailable', `the log is being recovered: ${error.message}`, { cause: error })
}

/** The bytes of an image that will not change any more. */
interface Packed {
  readonly bytes: Uint8Array
  readonly start: number
  readonly end: number
  readonly status: ImageStatus
  readonly finishedAtMs: number
  readonly attributes: Attributes | undefined
  /** Undefined where the store doesn't ask for them. */
  readonly facts: ImageFacts | undefined
}

const CHUNK_BYTES = 256 << 10
const NONE: readonly number[] = []

/**
 * Encodes finished images as soon as they are finished, into chunks outside the heap: what waits for the next checkpoint is
 * tens of thousands of images, and as objects they would outlive the young generation.
 */
export class Packer {
  readonly #withFacts: boolean
  #writer = new ByteWriter(CHUNK_BYTES)

  /** `withFacts`: keeps them beside the bytes, for a store that asks each row for them. */
  constructor(withFacts: boolean) {
    this.#withFacts = withFacts
  }

  pack(image: TransactionImage): Packed {
    if (this.#writer.length > CHUNK_BYTES - 4096) this.#writer = new ByteWriter(CHUNK_BYTES)
    const start = this.#writer.length
    encodeTransactionImage(this.#writer, image, { bodies: false })
    return {
      bytes: this.#writer.bytes,
      start,
      end: this.#writer.length,
      status: transactionStatusOf(image),
      finishedAtMs: transactionFinishedAtMs(image),
      attributes: attributesOf(image),
      facts: this.#withFacts ? factsOf(image) : undefined,
    }
  }
}

/** A transaction in memory. It may leave memory when it is clean and nothing holds it. */
export class Entry {
  readonly namespace: Namespace
  readonly id: TransactionId
  readonly kind: TransactionImage['head']['kind']
  #image: TransactionImage | undefined
  /** Set once it is finished. */
  packed: Packed | undefined = undefined
  /** Ended, and no longer among those in memory. */
  isGone = false
  /** The store may have a row of it. */
  isStored: boolean
  /** The segment of its last change. */
  sequence: number
  /** The first segment of a change that no row stands for; 0 when it is clean. */
  unsavedFrom: number
  /** Wall clock of that change. */
  unsavedAtMs = 0
  /** A check-back is decided or under way. */
  checking = false
  /** The last check-back found nobody: it is asked again when a checker comes. */
  missed = false
  /** Deliveries, or calls of steps, that are decided or under way: by index, or by `StepCode`. */
  busy: readonly number[] = NONE
  /** Those that wait for room at their destination, likewise. */
  held: readonly number[] = NONE
  /** Deliveries that stand in the queue of their key, by index. */
  queued: readonly number[] = NONE
  /** Questions that wait for the end. */
  waiters: Question[] | undefined = undefined
  /** Log time for which the heap holds it; 0 for none. */
  alarmAtMs = 0

  constructor(
    image: TransactionImage,
    { sequence, unsavedFrom, isStored }: { sequence: number; unsavedFrom: number; isStored: boolean },
  ) {
    this.namespace = image.head.namespace
    this.id = image.head.id
    this.kind = image.head.kind
    this.#image = image
    this.sequence = sequence
    this.unsavedFrom = unsavedFrom
    this.isStored = isStored
  }

  get key(): TransactionKey {
    return transactionKey(this.namespace, this.id)
  }

  /** Read back, for whoever still asks about a finished one. */
  get image(): TransactionImage {
    if (this.#image !== undefined) return this.#image
    const { bytes, start, end } = this.packed as Packed
    return decodeTransactionImage(bytes.subarray(start, end))
  }

  set image(image: TransactionImage) {
    this.#image = image
  }

  /** The image, for those who only ever see half messages. */
  get message(): MessageImage {
    return this.image as MessageImage
  }

  /** The image, for those who only ever see sagas. */
  get saga(): SagaImage {
    return this.image as SagaImage
  }

  /** Keeps a finished image as bytes from here on; false if it isn't finished, or is kept so already. */
  pack(packer: Packer): boolean {
    if (this.packed !== undefined || this.#image === undefined || transactionFinishedAtMs(this.#image) === 0)
      return false
    this.packed = packer.pack(this.#image)
    this.#image = undefined
    return true
  }

  /** Whether memory may forget it: the store knows all of it, and finds it when it is due. */
  get isIdle(): boolean {
    return (
      this.unsavedFrom === 0 &&
      !this.checking &&
      !this.missed &&
      this.busy.length === 0 &&
      this.held.length === 0 &&
      this.queued.length === 0 &&
      this.waiters === undefined &&
      this.alarmAtMs === 0
    )
  }
}

/** A list with `value` in it as well. A transaction has few messages, mostly one: a literal of the right size is smallest. */
export function plus(list: readonly number[], value: number): readonly number[] {
  return list.length === 0 ? [value] : [...list, value]
}

/** A list without `value`. */
export function minus(list: readonly number[], value: number): readonly number[] {
  return list.length === 1 && list[0] === value ? NONE : list.filter((each) => each !== value)
}
