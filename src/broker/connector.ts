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
import type { BrokerMessage, PublishOutcome } from './broker.ts'
import { within } from './within.ts'

/** What a connector needs of a connection. */
export interface Connection {
  /** False as soon as it is known to be broken. */
  readonly isOpen: boolean
  /** Ends it at once; whatever waits for an answer on it then rejects. May be repeated. */
  destroy(): void
}

/** Publishes on a connection that it is given. */
export interface Publisher<C extends Connection> {
  /** As `Broker.publish`. Once `signal` is aborted, the connection has ended. */
  publish(
    connection: C,
    batch: readonly BrokerMessage[],
    signal: AbortSignal,
  ): Promise<readonly PublishOutcome[]>
}

const BACKOFF: Backoff = { delayMs: 50, delayMsMax: 2_000 }
const PAUSE_MS = 200

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

  /** What a connection answers, or `errorOf` what was thrown; where nothing comes before `signal`, the connection is dropped. */
  async answer<T>(
    connection: C,
    answer: Promise<T>,
    signal: AbortSignal,
    errorOf: (thrown: unknown) => EscrowError,
  ): Promise<T> {
    try {
      return await within(answer, signal, () => this.#unavailable('no answer in time'))
    } catch (thrown) {
      // Answers may come in order: behind one that is missing, no other comes.
      if (signal.aborted) this.drop(connection)
      throw errorOf(thrown)
    }
  }

  /** As `Broker.publish`. */
  async publish(
    publisher: Publisher<C>,
    batch: readonly BrokerMessage[],
    signal: AbortSignal,
  ): Promise<readonly PublishOutcome[]> {
    let connection: C
    try {
      connection = await this.get(signal)
    } catch (thrown) {
      const error = EscrowError.from(thrown).message
      return batch.map(() => ({ outcome: 'unreachable', error }))
    }
    // What is still to be written must not be written any more once it is said to have failed.
    const stop = (): void => this.drop(connection)
    signal.addEventListener('abort', stop, { once: true })
    if (signal.aborted) stop()
    try {
      return await publisher.publish(connection, batch, signal)
    } finally {
      signal.removeEventListener('abort', stop)
    }
  }

  /** Reads on one connection after the other, until `signal`: one on which `read` rejects is dropped. */
  async readUntil(signal: AbortSignal, read: (connection: C) => Promise<void>): Promise<void> {
    while (!signal.aborted) {
      try {
        const connection = await this.get(signal)
        await read(connection).catch((error) => {
          // At its end a reader still gives back what it holds.
          if (!signal.aborted) this.drop(connection)
          throw error
        })
      } catch {
        await sleep(PAUSE_MS, undefined, { signal }).catch(() => {})
      }
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
