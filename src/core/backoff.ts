/** Exponential backoff with full jitter and a cap. */
export interface Backoff {
  /** The pause before the second attempt, at most; milliseconds. */
  readonly delayMs: number
  /** The longest pause; milliseconds. */
  readonly delayMsMax: number
}

/**
 * The pause after `attempt` (from 1) has failed: uniform between 0 and the exponential bound. `random` is in [0, 1).
 * Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter").
 */
export function fullJitterMs(backoff: Backoff, attempt: number, random: number): number {
  return Math.floor(boundMs(backoff, attempt) * random)
}

/** The exponential bound itself: the pause of a schedule that should not crowd together near 0, such as check-backs. */
export function boundMs(backoff: Backoff, attempt: number): number {
  // 2^53 is the last exact power; the cap is far below it.
  return Math.min(backoff.delayMsMax, backoff.delayMs * 2 ** Math.min(attempt - 1, 52))
}
