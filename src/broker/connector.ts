/**
 * One connection to a server at a time: made when it is first asked for, and again after it broke.
 *
 * | state    | `get`                                                   | leaves by                            |
 * |----------|---------------------------------------------------------|--------------------------------------|
 * | none     | begins to open one, after a pause if the last one failed | it is open; it can't be opened       |
 * | opening  | waits for it                                            | the same                             |
 * | open     | answers it at once                                      | it broke, or `drop`                  |
 * | closed   | rejects                                                 |                                      |
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { type Backoff, fullJitterMs } from '../core/backoff.ts'
import { EscrowError } from '../core/errors.ts'

/** What a connector needs of a connection. */
export interface Connection {
  /** False as soon as it is known to be broken. */
  readonly isOpen: boolean
  /** Ends it at once; whatever waits for an answer on it then rejects. May be repeated. */
  destroy(): void
}

const BACKOFF: Backoff = { delayMs: 50, delayMsMax: 2_000 }

/** Opens connections one after the other, with pauses that grow while that fails. */
export class Connector<C extends Connection> {
  readonly #kind: string
  readonly #open: () => Promise<C>
  readonly #closed = new AbortController()
  #connection: C | undefined
  #opening: Promise<C> | undefined
  #failures = 0

  /** `open` has a bound of its own, rejects with `EscrowError`s, and leaves nothing behind when it rejects. */
  constructor(kind: string, open: () => Promise<C>) {
    this.#kind = kind
    this.#open = open
  }

  /** The open connection, if there is one now. */
  get current(): C | undefined {
    return this.#connection?.isOpen ? this.#connection : undefined
  }

  /** Rejects as opening does, with `brokerUnavailable` after `signal` or once it is closed. */
  async get(signal: AbortSignal): Promise<C> {
    const { current } = this
    if (this.#closed.signal.aborted) throw this.#unavailable('closed')
    if (current !== undefined) return current
    this.#connection = undefined
    this.#opening ??= this.#openOne().finally(() => {
      this.#opening = undefined
    })
    return await within(this.#opening, signal, () => this.#unavailable('no connection in time'))
  }

  async #openOne(): Promise<C> {
    const { signal } = this.#closed
    if (this.#failures > 0) {
      const pauseMs = fullJitterMs(BACKOFF, this.#failures, Math.random())
      await sleep(pauseMs, undefined, { signal }).catch(() => {})
    }
    try {
      if (signal.aborted) throw this.#unavailable('closed')
      const connection = await this.#open()
      if (signal.aborted) {
        connection.destroy()
        throw this.#unavailable('closed')
      }
      this.#connection = connection
      this.#failures = 0
      return connection
    } catch (error) {
      this.#failures += 1
      throw error
    }
  }

  /** Ends a connection that isn't to be trusted any more; the next `get` opens another one. */
  drop(connection: C): void {
    if (this.#connection === connection) this.#connection = undefined
    connection.destroy()
  }

  /** Ends the connection, and lets nobody have another one. May be repeated. */
  close(): void {
    this.#closed.abort()
    this.#connection?.destroy()
    this.#connection = undefined
  }

  #unavailable(why: string): EscrowError {
    return new EscrowError('brokerUnavailable', `${this.#kind}: ${why}`)
  }
}

/** What a promise resolves to, unless `signal` comes first. What the promise does later is ignored. */
export async function within<T>(promise: Promise<T>, signal: AbortSignal, late: () => Error): Promise<T> {
  promise.catch(() => {})
  if (signal.aborted) throw late()
  let onAbort = (): void => {}
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(late())
    signal.addEventListener('abort', onAbort, { once: true })
  })
  try {
    return await Promise.race([promise, aborted])
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
