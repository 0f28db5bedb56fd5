import {
  type Namespace,
  type TransactionId,
  type TransactionKey,
  transactionKey,
  transactionKeyParts,
} from '../core/ids.ts'
import type { Entry } from './entry.ts'

/** How many ended ones may have gone before the rest closes up. */
const GONE_MAX = 4_096

/**
 * The transactions in memory. Those that live are found by namespace and id, in two steps: an id comes off the wire as a
 * string that is hashed once, where a key put together of both would be copied and hashed for every command. Those that
 * ended wait for their checkpoint, many times as many, and hardly anybody asks for them: they stand in a list, which is
 * indexed when somebody does.
 */
export class Entries {
  readonly #living = new Map<Namespace, Map<TransactionId, Entry>>()
  #livingCount = 0
  #ended: Entry[] = []
  #gone = 0
  /** The first `#indexed` of the ended ones, once one was asked for. */
  #index: Map<TransactionKey, Entry> | undefined
  #indexed = 0

  get size(): number {
    return this.#livingCount + this.#ended.length - this.#gone
  }

  /** Whether calls, deliveries or check-backs of any are decided or under way. Looks at all that live. */
  get areUnderWay(): boolean {
    for (const byId of this.#living.values())
      for (const { busy, checking } of byId.values()) if (busy.length > 0 || checking) return true
    return false
  }

  get(namespace: Namespace, id: TransactionId): Entry | undefined {
    const living = this.#living.get(namespace)?.get(id)
    if (living !== undefined || this.#ended.length === 0) return living
    this.#indexEnded()
    return this.#index?.get(transactionKey(namespace, id))
  }

  #indexEnded(): void {
    const index = this.#index ?? new Map<TransactionKey, Entry>()
    this.#index = index
    for (; this.#indexed < this.#ended.length; this.#indexed++) {
      const entry = this.#ended[this.#indexed] as Entry
      if (!entry.isGone) index.set(entry.key, entry)
    }
  }

  of(key: TransactionKey): Entry | undefined {
    const { namespace, id } = transactionKeyParts(key)
    return this.get(namespace, id)
  }

  /** Adds one that isn't there. */
  add(entry: Entry): void {
    const { namespace, id } = entry
    let byId = this.#living.get(namespace)
    if (byId === undefined) {
      byId = new Map()
      this.#living.set(namespace, byId)
    }
    byId.set(id, entry)
    this.#livingCount += 1
  }

  /** One that lives has ended. */
  ended(entry: Entry): void {
    this.#leave(entry)
    this.#ended.push(entry)
  }

  #leave({ namespace, id }: Entry): void {
    if (this.#living.get(namespace)?.delete(id)) this.#livingCount -= 1
  }

  delete(entry: Entry): void {
    if (entry.packed === undefined) return this.#leave(entry)
    entry.isGone = true
    this.#gone += 1
    this.#index?.delete(entry.key)
    if (this.#gone < GONE_MAX || this.#gone * 2 < this.#ended.length) return
    this.#ended = this.#ended.filter(({ isGone }) => !isGone)
    this.#gone = 0
    this.#index = undefined
    this.#indexed = 0
  }

  *[Symbol.iterator](): Generator<Entry> {
    for (const byId of this.#living.values()) yield* byId.values()
    for (const entry of this.#ended) if (!entry.isGone) yield entry
  }
}
