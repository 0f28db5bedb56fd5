/** Waiting with a bound. */
import { EscrowError } from '../core/errors.ts'

/** What a promise resolves to, unless `signal` comes first. What the promise does later is ignored. */
export async function within<T>(promise: Promise<T>, signal: AbortSignal, late: () => Error): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>()
  const onAbort = (): void => reject(late())
  signal.addEventListener('abort', onAbort, { once: true })
  if (signal.aborted) onAbort()
  try {
    return await Promise.race([aborted, promise])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

const ANSWER_MS_MAX = 10_000
const END_MS_MAX = 2_000

/** An answer of the server, or `brokerUnavailable` after so many milliseconds. */
export async function answered<T>(kind: string, answer: Promise<T>, ms = ANSWER_MS_MAX): Promise<T> {
  const late = () => new EscrowError('brokerUnavailable', `${kind}: no answer within ${ms} ms`)
  return await within(answer, AbortSignal.timeout(ms), late)
}

/** Waits, for two seconds at most, for what may also be left undone. */
export async function briefly(promise: Promise<unknown> | undefined): Promise<void> {
  await answered('', Promise.resolve(promise), END_MS_MAX).catch(() => {})
}
