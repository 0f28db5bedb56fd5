import { setTimeout as sleep } from 'node:timers/promises'

const pollMs = 20

/**
 * Waits until `look` answers something other than undefined and false, and answers that. What `look` throws counts as
 * "not yet", and is told when the time is over. No test sleeps for a result: it waits for one, with a bound.
 */
export async function until<T>(
  what: string,
  look: () => T | undefined | false | Promise<T | undefined | false>,
  timeoutMs = 45_000,
): Promise<T> {
  const deadline = performance.now() + timeoutMs
  let last: unknown
  for (;;) {
    try {
      const found = await look()
      if (found !== undefined && found !== false) return found
      last = undefined
    } catch (error) {
      last = error
    }
    if (performance.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`, { cause: last })
    await sleep(pollMs)
  }
}
