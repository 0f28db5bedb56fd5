/** The readers of one adapter. */
import type { Subscription } from './broker.ts'

/** What reads a topic, for one subscription. */
export interface Reader {
  /** Begins to read; rejects where that can't be. */
  start(signal: AbortSignal): Promise<void>
  /** As `Subscription.close`. */
  close(): Promise<void>
  /** Ends it without waiting for what is handled. May be repeated. */
  abandon(): Promise<void>
}

const START_MS_MAX = 10_000

/** Those that read now. */
export class Readers<R extends Reader> {
  readonly all = new Set<R>()

  /** Begins to read. Rejects as `R.start` does; nothing is left of it then. */
  async start(reader: R): Promise<Subscription> {
    this.all.add(reader)
    try {
      await reader.start(AbortSignal.timeout(START_MS_MAX))
    } catch (error) {
      this.all.delete(reader)
      await reader.abandon()
      throw error
    }
    return {
      close: async () => {
        await reader.close()
        this.all.delete(reader)
      },
    }
  }

  /** Ends all. */
  async abandon(): Promise<void> {
    await Promise.all([...this.all].map((reader) => reader.abandon()))
    this.all.clear()
  }
}
