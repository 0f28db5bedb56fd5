import type { Entry } from './entry.ts'

interface Alarm {
  readonly atMs: number
  readonly entry: Entry
}

/**
 * The entries that must be looked at soon, by log time: a binary heap. Only what is due before the horizon stands here;
 * the store's due index holds the rest. An alarm that was moved stays behind and is passed over when its time comes.
 */
export class Alarms {
  readonly #heap: Alarm[] = []

  get size(): number {
    return this.#heap.length
  }

  /** When the next one is due; undefined when there is none. */
  get nextAtMs(): number | undefined {
    return this.#heap[0]?.atMs
  }

  set(entry: Entry, atMs: number): void {
    if (entry.alarmAtMs !== 0 && entry.alarmAtMs <= atMs) return
    entry.alarmAtMs = atMs
    const heap = this.#heap
    let at = heap.push({ atMs, entry }) - 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      if ((heap[parent] as Alarm).atMs <= atMs) break
      this.#swap(at, parent)
      at = parent
    }
  }

  /** Takes out the next entry that is due; undefined when none is. */
  take(logMs: number): Entry | undefined {
    for (;;) {
      const top = this.#heap[0]
      if (top === undefined || top.atMs > logMs) return undefined
      this.#pop()
      if (top.entry.alarmAtMs !== top.atMs) continue
      top.entry.alarmAtMs = 0
      return top.entry
    }
  }

  #pop(): void {
    const heap = this.#heap
    const last = heap.pop() as Alarm
    if (heap.length === 0) return
    heap[0] = last
    let at = 0
    for (;;) {
      const left = 2 * at + 1
      if (left >= heap.length) return
      const right = left + 1
      const child =
        right < heap.length && (heap[right] as Alarm).atMs < (heap[left] as Alarm).atMs ? right : left
      if ((heap[child] as Alarm).atMs >= last.atMs) return
      this.#swap(at, child)
      at = child
    }
  }

  #swap(one: number, other: number): void {
    const kept = this.#heap[one] as Alarm
    this.#heap[one] = this.#heap[other] as Alarm
    this.#heap[other] = kept
  }
}
