/** One connection to the server, set up so that what the store rests on holds, whatever the role's or the server's defaults are. */
import pg from 'pg'
import { EscrowError } from '../../core/errors.ts'
import {
  checkServer,
  clientConfig,
  END_MS_MAX,
  type Row,
  SETUP_COLUMNS,
  type Statement,
} from '../../core/postgres-session.ts'
import type { PostgresUrl } from '../../core/postgres-url.ts'
import type { Runtime } from '../../core/runtime.ts'

/** How sessions are opened. */
export interface SessionOptions {
  readonly url: PostgresUrl
  readonly schema: string
  /** The shortest lease among the nodes that share the store, milliseconds. */
  readonly leaseMs: number
  readonly setTimer: Runtime['setTimer']
  /** Whether a statement may take as long as it does, as a migration's. Default false: silence for a lease ends the session. */
  readonly isPatient?: boolean
  /** Whether each statement is planned for the values that it has, rather than once and for all. Default false. */
  readonly plansAnew?: boolean
}

/** What a parameter may be: a Buffer goes as binary, all else as text. */
export type Parameter = string | number | boolean | Uint8Array | null

/** Every time-out below the lease, so that a node which stops in the middle is gone when another takes over. */
const SETTINGS = `select ${SETUP_COLUMNS}, set_config('search_path', $1, false),
  set_config('synchronous_commit', 'on', false), set_config('statement_timeout', $2, false),
  set_config('lock_timeout', $3, false), set_config('idle_in_transaction_session_timeout', $3, false),
  set_config('extra_float_digits', '1', false), set_config('plan_cache_mode', $4, false), current_setting('fsync')`

/** How long a statement, a lock and an idle transaction may take, as parts of the lease. */
const STATEMENT_SHARE = 0.8
const LOCK_SHARE = 0.4

/** One connection. */
export class Session {
  readonly #options: SessionOptions
  readonly #client: pg.Client
  #isBroken = false
  #isSilent = false
  #warning: Error | undefined
  /** The server's process, as `pg_stat_activity` has it. */
  pid = 0

  private constructor(options: SessionOptions) {
    this.#options = options
    this.#client = new pg.Client(clientConfig(options.url, 'escrow'))
    // Without a listener the loss of an idle connection would end the process.
    this.#client.on('error', () => {
      this.#isBroken = true
    })
    // 01: the statement was done, and something about it is not as it should be.
    this.#client.on('notice', (notice) => {
      if (notice.code?.startsWith('01')) this.#warning = new Error(notice.message)
    })
  }

  /** Connects and sets it up, within the lease. Rejects with what pg says, or with `invalidArgument`, `storeUnavailable`. */
  static async open(options: SessionOptions): Promise<Session> {
    const session = new Session(options)
    const answered = session.#expectAnswer()
    try {
      await session.#client.connect()
      await session.#setUp()
      return session
    } catch (error) {
      session.destroy()
      throw session.#failure(error)
    } finally {
      answered()
    }
  }

  /** Cuts it unless what is returned is called within the lease: a connection that swallows everything says nothing of it. */
  #expectAnswer(): () => void {
    const { leaseMs, setTimer } = this.#options
    return setTimer(() => {
      this.#isSilent = true
      this.destroy()
    }, leaseMs)
  }

  #failure(error: unknown): unknown {
    return this.#isSilent ? new Error(`no answer for ${this.#options.leaseMs} ms`, { cause: error }) : error
  }

  async #setUp(): Promise<void> {
    const { url, schema, leaseMs, plansAnew } = this.#options
    const timeouts = [STATEMENT_SHARE, LOCK_SHARE].map((share) => String(Math.round(leaseMs * share)))
    const planning = plansAnew ? 'force_custom_plan' : 'force_generic_plan'
    const [row] = await this.query(SETTINGS, [`"${schema}"`, ...timeouts, planning])
    checkServer(row, this.#client, { url, refused: 'invalidArgument', standby: 'storeUnavailable' })
    if (row?.at(-1) !== 'on')
      throw new EscrowError(
        'invalidArgument',
        `the server at ${url} has fsync = off, so that a crash loses what was acknowledged: switch it on`,
      )
    this.pid = row[0] as number
  }

  /** Whether it can be used again: connected, and in no transaction. */
  get isUsable(): boolean {
    return !this.#isBroken && this.#client.getTransactionStatus() === 'I'
  }

  /** Runs one statement; returns its rows. */
  async query(statement: Statement | string, values: readonly Parameter[] = []): Promise<readonly Row[]> {
    return (await this.#run(statement, values)).rows
  }

  /**
   * Runs one statement that commits; returns what pg says of it. Done with a warning is unknown: such as a wait for the
   * synchronous standby that somebody cancelled, which is committed here alone and told as done.
   */
  async run(statement: Statement | string, values: readonly Parameter[] = []): Promise<pg.QueryArrayResult> {
    this.#warning = undefined
    const result = await this.#run(statement, values)
    if (this.#warning === undefined) return result
    this.#isBroken = true
    throw this.#warning
  }

  async #run(statement: Statement | string, values: readonly Parameter[]): Promise<pg.QueryArrayResult> {
    const named = typeof statement === 'string' ? { text: statement } : statement
    const answered = this.#options.isPatient ? undefined : this.#expectAnswer()
    try {
      return await this.#client.query({ ...named, values: values as unknown[], rowMode: 'array' })
    } catch (error) {
      // What is left of a session after an error, no two errors agree on: a new one is a few milliseconds.
      this.#isBroken = true
      throw this.#failure(error)
    } finally {
      answered?.()
    }
  }

  /** Ends it in good order. */
  async end(): Promise<void> {
    if (this.#isBroken) return this.destroy()
    this.#isBroken = true
    const cancel = this.#options.setTimer(() => this.destroy(), END_MS_MAX)
    await this.#client.end().catch(() => {})
    cancel()
  }

  /** Cuts it: whatever waits for an answer is rejected. The server notices, and rolls back what isn't committed. */
  destroy(): void {
    this.#isBroken = true
    const { connection } = this.#client as unknown as { connection: { stream: { destroy(): void } } }
    connection.stream.destroy()
  }
}
