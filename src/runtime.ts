import { randomBytes } from 'node:crypto'
import type { Runtime } from './core/runtime.ts'

/** The real clock, randomness and scheduling. A timer keeps the process alive until it has called back or was taken back. */
export const systemRuntime: Runtime = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  random: () => Math.random(),
  randomBytes: (count) => randomBytes(count),
  setTimer(callback, delayMs) {
    const timer = setTimeout(callback, delayMs)
    return () => clearTimeout(timer)
  },
  defer(callback) {
    setImmediate(callback)
  },
}
