import { InvariantViolation } from '../core/errors.ts'
import type { TransactionEffect, TransactionImage } from '../core/transaction.ts'
import type { LogClock, LogHandle, Segment } from '../store/log.ts'
import { SegmentBuilder } from '../store/segment.ts'
import type { Entry, Question } from './entry.ts'

/** What leaves when its batch is durable: an answer, or an effect. */
export type Release = Question | { readonly entry: Entry; readonly effect: TransactionEffect }

/** Decisions that become durable together, and what waits for that. */
export interface Batch {
  /** Undefined while it collects, and for one without records. */
  segment: Segment | undefined
  readonly sequence: number
  readonly releases: Release[]
}

/**
 * Collects what is decided while an append is in flight. The one batch that collects is the last; those before it are full
 * and sealed.
 */
export class Batches {
  readonly #handle: LogHandle
  readonly #nonce: Uint8Array
  readonly #readClock: () => LogClock
  readonly #builder = new SegmentBuilder()
  readonly #sealed: Batch[] = []
  #open: Batch
  #sequence: number
  #sealedBytes = 0
  #sealedReleases = 0

  constructor(handle: LogHandle, head: number, nonce: Uint8Array, readClock: () => LogClock) {
    this.#handle = handle
    this.#nonce = nonce
    this.#readClock = readClock
    this.#sequence = head + 1
    this.#open = { segment: undefined, sequence: this.#sequence, releases: [] }
  }

  /** The sequence that the next record gets. */
  get sequence(): number {
    return this.#sequence
  }

  /** How many records the collecting batch has. */
  get records(): number {
    return this.#builder.records
  }

  get bytes(): number {
    return this.#sealedBytes + this.#builder.bytes
  }

  /** How many answers and effects wait. */
  get releases(): number {
    return this.#sealedReleases + this.#open.releases.length
  }

  get isEmpty(): boolean {
    return this.#sealed.length === 0 && this.#open.releases.length === 0 && this.#builder.records === 0
  }

  /** Adds a record; returns the sequence of its segment. Throws `tooLarge`, with nothing added. */
  record(previous: TransactionImage | undefined, next: TransactionImage): number {
    if (!this.#builder.add(previous, next)) {
      this.#seal()
      if (!this.#builder.add(previous, next))
        throw new InvariantViolation('an empty segment has no room for a record')
    }
    return this.#sequence
  }

  release(release: Release): void {
    this.#open.releases.push(release)
  }

  #seal(): void {
    const batch = this.#open
    if (this.#builder.records > 0) {
      const { epoch } = this.#handle.claimed
      batch.segment = this.#builder.finish({
        nonce: this.#nonce,
        epoch,
        sequence: this.#sequence,
        clock: this.#readClock(),
      })
      this.#sealedBytes += batch.segment.bytes.length
      this.#sequence += 1
    }
    this.#sealed.push(batch)
    this.#sealedReleases += batch.releases.length
    this.#open = { segment: undefined, sequence: this.#sequence, releases: [] }
  }

  /** Takes the next batch to append. */
  take(): Batch {
    if (this.#sealed.length === 0) this.#seal()
    const batch = this.#sealed.shift() as Batch
    this.#sealedBytes -= batch.segment?.bytes.length ?? 0
    this.#sealedReleases -= batch.releases.length
    return batch
  }

  /** Every answer that waits here, as questions. */
  *questions(): Generator<Release[]> {
    for (const batch of this.#sealed) yield batch.releases
    yield this.#open.releases
  }
}
