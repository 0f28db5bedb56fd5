/** Clock, randomness and scheduling: given as an argument wherever a simulation must reach. */
export interface Runtime {
  /** Wall clock: milliseconds since the Unix epoch. May go back. */
  now(): number
  /** Milliseconds since some fixed moment; never goes back. */
  monotonic(): number
  /** Uniform in [0, 1). */
  random(): number
  /** Unpredictable bytes. */
  randomBytes(count: number): Uint8Array
  /** Calls back once after `delayMs`; the function that it returns takes that back. */
  setTimer(callback: () => void, delayMs: number): () => void
  /** Calls back once, after what this event-loop turn still brings. */
  defer(callback: () => void): void
}
