/** What the services tell of their work (see `tell` in service.ts): what is in flight at each, and what is done. */
export class Ledger {
  /** The outcome of each order at the order desk. */
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
    if (outcome === 'placed' || outcome === 'refused') this.outcomes.set(id, outcome)
    if (outcome === 'done') this.#doneAt(service).add(id)
  }

  /** Takes that a process ended, after all that it had told: what was in flight is what it died with. */
  ended(service: string): void {
    this.#atDeath.set(service, new Set(this.#of(service).keys()))
    this.#of(service).clear()
  }

  /** How many orders a service has done its work for, each counted once. */
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
   * What certainly is in the coordinator's hands: half messages that it holds, as the local transaction has begun and
   * the order desk still waits for the end of it, and deliveries whose handlers are running.
   */
  heldByCoordinator(): ReadonlySet<string> {
    const found = new Set<string>()
    for (const [service, inFlight] of this.#inFlight) {
      for (const [id, phase] of inFlight) {
        if (service !== 'order-desk' || phase === 'held') found.add(`${service} ${id}`)
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
