/** Why requests may not be answered: told to an operator when it begins and when it ends, and to whoever asks for health. */
export class Degradation {
  readonly #log: (level: 'info' | 'warn', message: string) => void
  #reason = ''
  /** By log: the store doesn't answer it. */
  readonly #failing = new Map<number, string>()

  constructor(log: (level: 'info' | 'warn', message: string) => void) {
    this.#log = log
  }

  /** Empty while all is well. */
  get reason(): string {
    return this.#reason
  }

  /** All logs at once: a reason, or empty where they are well again. */
  of(reason: string): void {
    if (reason !== '' && this.#reason === '') this.#log('warn', `the store is away: ${reason}`)
    if (reason === '' && this.#reason !== '') this.#log('info', 'the store is back')
    this.#reason = reason
  }

  /** One log, by its number. */
  ofLog(log: number, reason: string): void {
    if (reason === '') this.#failing.delete(log)
    else this.#failing.set(log, reason)
    const [first = ''] = this.#failing.values()
    this.of(first)
  }

  /** The logs have begun anew. */
  forget(): void {
    this.#failing.clear()
  }
}
