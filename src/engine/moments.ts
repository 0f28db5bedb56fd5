import type { Runtime } from '../core/runtime.ts'
import type { LogClock } from '../store/log.ts'

/**
 * The clock of one log. Its wall time never goes back: where the machine's is behind, it advances by monotonic time. Log
 * time runs with it, but stands still from the last stored heartbeat to the claim that follows, so that an outage makes
 * nothing late.
 */
export class LogTime {
  readonly #runtime: Runtime
  #exactWallMs: number
  #monotonicMs: number
  /** Wall time less log time: how long nobody ran the log, all told. */
  readonly #outagesMs: number

  constructor(runtime: Runtime, lastStored: LogClock) {
    this.#runtime = runtime
    this.#exactWallMs = Math.max(runtime.now(), lastStored.wallMs)
    this.#monotonicMs = runtime.monotonic()
    this.#outagesMs = lastStored.wallMs === 0 ? 0 : Math.floor(this.#exactWallMs) - lastStored.logMs
  }

  /** Reads both clocks, in whole milliseconds. */
  read(): LogClock {
    const monotonicMs = this.#runtime.monotonic()
    const nowMs = this.#runtime.now()
    const advancedMs = this.#exactWallMs + Math.max(0, monotonicMs - this.#monotonicMs)
    this.#exactWallMs =
      nowMs >= Math.floor(this.#exactWallMs) ? Math.max(nowMs, this.#exactWallMs) : advancedMs
    this.#monotonicMs = monotonicMs
    const wallMs = Math.floor(this.#exactWallMs)
    return { wallMs, logMs: wallMs - this.#outagesMs }
  }
}
