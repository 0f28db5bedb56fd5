/** Time and turns that pass when the test says so. */
export class FakeRuntime {
  nowMs = 0
  #deferred: (() => void)[] = []
  #timers: { atMs: number; callback: () => void }[] = []

  monotonic(): number {
    return this.nowMs
  }

  defer(callback: () => void): void {
    this.#deferred.push(callback)
  }

  setTimer(callback: () => void, delayMs: number): () => void {
    const timer = { atMs: this.nowMs + delayMs, callback }
    this.#timers.push(timer)
    return () => {
      this.#timers = this.#timers.filter((each) => each !== timer)
    }
  }

  get timers(): number {
    return this.#timers.length
  }

  turn(): void {
    for (const callback of this.#deferred.splice(0)) callback()
  }

  pass(ms: number): void {
    const untilMs = this.nowMs + ms
    for (;;) {
      this.turn()
      const [next] = this.#timers.filter(({ atMs }) => atMs <= untilMs).sort((a, b) => a.atMs - b.atMs)
      if (next === undefined) break
      this.nowMs = next.atMs
      this.#timers = this.#timers.filter((each) => each !== next)
      next.callback()
    }
    this.nowMs = untilMs
    this.turn()
  }
}
