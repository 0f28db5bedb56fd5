import type { Runtime } from '../../src/core/runtime.ts'

interface Timer {
  readonly atMs: number
  readonly order: number
  readonly callback: () => void
}

/** A number from a seed, and the next one: mulberry32. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Time that passes only when a test lets it, and randomness from a seed. */
export class FakeRuntime implements Runtime {
  wallMs = Date.UTC(2026, 0, 1)
  #monotonicMs = 5_000
  readonly #timers = new Set<Timer>()
  #deferred: (() => void)[] = []
  #order = 0
  readonly random: () => number

  constructor(seed = 1) {
    this.random = seeded(seed)
  }

  now(): number {
    return this.wallMs
  }

  monotonic(): number {
    return this.#monotonicMs
  }

  randomBytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => Math.floor(this.random() * 256))
  }

  setTimer(callback: () => void, delayMs: number): () => void {
    this.#order += 1
    const timer: Timer = { atMs: this.#monotonicMs + Math.max(1, delayMs), order: this.#order, callback }
    this.#timers.add(timer)
    return () => this.#timers.delete(timer)
  }

  defer(callback: () => void): void {
    this.#deferred.push(callback)
  }

  /** Runs all that can happen without time passing. */
  async settle(): Promise<void> {
    do {
      for (const callback of this.#deferred.splice(0)) callback()
      // Every promise that can resolve does so before this callback.
      await new Promise<void>((resolve) => setImmediate(resolve))
    } while (this.#deferred.length > 0)
  }

  /** Lets time pass, timer by timer. */
  async advance(ms: number): Promise<void> {
    await this.settle()
    const untilMs = this.#monotonicMs + ms
    for (;;) {
      let next: Timer | undefined
      for (const timer of this.#timers) {
        if (timer.atMs > untilMs) continue
        if (
          next === undefined ||
          timer.atMs < next.atMs ||
          (timer.atMs === next.atMs && timer.order < next.order)
        ) {
          next = timer
        }
      }
      if (next === undefined) break
      this.#timers.delete(next)
      this.#pass(next.atMs)
      next.callback()
      await this.settle()
    }
    this.#pass(untilMs)
  }

  #pass(monotonicMs: number): void {
    this.wallMs += monotonicMs - this.#monotonicMs
    this.#monotonicMs = monotonicMs
  }

  /** Lets time pass until something is so; throws when it isn't within `ms`. */
  async until(condition: () => boolean, ms = 600_000): Promise<void> {
    for (let passedMs = 0; !condition(); passedMs += 20) {
      if (passedMs > ms) throw new Error(`not so within ${ms} ms: ${condition}`)
      await this.advance(20)
    }
  }

  /** One process on this machine: when it is killed, nothing that it planned happens any more; while it is frozen, nothing happens yet. */
  process(): FakeProcess {
    let killed = false
    let frozen: (() => void)[] | undefined
    const kill = (): void => {
      killed = true
    }
    const freeze = (): (() => void) => {
      const held: (() => void)[] = []
      frozen = held
      return () => {
        frozen = undefined
        for (const callback of held) this.defer(callback)
      }
    }
    const alive = (callback: () => void) => () => {
      if (killed) return
      if (frozen === undefined) callback()
      else frozen.push(alive(callback))
    }
    const runtime: Runtime = {
      now: () => this.now(),
      monotonic: () => this.monotonic(),
      random: () => this.random(),
      randomBytes: (count) => this.randomBytes(count),
      setTimer: (callback, delayMs) => this.setTimer(alive(callback), delayMs),
      defer: (callback) => this.defer(alive(callback)),
    }
    const awake = async (): Promise<void> => {
      if (killed) await new Promise<never>(() => {})
      if (frozen !== undefined) await new Promise<void>((resolve) => frozen?.push(alive(resolve)))
    }
    return { runtime, isKilled: () => killed, kill, freeze, awake }
  }
}

/** A process, as a test sees it. */
export interface FakeProcess {
  readonly runtime: Runtime
  readonly isKilled: () => boolean
  readonly kill: () => void
  /** Stops it as by SIGSTOP; what this returns lets it go on. */
  readonly freeze: () => () => void
  /** Resolves when it runs: never once it is killed. */
  readonly awake: () => Promise<void>
}
