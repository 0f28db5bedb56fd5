import { EscrowError } from '../core/errors.ts'
import { type Namespace, type TransactionId, type TransactionKey, transactionKey } from '../core/ids.ts'
import type { Runtime } from '../core/runtime.ts'
import type { TransactionCommand } from '../core/transaction.ts'
import type { StoredImage } from '../store/images.ts'
import type { Store } from '../store/store.ts'
import { nothingDone, type Question } from './entry.ts'

/** What is asked of a transaction that isn't in memory; no command is a read. */
export interface Pending {
  readonly command: TransactionCommand | undefined
  readonly question: Question
}

/** What loads need of their log. */
export interface LoaderOptions {
  readonly store: Store
  readonly runtime: Runtime
  readonly loaded: (key: TransactionKey, stored: StoredImage | undefined, pending: readonly Pending[]) => void
  /** The store doesn't answer, or (undefined) does again. */
  readonly failing: (error: EscrowError | undefined) => void
}

/** How many images one look at the store brings, and about how many bytes. */
const LOADS_AT_ONCE = { first: 128, min: 8, max: 1_000, bytes: 16 << 20 }
const LOAD_RETRY_MS = 1_000

/** How many images the next look brings: what is stored may be small or large, which the last look has told. */
class PageSize {
  keys = LOADS_AT_ONCE.first

  loaded(stored: readonly (StoredImage | undefined)[]): void {
    let bytes = 0
    for (const image of stored) bytes += image?.bytes.length ?? 0
    const { min, max, bytes: bytesAtOnce } = LOADS_AT_ONCE
    const fits = Math.floor((bytesAtOnce * Math.max(1, stored.length)) / Math.max(1, bytes))
    // Small ones may be followed by large ones: it grows step by step.
    this.keys = Math.max(min, Math.min(max, fits, 2 * this.keys))
  }
}

/** Brings images into memory: one load in flight for an id, whoever asks for it. */
export class Loader {
  readonly #options: LoaderOptions
  readonly #loading = new Map<TransactionKey, Pending[]>()
  /** Those that are due: they are brought in whatever happens to those who asked. */
  readonly #due = new Set<TransactionKey>()
  #toLoad: TransactionKey[] = []
  readonly #page = new PageSize()
  #pendingCount = 0
  #idle: (() => void)[] = []
  #isStopped = false

  constructor(options: LoaderOptions) {
    this.#options = options
  }

  /** How many questions wait for their transaction. */
  get pendingCount(): number {
    return this.#pendingCount
  }

  isLoading(namespace: Namespace, id: TransactionId): boolean {
    return this.#loading.size > 0 && this.#loading.has(transactionKey(namespace, id))
  }

  /** Waits until no question waits for its transaction. */
  async idle(): Promise<void> {
    if (this.#pendingCount > 0) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  load(key: TransactionKey, pending: Pending): void {
    this.#pendingCount += 1
    const waiting = this.#loading.get(key)
    if (waiting === undefined) this.#start(key, [pending])
    else waiting.push(pending)
  }

  /** Brings one in for its own sake: it is due. */
  bring(key: TransactionKey): void {
    this.#due.add(key)
    if (!this.#loading.has(key)) this.#start(key, [])
  }

  #start(key: TransactionKey, pending: Pending[]): void {
    this.#loading.set(key, pending)
    if (this.#toLoad.push(key) === 1) this.#options.runtime.defer(() => void this.#loadAll())
  }

  async #loadAll(): Promise<void> {
    while (this.#toLoad.length > 0 && !this.#isStopped) {
      const keys = this.#toLoad.splice(0, this.#page.keys)
      try {
        const stored = await this.#options.store.images.load(keys)
        this.#page.loaded(stored)
        if (this.#isStopped) return
        this.#options.failing(undefined)
        keys.forEach((key, at) => {
          this.#due.delete(key)
          this.#options.loaded(key, stored[at], this.#take(key))
        })
      } catch (error) {
        if (!this.#isStopped) this.#failed(keys, EscrowError.from(error))
      }
    }
  }

  #failed(keys: readonly TransactionKey[], error: EscrowError): void {
    for (const key of keys) for (const { question } of this.#take(key)) question.reply(nothingDone(error))
    this.#options.failing(error)
    // What is due must not be forgotten because the store was away: the scan has passed it already.
    this.#options.runtime.setTimer(() => {
      if (!this.#isStopped) for (const key of keys) if (this.#due.has(key)) this.bring(key)
    }, LOAD_RETRY_MS)
  }

  #take(key: TransactionKey): readonly Pending[] {
    const pending = this.#loading.get(key) ?? []
    this.#loading.delete(key)
    this.#answered(pending.length)
    return pending
  }

  #answered(count: number): void {
    this.#pendingCount -= count
    if (this.#pendingCount === 0) for (const resolve of this.#idle.splice(0)) resolve()
  }

  /** Answers those whose deadline has passed: nothing was decided for them, and nothing will be. */
  tellTheLate(monotonicMs: number): void {
    for (const [key, pending] of this.#loading) {
      const late = pending.filter(({ question }) => question.deadlineMs <= monotonicMs)
      if (late.length === 0) continue
      this.#loading.set(
        key,
        pending.filter(({ question }) => question.deadlineMs > monotonicMs),
      )
      this.#answered(late.length)
      const error = new EscrowError('deadlineExceeded', 'the store has not answered by the deadline')
      for (const { question } of late) question.reply(error)
    }
  }

  stop(error: EscrowError): void {
    this.#isStopped = true
    for (const resolve of this.#idle.splice(0)) resolve()
    for (const pending of this.#loading.values())
      for (const { question } of pending) question.reply(nothingDone(error))
    this.#loading.clear()
  }
}

/** The stored image of each of these keys, in their order, as they come; undefined for one that has none. */
export async function* loadImages(
  store: Store,
  keys: readonly TransactionKey[],
): AsyncGenerator<readonly [TransactionKey, StoredImage | undefined]> {
  const page = new PageSize()
  for (let from = 0; from < keys.length; ) {
    const some = keys.slice(from, from + page.keys)
    from += some.length
    const stored = await store.images.load(some)
    page.loaded(stored)
    for (const [at, key] of some.entries()) yield [key, stored[at]]
  }
}
