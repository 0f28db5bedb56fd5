import type { SagaHead } from '../core/saga/image.ts'
import type { StepPolicy } from '../core/saga/program.ts'

interface Use {
  running: number
  /** Calls that may start now, and when that was so, by log time. */
  tokens: number
  atMs: number
}

/** The limits that definitions set to their steps, counted for each step of each definition in one log. */
export class StepLimits {
  readonly #uses = new Map<string, Use>()

  /** No step that was asked about has a limit. */
  get isUnused(): boolean {
    return this.#uses.size === 0
  }

  /** Whether one more call of a step may start. */
  mayStart(head: SagaHead, policy: StepPolicy, logMs: number): boolean {
    const { concurrencyMax, ratePerSecond } = policy
    if (concurrencyMax === 0 && ratePerSecond === 0) return true
    const use = this.#use(head, policy, logMs)
    if (ratePerSecond > 0) {
      // A second's worth may start at once.
      use.tokens = Math.min(
        Math.max(1, ratePerSecond),
        use.tokens + ((logMs - use.atMs) / 1_000) * ratePerSecond,
      )
      use.atMs = logMs
      if (use.tokens < 1) return false
    }
    return concurrencyMax === 0 || use.running < concurrencyMax
  }

  /** A call is decided. */
  started(head: SagaHead, policy: StepPolicy): void {
    const use = this.#uses.get(nameOf(head, policy))
    if (use === undefined) return
    use.running += 1
    use.tokens -= 1
  }

  /** A call has its outcome. */
  ended(head: SagaHead, policy: StepPolicy): void {
    const use = this.#uses.get(nameOf(head, policy))
    if (use !== undefined) use.running -= 1
  }

  #use(head: SagaHead, policy: StepPolicy, logMs: number): Use {
    const name = nameOf(head, policy)
    const known = this.#uses.get(name)
    if (known !== undefined) return known
    const use: Use = { running: 0, tokens: Math.max(1, policy.ratePerSecond), atMs: logMs }
    this.#uses.set(name, use)
    return use
  }
}

const nameOf = ({ namespace, saga, version }: SagaHead, { step }: StepPolicy): string =>
  `${namespace} ${saga} ${version} ${step}`
