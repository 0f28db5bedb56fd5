import type { EscrowError } from '../core/errors.ts'

/** What the store may fail at; each is told apart, so that one that works doesn't hide another that fails. */
type Failing = 'append' | 'load' | 'checkpoint' | 'due'

/** What of the store doesn't answer one log at the moment. */
export class Failures {
  readonly #reasons = new Map<Failing, string>()
  readonly #onDegraded: (reason: string) => void
  readonly #stop: (error: EscrowError) => void
  readonly #isStopped: () => boolean

  /** `onDegraded` is told the first reason, or that there is none (empty); `stop` what waiting doesn't help against. */
  constructor(
    onDegraded: (reason: string) => void,
    stop: (error: EscrowError) => void,
    isStopped: () => boolean,
  ) {
    this.#onDegraded = onDegraded
    this.#stop = stop
    this.#isStopped = isStopped
  }

  /** Takes the outcomes of one kind of call: an error, or (undefined) that it works. */
  of(what: Failing): (error: EscrowError | undefined) => void {
    return (error) => {
      // A call of the old store may end after another one was opened.
      if (this.#isStopped()) return
      if (error !== undefined && error.code !== 'storeUnavailable') {
        this.#stop(error)
        return
      }
      if (error !== undefined) this.#reasons.set(what, error.message)
      else if (!this.#reasons.delete(what)) return
      const [reason = ''] = this.#reasons.values()
      this.#onDegraded(reason)
    }
  }
}
