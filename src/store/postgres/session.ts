/** One connection to the server, set up so that what the store rests on holds, whatever the role's or the server's defaults are. */
import pg from 'pg'
import { EscrowError } from '../../core/errors.ts'
import { POSTGRES_TYPES } from '../../core/postgres-types.ts'
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

/** A statement that is prepared once a session. Its text never has anything in it that comes from outside. */
export interface Statement {
  readonly name: string
  readonly text: string
}

/** What a parameter may be: a Buffer goes as binary, all else as text. */
export type Parameter = string | number | boolean | Uint8Array | null

/** A row: the columns in their order. */
export type Row = readonly unknown[]

/** The oldest server: detaching a partition without a lock came with it. */
const SERVER_VERSION_MIN = 140_000
/** A goodbye that isn't answered by then is none. */
const END_MS_MAX = 1_000
const KEEP_ALIVE_MS = 10_000

/**
 * Everything below the lease, so that a node which stops in the middle is gone when another takes over. The planner knows
 * nothing of a table that was empty when the statement was planned: it must look rows up by an index, always.
 */
const SETTINGS = `select pg_backend_pid(), pg_is_in_recovery(), current_setting('fsync'),
  current_setting('server_encoding'), current_setting('server_version_num')::int4,
  set_config('search_path', $1, false), set_config('synchronous_commit', 'on', false),
  set_config('statement_timeout', $2, false), set_config('lock_timeout', $3, false),
  set_config('idle_in_transaction_session_timeout', $3, false),
  set_config('default_transaction_isolation', 'read committed', false),
  set_config('default_transaction_read_only', 'off', false), set_config('client_min_messages', 'warning', false),
  set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '2', false),
  set_config('tcp_keepalives_count', '3', false), set_config('bytea_output', 'hex', false),
  set_config('extra_float_digits', '1', false), set_config('plan_cache_mode', $4, false),
  set_config('enable_seqscan', 'off', false), set_config('enable_hashjoin', 'off', false),
  set_config('enable_mergejoin', 'off', false), set_config('max_parallel_workers_per_gather', '0', false),
  set_config('jit', 'off', false)`

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
    this.#client = new pg.Client({
      connectionString: options.url.reveal(),
      application_name: 'escrow',
      keepAlive: true,
      keepAliveInitialDelayMillis: KEEP_ALIVE_MS,
      types: POSTGRES_TYPES as unknown as pg.CustomTypesConfig,
    })
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
    const [pid, isStandby, fsync, encoding, version] = row as [number, boolean, string, string, number]
    const refuse = (problem: string): never => {
      throw new EscrowError('invalidArgument', `the server at ${url} ${problem}`)
    }
    const { processID } = this.#client as unknown as { processID: number }
    if (pid !== processID)
      refuse(
        'stands behind a pooler, where settings, prepared statements and locks go astray: give the URL of the server itself',
      )
    if (version < SERVER_VERSION_MIN) refuse(`is too old (${version}): PostgreSQL 14 or newer is needed`)
    if (encoding !== 'UTF8') refuse(`has a database in ${encoding}: make one with encoding 'UTF8'`)
    if (fsync !== 'on') refuse('has fsync = off, so that a crash loses what was acknowledged: switch it on')
    if (isStandby)
      throw new EscrowError(
        'storeUnavailable',
        `the server at ${url} is a standby: name the primary in the URL`,
      )
    this.pid = pid
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
