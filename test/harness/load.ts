/**
 * A service in this process that keeps a coordinator busy and knows what must come of it: of each transaction it decides
 * how the local one ends, tells that or keeps silent, and notes what is delivered. `settle` holds the result to the rules.
 */
import { expect } from 'vitest'
import {
  type ConnectOptions,
  connect,
  type EscrowError,
  type Session,
  type TransactionStatus,
} from '../../src/index.ts'
import { until } from './until.ts'

/** What may be changed about the load. */
export interface LoadOptions {
  readonly target: string
  readonly random: () => number
  /** Transactions at once. Default 32. */
  readonly inFlight?: number
  /** Of the session. */
  readonly session?: Partial<ConnectOptions>
}

type Ending = 'commit' | 'rollback'

const settleMsMax = 60_000
/** A silent one is asked about so soon. */
const checkBack = { delayMs: 150, delayMsMax: 300, checksMax: 1_000 }
const retry = { delayMs: 20, delayMsMax: 200, attemptsMax: 1_000, attemptTimeoutMs: 3_000 }

export class Load {
  readonly #options: LoadOptions
  readonly #session: Session
  /** How the local transaction of each id ended; what the checker answers from. */
  readonly #endings = new Map<string, Ending>()
  readonly #brought = new Map<string, number>()
  /** Requests that ended in an error, by its code: a client of a coordinator that restarts should see none. */
  readonly errors: EscrowError[] = []
  #lanes: Promise<void>[] = []
  #isStopping = false
  #count = 0
  #acknowledged = 0

  private constructor(options: LoadOptions, session: Session) {
    this.#options = options
    this.#session = session
  }

  /** Connects and registers; the load begins with `begin`. */
  static async connect(options: LoadOptions): Promise<Load> {
    const session = await connect(options.target, { service: 'load', closeTimeoutMs: 0, ...options.session })
    const load = new Load(options, session)
    await session.registerChecker(
      'load',
      ({ transactionId }) => load.#endings.get(transactionId) ?? 'unknown',
    )
    await session.registerHandlers({
      take: ({ transactionId, attempt }) => load.#take(transactionId, attempt),
    })
    return load
  }

  /** Transactions of which something was acknowledged. */
  get acknowledged(): number {
    return this.#acknowledged
  }

  get session(): Session {
    return this.#session
  }

  #take(id: string, attempt: number): void {
    this.#brought.set(id, (this.#brought.get(id) ?? 0) + 1)
    // Some fail once, so that attempts under way and to come are there at any moment.
    if (attempt === 1 && this.#options.random() < 0.1) throw new Error('not now')
  }

  begin(): void {
    this.#lanes = Array.from({ length: this.#options.inFlight ?? 32 }, () => this.#lane())
  }

  async #lane(): Promise<void> {
    while (!this.#isStopping) {
      const before = this.errors.length
      await this.#one().catch((error) => this.errors.push(error))
      // After an error there is a pause, so that an outage isn't one long loop.
      if (this.errors.length > before) await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }

  async #one(): Promise<void> {
    const { random } = this.#options
    const id = `load-${++this.#count}`
    const messages = [{ destination: 'load/take', body: Buffer.from(id) }]
    await this.#session.prepare({ id, checker: 'load', messages, checkBack, retry })
    this.#acknowledged += 1
    const ending: Ending = random() < 0.8 ? 'commit' : 'rollback'
    this.#endings.set(id, ending)
    // Whoever keeps silent leaves it to the check-back.
    if (random() < 0.2) return
    await this.#session[ending]({ id })
  }

  /** Begins nothing new, and waits until every request is answered. */
  async stop(): Promise<void> {
    this.#isStopping = true
    await Promise.all(this.#lanes)
  }

  /** Waits until every transaction has ended, and holds the result to the rules. Answers how many there were. */
  async settle(): Promise<number> {
    await this.stop()
    const statuses = new Map<string, TransactionStatus>()
    await until(
      'every transaction has ended',
      async () => {
        for (const id of this.#endings.keys()) {
          if (['delivered', 'rolledBack'].includes(statuses.get(id) ?? '')) continue
          const { status } = await this.#session.get({ id })
          statuses.set(id, status)
          if (status !== 'delivered' && status !== 'rolledBack') return false
        }
        return true
      },
      settleMsMax,
    )
    const wrong: string[] = []
    for (const [id, ending] of this.#endings) {
      const brought = this.#brought.get(id) ?? 0
      const isRight = ending === 'commit' ? brought > 0 : brought === 0
      const status = statuses.get(id)
      if (!isRight || status !== (ending === 'commit' ? 'delivered' : 'rolledBack'))
        wrong.push(`${id}: ${ending}, now ${status}, brought ${brought} times`)
    }
    // What was brought belongs to a transaction whose local one has committed, and to nothing else.
    for (const id of this.#brought.keys())
      if (!this.#endings.has(id)) wrong.push(`${id}: brought, never committed`)
    expect(wrong).toEqual([])
    return this.#endings.size
  }

  async close(): Promise<void> {
    this.#isStopping = true
    await this.#session.close()
  }
}
