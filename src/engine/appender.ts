import { EscrowError } from '../core/errors.ts'
import type { Runtime } from '../core/runtime.ts'
import type { LogHandle } from '../store/log.ts'
import type { Batch, Batches, Release } from './batch.ts'
import { Question } from './entry.ts'

/** What appends need of their log. */
export interface AppenderOptions {
  readonly handle: LogHandle
  readonly batches: Batches
  /** The last segment of the log as it was recovered. */
  readonly head: number
  readonly runtime: Runtime
  /** See `LogBounds`. */
  readonly provenMsMax: number
  /** A segment is durable. */
  readonly stored: () => void
  /** Lets something leave, now that its batch is durable. */
  readonly release: (release: Release) => void
  /** The store doesn't answer, or (undefined) does again. */
  readonly failing: (error: EscrowError | undefined) => void
  /** The log must stop: fenced, or broken. */
  readonly stop: (error: EscrowError) => void
}

/** The longest pause before the same bytes are appended again. */
export const APPEND_RETRY_MS_MAX = 1_000
/** Answers and effects that leave in one go. */
const LEAVING_AT_ONCE_MAX = 256

/** Appends one batch after the other, one in flight, and lets what waits for each leave once it is durable. */
export class Appender {
  readonly #options: AppenderOptions
  #appending: Batch | undefined
  #durable: number
  #isFlushPlanned = false
  #isStopped = false
  /** Durable, and on their way out; of the first one so many have left. */
  readonly #leaving: Release[][] = []
  #left = 0
  #leavingCount = 0
  #isLeaving = false
  /** On the monotonic clock: when the last proof of ownership began. */
  #provenAtMs: number
  #idle: (() => void)[] = []

  constructor(options: AppenderOptions) {
    this.#options = options
    this.#durable = options.head
    this.#provenAtMs = options.runtime.monotonic()
  }

  /** The last segment that is durable. */
  get durable(): number {
    return this.#durable
  }

  /** How many answers and effects wait for the append in flight, or are on their way out. Hot. */
  get releases(): number {
    return (this.#appending?.releases.length ?? 0) + this.#leavingCount
  }

  /** Sees to it that what collects leaves: after this turn of the event loop, or with the append that follows. */
  plan(): void {
    if (this.#isFlushPlanned || this.#appending !== undefined) return
    this.#isFlushPlanned = true
    this.#options.runtime.defer(() => {
      this.#isFlushPlanned = false
      this.#flush()
    })
  }

  /** Waits until nothing is pending, or the log has stopped. */
  async idle(): Promise<void> {
    if (this.#isStopped || this.#isIdle) return
    await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  get #isIdle(): boolean {
    return this.#appending === undefined && this.#leaving.length === 0 && this.#options.batches.isEmpty
  }

  #tellIdle(): void {
    if (this.#isIdle) for (const resolve of this.#idle.splice(0)) resolve()
  }

  /** Takes out all that waits; no effect leaves any more. Answers that are durable do: they are true. */
  stop(): readonly Release[] {
    this.#isStopped = true
    for (const releases of this.#leaving.splice(0)) {
      for (const release of releases) if (release instanceof Question) release.answer()
    }
    this.#leavingCount = 0
    const waiting: Release[] = []
    // One by one: as arguments of one call they are more than a stack has room for.
    for (const releases of this.#waiting()) for (const release of releases.splice(0)) waiting.push(release)
    for (const resolve of this.#idle.splice(0)) resolve()
    return waiting
  }

  /** Answers those whose deadline has passed while the store keeps silent. */
  tellTheLate(monotonicMs: number): void {
    for (const releases of this.#waiting()) {
      for (const release of releases) {
        if ('effect' in release || release.isOver || release.deadlineMs > monotonicMs) continue
        release.reply(new EscrowError('uncertain', 'the store has not answered by the deadline'))
      }
    }
  }

  *#waiting(): Generator<Release[]> {
    if (this.#appending !== undefined) yield this.#appending.releases
    yield* this.#options.batches.questions()
  }

  #flush(): void {
    if (this.#appending !== undefined || this.#isStopped) return
    if (this.#options.batches.isEmpty) return this.#tellIdle()
    this.#appending = this.#options.batches.take()
    this.#append(this.#appending, 1)
  }

  #append(batch: Batch, attempt: number): void {
    const { handle, runtime } = this.#options
    const begunAtMs = runtime.monotonic()
    const outcome =
      batch.segment === undefined
        ? handle.verify().then((isOwner): 'done' | 'fenced' => (isOwner ? 'done' : 'fenced'))
        : handle.append(batch.segment)
    outcome.then(
      (how) => this.#appended(batch, how, begunAtMs),
      (error) => this.#unknown(batch, EscrowError.from(error), attempt),
    )
  }

  #appended(batch: Batch, how: 'done' | 'fenced', begunAtMs: number): void {
    if (this.#isStopped) return
    const { stored, failing } = this.#options
    if (how === 'fenced') return this.#fenced()
    failing(undefined)
    this.#provenAtMs = begunAtMs
    this.#appending = undefined
    if (batch.segment !== undefined) {
      this.#durable = batch.sequence
      stored()
    }
    // The next append starts first, so that it is on its way while these leave.
    this.#flush()
    this.#leaving.push(batch.releases)
    this.#leavingCount += batch.releases.length
    if (!this.#isLeaving) this.#leave()
  }

  /** Lets some leave, and the rest after what the event loop brings: so what left first is on its way meanwhile. */
  #leave(): void {
    this.#isLeaving = false
    const { release, runtime, provenMsMax } = this.#options
    if (this.#leaving.length > 0 && runtime.monotonic() - this.#provenAtMs > provenMsMax) return this.#prove()
    for (let left = LEAVING_AT_ONCE_MAX; left > 0; left--) {
      const releases = this.#leaving[0]
      if (releases === undefined) return this.#tellIdle()
      if (this.#left < releases.length) {
        this.#leavingCount -= 1
        release(releases[this.#left++] as Release)
      } else {
        this.#leaving.shift()
        this.#left = 0
      }
    }
    this.#isLeaving = true
    runtime.defer(() => this.#leave())
  }

  #fenced(): void {
    const { handle, stop } = this.#options
    stop(new EscrowError('notOwner', `log ${handle.log} was taken over by another writer`))
  }

  /** Looks at the fence once more before anything leaves. */
  #prove(): void {
    this.#isLeaving = true
    const { handle, runtime, failing } = this.#options
    const begunAtMs = runtime.monotonic()
    handle.verify().then(
      (isOwner) => {
        if (this.#isStopped) return
        if (!isOwner) return this.#fenced()
        failing(undefined)
        this.#provenAtMs = begunAtMs
        this.#leave()
      },
      (thrown) => {
        if (this.#isStopped) return
        const error = EscrowError.from(thrown)
        failing(error)
        if (error.code === 'storeUnavailable')
          runtime.setTimer(() => !this.#isStopped && this.#leave(), APPEND_RETRY_MS_MAX)
      },
    )
  }

  /** The same bytes are appended again: only the store can say whether they are there already. */
  #unknown(batch: Batch, error: EscrowError, attempt: number): void {
    if (this.#isStopped) return
    if (error.code !== 'storeUnavailable') {
      this.#options.stop(error)
      return
    }
    this.#options.failing(error)
    const pauseMs = Math.min(APPEND_RETRY_MS_MAX, 10 * 2 ** Math.min(attempt, 10))
    this.#options.runtime.setTimer(() => {
      if (!this.#isStopped) this.#append(batch, attempt + 1)
    }, pauseMs)
  }
}
