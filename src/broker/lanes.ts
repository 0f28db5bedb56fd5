/**
 * Messages that a reader holds: several are handled at once, those of one key one after the other, each until its
 * handler has resolved. While it is not known what comes before them, they are set aside.
 *
 * | a key's lane | its first message                      | leaves by                                   |
 * |--------------|----------------------------------------|---------------------------------------------|
 * | ready        | waits for a free place                 | a place is free                             |
 * | running      | is being handled                       | handled: the next one, or the lane's end    |
 * | pausing      | was rejected, and takes no place       | the pause's end                             |
 */
import { type Backoff, boundMs } from '../core/backoff.ts'

const RETRY: Backoff = { delayMs: 100, delayMsMax: 5_000 }

interface Lane<Entry> {
  readonly key: unknown
  readonly entries: Entry[]
  /** Of the first entry. */
  attempt: number
  timer: NodeJS.Timeout | undefined
}

/** What becomes of the messages. */
export interface LanesOptions<Entry> {
  /** Handled at once. */
  readonly concurrencyMax: number
  /** Empty: in no order with any other. */
  keyOf(entry: Entry): string
  handle(entry: Entry): Promise<void>
  /** It has been handled; called in order within a key. */
  done(entry: Entry): void
  /** The order of what was set aside. */
  compare(one: Entry, other: Entry): number
}

/** The lanes of all keys of one reader. The one who adds bounds how many they hold. */
export class Lanes<Entry> {
  readonly #options: LanesOptions<Entry>
  readonly #lanes = new Map<unknown, Lane<Entry>>()
  readonly #ready: Lane<Entry>[] = []
  readonly #running = new Set<Promise<void>>()
  /** Undefined: they are handled. */
  #aside: Entry[] | undefined
  #isClosed = false

  constructor(options: LanesOptions<Entry>) {
    this.#options = options
  }

  /** What is added from now on is set aside, until `goOn`. */
  setAside(): void {
    this.#aside ??= []
  }

  goOn(): void {
    const aside = this.#aside ?? []
    this.#aside = undefined
    for (const entry of aside.sort(this.#options.compare)) this.add(entry)
  }

  add(entry: Entry): void {
    if (this.#aside !== undefined) {
      this.#aside.push(entry)
      return
    }
    const key = this.#options.keyOf(entry) || entry
    const lane = this.#lanes.get(key)
    if (lane !== undefined) {
      lane.entries.push(entry)
      return
    }
    const begun: Lane<Entry> = { key, entries: [entry], attempt: 1, timer: undefined }
    this.#lanes.set(key, begun)
    this.#ready.push(begun)
    this.#run()
  }

  /** Begins no further message, and waits for those that are being handled. */
  async close(): Promise<void> {
    this.#isClosed = true
    for (const { timer } of this.#lanes.values()) clearTimeout(timer)
    await Promise.all(this.#running)
  }

  #run(): void {
    while (!this.#isClosed && this.#running.size < this.#options.concurrencyMax) {
      const lane = this.#ready.shift()
      if (lane === undefined) return
      const running: Promise<void> = this.#handle(lane).finally(() => {
        this.#running.delete(running)
        this.#run()
      })
      this.#running.add(running)
    }
  }

  async #handle(lane: Lane<Entry>): Promise<void> {
    const entry = lane.entries[0] as Entry
    try {
      await this.#options.handle(entry)
    } catch {
      if (this.#isClosed) return
      lane.timer = setTimeout(
        () => {
          this.#ready.push(lane)
          this.#run()
        },
        boundMs(RETRY, lane.attempt),
      )
      lane.attempt += 1
      return
    }
    this.#options.done(entry)
    lane.entries.shift()
    lane.attempt = 1
    if (lane.entries.length > 0) this.#ready.push(lane)
    else this.#lanes.delete(lane.key)
  }
}
