import type { Operation } from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import type { TransactionKey } from '../core/ids.ts'
import type { MessageImage } from '../core/message.ts'
import type { Reply } from './coordination.ts'

/** Somebody who waits for an answer. */
export interface Question {
  readonly op: Operation
  readonly reply: Reply
  /** By the monotonic clock: the wall clock may be set. */
  readonly deadlineMs: number
}

/** What those are told for whom nothing was decided when a log stops: that it may be tried again. */
export function nothingDone(error: EscrowError): EscrowError {
  if (error.retryable) return error
  return new EscrowError('storeUnavailable', `the log is being recovered: ${error.message}`, { cause: error })
}

/** A transaction in memory. It may leave memory when it is clean and nothing holds it. */
export class Entry {
  readonly key: TransactionKey
  image: MessageImage
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
  /** Deliveries that are decided or under way, by index. */
  readonly busy: number[] = []
  /** Deliveries that wait for room at their destination, by index. */
  readonly held: number[] = []
  /** Deliveries that stand in the queue of their key, by index. */
  readonly queued: number[] = []
  /** Questions that wait for the end. */
  waiters: Question[] | undefined = undefined
  /** Log time for which the heap holds it; 0 for none. */
  alarmAtMs = 0

  constructor(key: TransactionKey, image: MessageImage, sequence: number, unsavedFrom: number) {
    this.key = key
    this.image = image
    this.sequence = sequence
    this.unsavedFrom = unsavedFrom
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

/** Takes `value` out of a short list, whose order doesn't matter. */
export function remove(list: number[], value: number): boolean {
  const at = list.indexOf(value)
  if (at < 0) return false
  const last = list.pop() as number
  if (at < list.length) list[at] = last
  return true
}
