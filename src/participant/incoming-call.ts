import type { EscrowError } from '../core/errors.ts'

/** Whatever the coordinator asked for, while it is worked on: its time may pass meanwhile. */
export class IncomingCall {
  // Made when it is asked for: most handlers never look at it.
  #abort: AbortController | undefined
  #expired: EscrowError | undefined

  get signal(): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController()
      if (this.#expired !== undefined) this.#abort.abort(this.#expired)
    }
    return this.#abort.signal
  }

  /** Nobody waits for its answer any more. */
  expire(reason: EscrowError): void {
    this.#expired = reason
    this.#abort?.abort(reason)
  }
}
