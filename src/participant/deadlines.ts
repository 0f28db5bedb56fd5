import type { Runtime } from '../core/runtime.ts'

/** Two sweeps are at least so far apart: many deadlines that lie close together cost one. */
const SWEEP_MS_MIN = 10

/**
 * One timer for many deadlines. `expect` costs a comparison, and finishing early costs nothing: when the earliest deadline
 * that was expected has come, `sweep` looks at what is still there and answers the next one (`Infinity` for none).
 */
export class Deadlines {
  readonly #runtime: Runtime
  readonly #sweep: (now: number) => number
  #armedFor = Number.POSITIVE_INFINITY
  #cancel: (() => void) | undefined

  constructor(runtime: Runtime, sweep: (now: number) => number) {
    this.#runtime = runtime
    this.#sweep = sweep
  }

  /** Makes sure that a sweep comes at this moment of the monotonic clock, or a little later. */
  expect(deadline: number): void {
    if (deadline >= this.#armedFor) return
    this.#cancel?.()
    this.#armedFor = deadline
    const delayMs = Math.max(SWEEP_MS_MIN, Math.ceil(deadline - this.#runtime.monotonic()))
    this.#cancel = this.#runtime.setTimer(() => this.#fire(), Math.min(delayMs, 2 ** 31 - 1))
  }

  #fire(): void {
    this.#cancel = undefined
    this.#armedFor = Number.POSITIVE_INFINITY
    this.expect(this.#sweep(this.#runtime.monotonic()))
  }

  stop(): void {
    this.#cancel?.()
    this.#cancel = undefined
    this.#armedFor = Number.POSITIVE_INFINITY
  }
}
