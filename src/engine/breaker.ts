/**
 * A circuit breaker: spares who is in trouble what would fail anyway, and those who wait an attempt that would be lost.
 *
 * | state    | lets pass  | leaves by                                                           |
 * |----------|------------|---------------------------------------------------------------------|
 * | closed   | all        | `failuresMax` failures in a row → open                               |
 * | open     | nothing    | its pause is over → half open                                        |
 * | halfOpen | one        | a success → closed; a failure → open, for up to twice as long        |
 *
 * Source: Michael Nygard, Release It! (2007), "Circuit Breaker".
 */
import { type Backoff, boundMs } from '../core/backoff.ts'
import type { Runtime } from '../core/runtime.ts'

/** How a breaker behaves, and whom it tells. */
export interface BreakerOptions {
  readonly runtime: Runtime
  readonly failuresMax: number
  /** How long it stays open, doubled each time up to the bound; with jitter, never less than half. */
  readonly pause: Backoff
  /** It has opened; `pauseMs` until it lets one pass. Told once, and again only after it was closed. */
  readonly opened: (error: string, pauseMs: number) => void
  readonly closed: () => void
  /** It lets pass more than before. */
  readonly room: () => void
}

/** One circuit. */
export class Breaker {
  readonly #options: BreakerOptions
  #state: 'closed' | 'open' | 'halfOpen' = 'closed'
  /** In a row, while it is closed. */
  #failures = 0
  /** How often it has opened since it was closed last. */
  #openings = 0
  #cancel = (): void => {}

  constructor(options: BreakerOptions) {
    this.#options = options
  }

  /** How many may be under way at once. Hot. */
  get passing(): number {
    return this.#state === 'closed' ? Number.POSITIVE_INFINITY : this.#state === 'halfOpen' ? 1 : 0
  }

  succeeded(): void {
    this.#failures = 0
    // What was under way when it opened may still succeed: that is as good as a trial.
    if (this.#state === 'closed') return
    this.#cancel()
    this.#state = 'closed'
    this.#openings = 0
    this.#options.closed()
    this.#options.room()
  }

  failed(error: string): void {
    if (this.#state === 'open') return
    this.#failures += 1
    if (this.#state === 'closed' && this.#failures < this.#options.failuresMax) return
    const { runtime, pause, opened, room } = this.#options
    this.#state = 'open'
    this.#failures = 0
    this.#openings += 1
    const pauseMs = Math.ceil(boundMs(pause, this.#openings) * (0.5 + runtime.random() / 2))
    this.#cancel = runtime.setTimer(() => {
      this.#state = 'halfOpen'
      room()
    }, pauseMs)
    if (this.#openings === 1) opened(error, pauseMs)
  }

  /** Ends its timer. */
  close(): void {
    this.#cancel()
  }
}
