import { EscrowError } from '../../core/errors.ts'
import { storeFailure } from './failures.ts'
import { Session, type SessionOptions } from './session.ts'

/** Uses that wait for a connection, at most. */
const WAITING_MAX = 10_000

interface Waiting {
  readonly resolve: (session: Session | undefined) => void
  readonly reject: (error: unknown) => void
}

const closedError = (): EscrowError => new EscrowError('storeUnavailable', 'the store is closed')

/** A few connections for one purpose, opened as they are needed, so that no purpose waits for another. */
export class Connections {
  readonly #options: SessionOptions
  readonly #max: number
  readonly #idle: Session[] = []
  readonly #waiting = new Set<Waiting>()
  #count = 0
  #isClosed = false
  #allGone: (() => void) | undefined

  /** `max`: connections at once. */
  constructor(options: SessionOptions, max: number) {
    this.#options = options
    this.#max = max
  }

  /**
   * Does some work on a connection that nobody else has meanwhile. Rejects with `storeUnavailable` (what became of it is
   * unknown) or `storeCorrupt`; `doing` says what. A connection must be free within the lease, and each statement be
   * answered within it; work of many statements may take longer, or what is large would be cut off and repeated for ever.
   */
  async use<T>(doing: string, work: (session: Session) => Promise<T>): Promise<T> {
    let session: Session | undefined
    try {
      session = await this.#take()
      return await work(session)
    } catch (error) {
      throw storeFailure(error, doing)
    } finally {
      if (session !== undefined) this.#give(session)
    }
  }

  /** Ends those that are idle; new ones are opened as they are needed. */
  async rest(): Promise<void> {
    await Promise.all(this.#idle.splice(0).map((session) => this.#end(session)))
  }

  /** Refuses new uses, and ends all once those under way are done. */
  async close(): Promise<void> {
    this.#isClosed = true
    for (const { reject } of this.#waiting) reject(closedError())
    this.#waiting.clear()
    const gone = new Promise<void>((resolve) => {
      this.#allGone = resolve
    })
    await this.rest()
    if (this.#count > 0) await gone
  }

  async #take(): Promise<Session> {
    if (this.#isClosed) throw closedError()
    for (let session = this.#idle.pop(); session !== undefined; session = this.#idle.pop()) {
      if (session.isUsable) return session
      this.#gone()
    }
    if (this.#count < this.#max) return await this.#open()
    if (this.#waiting.size >= WAITING_MAX)
      throw new EscrowError('storeUnavailable', `${WAITING_MAX} uses wait for a connection`)
    return (await this.#wait()) ?? (await this.#take())
  }

  /** Waits for one that somebody gives back; undefined when there is room for a new one. */
  async #wait(): Promise<Session | undefined> {
    const { leaseMs, setTimer } = this.#options
    const { promise, resolve, reject } = Promise.withResolvers<Session | undefined>()
    const waiting = { resolve, reject }
    this.#waiting.add(waiting)
    const cancel = setTimer(() => {
      this.#waiting.delete(waiting)
      reject(new Error(`no answer for ${leaseMs} ms: no connection was free`))
    }, leaseMs)
    return await promise.finally(cancel)
  }

  /** Takes out whoever has waited for longest. */
  #next(): Waiting | undefined {
    for (const waiting of this.#waiting) {
      this.#waiting.delete(waiting)
      return waiting
    }
    return undefined
  }

  async #open(): Promise<Session> {
    this.#count += 1
    try {
      return await Session.open(this.#options)
    } catch (error) {
      this.#gone()
      // What was in order when the store was opened may be again.
      if (error instanceof EscrowError && error.code === 'invalidArgument')
        throw new EscrowError('storeUnavailable', error.message, { cause: error })
      throw error
    }
  }

  #give(session: Session): void {
    if (this.#isClosed || !session.isUsable) {
      void this.#end(session)
      return
    }
    const next = this.#next()
    if (next === undefined) this.#idle.push(session)
    else next.resolve(session)
  }

  async #end(session: Session): Promise<void> {
    await session.end()
    this.#gone()
  }

  /** There is room for one more: whoever waits looks again. */
  #gone(): void {
    this.#count -= 1
    this.#next()?.resolve(undefined)
    if (this.#count === 0) this.#allGone?.()
  }
}
