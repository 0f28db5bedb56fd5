const outcomes: ReadonlySet<string> = new Set(['completed', 'compensated', 'parked'])

/** What the services tell of their work (see `tell` in service.ts): what is in flight at each, and what is done. */
export class Ledger {
  /** The outcome of each order at the order desk: completed, compensated, or parked. */
  readonly outcomes = new Map<string, string>()
  /** Each order of the input has its outcome. */
  finished = false
  readonly #done = new Map<string, Set<string>>()
  readonly #inFlight = new Map<string, Map<string, 'begun' | 'held'>>()
  readonly #atDeath = new Map<string, ReadonlySet<string>>()

  /** Takes what a service told. */
  report(service: string, [what, id = '', outcome = '']: readonly string[]): void {
    const inFlight = this.#of(service)
    if (what === 'begin') inFlight.set(id, 'begun')
    if (what === 'hold') inFlight.set(id, 'held')
    if (what === 'finished') this.finished = true
    if (what !== 'end') return
    inFlight.delete(id)
    if (outcomes.has(outcome)) this.outcomes.set(id, outcome)
    if (outcome === 'done' || outcome === 'refused') this.#doneAt(service).add(id)
  }

  /** Takes that a process ended, after all that it had told: what was in flight is what it died with. */
  ended(service: string): void {
    this.#atDeath.set(service, new Set(this.#of(service).keys()))
    this.#of(service).clear()
  }

  /** How many pieces of work a service has done or refused, each counted once. */
  done(service: string): number {
    return this.#doneAt(service).size
  }

  /** How many pieces of work are in flight at a service. */
  inFlight(service: string): number {
    return this.#of(service).size
  }

  /** What a service's last process died with. */
  atDeath(service: string): ReadonlySet<string> {
    return this.#atDeath.get(service) ?? new Set()
  }

  /**
   * What certainly is in the coordinator's hands: sagas whose end the order desk waits for, and the steps and deliveries
   * that are running.
   */
  heldByCoordinator(): ReadonlySet<string> {
    const found = new Set<string>()
    for (const [service, inFlight] of this.#inFlight) {
      for (const [id, phase] of inFlight) {
        // An order alone, without a step, is one that the order desk is about to start.
        if (phase === 'held' || id.includes('/')) found.add(`${service} ${id}`)
      }
    }
    return found
  }

  #of(service: string): Map<string, 'begun' | 'held'> {
    const found = this.#inFlight.get(service) ?? new Map<string, 'begun' | 'held'>()
    this.#inFlight.set(service, found)
    return found
  }

  #doneAt(service: string): Set<string> {
    const found = this.#done.get(service) ?? new Set<string>()
    this.#done.set(service, found)
    return found
  }
}
