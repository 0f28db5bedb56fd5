/** Hears what publishers and readers notify of: `m` and a topic's number, `g` and a group's. Readers look by themselves besides. */
import { fullJitterMs } from '../../core/backoff.ts'
import type { Connections } from './connections.ts'

/** Who is told. */
export interface Hearer {
  /** Undefined: of any topic, as something may not have been heard. */
  onMessages(topic: number | undefined): void
  onReaders(group: number): void
}

const RECONNECT = { delayMs: 100, delayMsMax: 5_000 }

/** Listens on a connection of its own, and connects again when that is lost. */
export class Listener {
  readonly #connections: Connections
  readonly #channel: string
  readonly #hearers: ReadonlySet<Hearer>
  #end: () => void = () => {}
  #timer: NodeJS.Timeout | undefined
  #failures = 0
  #isListening = false

  constructor(connections: Connections, channel: string, hearers: ReadonlySet<Hearer>) {
    this.#connections = connections
    this.#channel = channel
    this.#hearers = hearers
  }

  /** Begins, unless it has. */
  start(): void {
    if (this.#isListening) return
    this.#isListening = true
    void this.#connect()
  }

  stop(): void {
    this.#isListening = false
    clearTimeout(this.#timer)
    this.#end()
  }

  async #connect(): Promise<void> {
    try {
      const end = await this.#connections.listen(this.#channel, {
        message: (payload) => this.#hear(payload),
        end: () => this.#again(),
      })
      if (!this.#isListening) return end()
      this.#end = end
      this.#failures = 0
      for (const hearer of this.#hearers) hearer.onMessages(undefined)
    } catch {
      this.#again()
    }
  }

  #again(): void {
    clearTimeout(this.#timer)
    if (!this.#isListening || this.#connections.closed.aborted) return
    this.#failures += 1
    const pause = 20 + fullJitterMs(RECONNECT, this.#failures, Math.random())
    this.#timer = setTimeout(() => void this.#connect(), pause).unref()
  }

  #hear(payload: string): void {
    const number = Number(payload.slice(1))
    for (const hearer of this.#hearers) {
      if (payload.startsWith('m')) hearer.onMessages(number)
      else if (payload.startsWith('g')) hearer.onReaders(number)
    }
  }
}
