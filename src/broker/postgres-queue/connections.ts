/** Connections to the server, each set up so that what the queue rests on holds, whatever the role's or the server's defaults are. */
import pg from 'pg'
import { EscrowError } from '../../core/errors.ts'
import { postgresFailure } from '../../core/postgres-failure.ts'
import { POSTGRES_TYPES } from '../../core/postgres-types.ts'
import type { PostgresUrl } from '../../core/postgres-url.ts'

/** How the server is reached. */
export interface ConnectionOptions {
  readonly url: PostgresUrl
  /** At once, beside the one that listens. */
  readonly connectionsMax: number
  /** Done once, by the first connection. What it rejects with, the use of that connection does; the next one tries again. */
  readonly prepare: (client: pg.ClientBase) => Promise<void>
}

/** A statement that is prepared once a connection. Its text never has anything in it that comes from outside. */
export interface Statement {
  readonly name: string
  readonly text: string
}

/** A row: the columns in their order. */
export type Row = readonly unknown[]

/** The oldest server: it ends the statement of a client that is gone. */
const SERVER_VERSION_MIN = 140_000
const CONNECT_MS = 5_000
/** A goodbye that isn't answered by then is none. */
const END_MS_MAX = 1_000
const IDLE_MS = 30_000
const KEEP_ALIVE_MS = 10_000

/**
 * `remote_apply`, where a role has it, is more than `on` and stays. The planner knows nothing of a table that was empty when
 * the statement was planned: it must look rows up by an index, always.
 */
const SETTINGS = `select pg_backend_pid() as pid, pg_is_in_recovery() as is_standby,
  current_setting('server_encoding') as encoding, current_setting('server_version_num')::int4 as version,
  set_config('synchronous_commit', case current_setting('synchronous_commit') when 'remote_apply' then 'remote_apply' else 'on' end, false),
  set_config('statement_timeout', '60s', false), set_config('lock_timeout', '30s', false),
  set_config('idle_in_transaction_session_timeout', '30s', false), set_config('client_connection_check_interval', '1s', false),
  set_config('default_transaction_isolation', 'read committed', false),
  set_config('default_transaction_read_only', 'off', false), set_config('client_min_messages', 'warning', false),
  set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '2', false),
  set_config('tcp_keepalives_count', '3', false), set_config('bytea_output', 'hex', false),
  set_config('plan_cache_mode', 'force_generic_plan', false), set_config('enable_seqscan', 'off', false),
  set_config('enable_bitmapscan', 'off', false), set_config('enable_hashjoin', 'off', false),
  set_config('enable_mergejoin', 'off', false), set_config('max_parallel_workers_per_gather', '0', false),
  set_config('jit', 'off', false)`

/** What a connection told as it was set up. */
interface Told {
  readonly pid: number
  readonly is_standby: boolean
  readonly encoding: string
  readonly version: number
}

/** A failure of the broker, by class; `doing` says at what. */
export function queueFailure(thrown: unknown, doing: string): EscrowError {
  if (thrown instanceof EscrowError) return thrown
  const { code, message, remedy, isMisconfigured } = postgresFailure(thrown)
  const text = `${doing}: ${message}${remedy === undefined ? '' : `; ${remedy}`}`
  return new EscrowError(isMisconfigured ? 'brokerRefused' : 'brokerUnavailable', text, {
    details: code === '' ? {} : { cause: code },
    cause: thrown,
  })
}

/** Cuts it: whatever waits for an answer is rejected. The server notices, and rolls back what isn't committed. */
function cut(client: pg.ClientBase): void {
  const { connection } = client as unknown as { connection: { stream: { destroy(): void } } }
  connection.stream.destroy()
}

/** Resolves or rejects as `promise` does, or rejects once the signal is aborted. */
async function within<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: given, reject } = Promise.withResolvers<never>()
  const giveUp = () => reject(new Error('not within the time that there was'))
  if (signal.aborted) giveUp()
  signal.addEventListener('abort', giveUp, { once: true })
  try {
    return await Promise.race([promise, given])
  } finally {
    signal.removeEventListener('abort', giveUp)
  }
}

/** A connection that nobody else has until it is given back. */
export class Connection {
  readonly #client: pg.PoolClient
  readonly #onRelease: (connection: Connection) => void
  #isBroken = false
  #warning: Error | undefined

  constructor(client: pg.PoolClient, onRelease: (connection: Connection) => void) {
    this.#client = client
    this.#onRelease = onRelease
    // 01: the statement was done, and something about it is not as it should be.
    client.on('notice', this.#onNotice)
  }

  readonly #onNotice = (notice: { code?: string | undefined; message?: string | undefined }): void => {
    if (notice.code?.startsWith('01')) this.#warning = new Error(notice.message)
  }

  /**
   * Runs one statement, and commits it; returns its rows. Once the signal is aborted the connection is cut, so that the
   * statement ends, one way or the other. Done with a warning is unknown: such as a wait for the synchronous standby that
   * somebody cancelled, which is committed here alone and told as done.
   */
  async run(statement: Statement, values: readonly unknown[], signal: AbortSignal): Promise<readonly Row[]> {
    const giveUp = () => cut(this.#client)
    this.#warning = undefined
    signal.throwIfAborted()
    signal.addEventListener('abort', giveUp, { once: true })
    try {
      const { rows } = await this.#client.query({ ...statement, values: [...values], rowMode: 'array' })
      if (this.#warning !== undefined) throw this.#warning
      return rows
    } catch (error) {
      // What is left of a connection after an error, no two errors agree on: a new one is a few milliseconds.
      this.#isBroken = true
      throw signal.aborted ? new Error('no answer within the time that there was', { cause: error }) : error
    } finally {
      signal.removeEventListener('abort', giveUp)
    }
  }

  release(): void {
    this.#onRelease(this)
    this.#client.off('notice', this.#onNotice)
    if (this.#isBroken) cut(this.#client)
    this.#client.release(this.#isBroken)
  }

  /** What waits for an answer is rejected. */
  cut(): void {
    this.#isBroken = true
    cut(this.#client)
  }
}

/** The connections of one broker, opened as they are needed. */
export class Connections {
  readonly #options: ConnectionOptions
  readonly #pool: pg.Pool
  readonly #all = new Set<pg.ClientBase>()
  readonly #taken = new Set<Connection>()
  readonly #closed = new AbortController()
  #prepared: Promise<void> | undefined

  constructor(options: ConnectionOptions) {
    this.#options = options
    this.#pool = new pg.Pool({
      ...this.#config(),
      max: options.connectionsMax,
      connectionTimeoutMillis: CONNECT_MS,
      idleTimeoutMillis: IDLE_MS,
      allowExitOnIdle: true,
      onConnect: (client) => this.#setUp(client),
    })
    // An idle one that is lost is replaced when it is needed.
    this.#pool.on('error', () => {})
    this.#pool.on('remove', (client) => this.#all.delete(client))
  }

  #config(): pg.ClientConfig {
    return {
      connectionString: this.#options.url.reveal(),
      application_name: 'escrow queue',
      keepAlive: true,
      keepAliveInitialDelayMillis: KEEP_ALIVE_MS,
      types: POSTGRES_TYPES as unknown as pg.CustomTypesConfig,
    }
  }

  /** Aborted once they are closed. */
  get closed(): AbortSignal {
    return this.#closed.signal
  }

  /**
   * A connection, ready for use: whoever takes it gives it back. Throws `brokerUnavailable`, `brokerRefused`; nothing has
   * then been sent. Waits for 5 s at most, and not after the signal.
   */
  async take(signal: AbortSignal): Promise<Connection> {
    const doing = `connecting to ${this.#options.url}`
    if (this.closed.aborted) throw new EscrowError('brokerUnavailable', 'the broker is closed')
    const connecting = this.#pool.connect()
    try {
      const client = await within(within(connecting, signal), this.closed)
      const connection = new Connection(client, (one) => this.#taken.delete(one))
      this.#taken.add(connection)
      return connection
    } catch (error) {
      // It may still come: then for others.
      void connecting.then(
        (client) => client.release(),
        () => {},
      )
      throw queueFailure(error, doing)
    }
  }

  /** Does some work on a connection. Throws `brokerUnavailable` (what became of it is unknown), `brokerRefused`; `doing` says at what. */
  async use<T>(doing: string, signal: AbortSignal, work: (connection: Connection) => Promise<T>): Promise<T> {
    const connection = await this.take(signal)
    try {
      return await work(connection)
    } catch (error) {
      throw queueFailure(error, doing)
    } finally {
      connection.release()
    }
  }

  /** A connection of its own, for whoever listens: `onEnd` is called when it is lost. Throws what `pg` does. */
  async listen(
    channel: string,
    on: { readonly message: (payload: string) => void; readonly end: () => void },
  ): Promise<() => void> {
    const client = new pg.Client({ ...this.#config(), connectionTimeoutMillis: CONNECT_MS })
    client.on('error', () => {})
    client.on('notification', ({ payload }) => on.message(payload ?? ''))
    client.on('end', on.end)
    this.#all.add(client)
    client.on('end', () => this.#all.delete(client))
    try {
      await within(client.connect(), this.closed)
      const ms = AbortSignal.timeout(CONNECT_MS)
      await within(client.query(`listen "${channel}"`), ms)
    } catch (error) {
      cut(client)
      throw error
    }
    return () => cut(client)
  }

  async #setUp(client: pg.ClientBase): Promise<void> {
    this.#all.add(client)
    // Without a listener the loss of a connection would end the process.
    client.on('error', () => {})
    const timer = setTimeout(() => cut(client), CONNECT_MS)
    try {
      const { rows } = await client.query<Told>(SETTINGS)
      this.#check(client, rows[0] as Told)
    } finally {
      clearTimeout(timer)
    }
    this.#prepared ??= this.#options.prepare(client).catch((error) => {
      this.#prepared = undefined
      throw error
    })
    await this.#prepared
  }

  #check(client: pg.ClientBase, told: Told): void {
    const { url } = this.#options
    if (told.is_standby)
      throw new EscrowError(
        'brokerUnavailable',
        `the server at ${url} is a standby, which takes no writes: name the primary in the URL`,
      )
    const refuse = (problem: string): never => {
      throw new EscrowError('brokerRefused', `the server at ${url} ${problem}`)
    }
    if (told.pid !== (client as unknown as { processID: number }).processID)
      refuse(
        'stands behind a pooler, where listening and prepared statements go astray: give the URL of the server itself',
      )
    if (told.version < SERVER_VERSION_MIN)
      refuse(`is too old (${told.version}): PostgreSQL 14 or newer is needed`)
    if (told.encoding !== 'UTF8') refuse(`has a database in ${told.encoding}: make one with encoding 'UTF8'`)
  }

  /** Forgets that the tables were there: the next connection looks again. */
  unprepare(): void {
    this.#prepared = undefined
  }

  /** Ends all; what waits for an answer is rejected. May be repeated. */
  async close(): Promise<void> {
    if (this.closed.aborted) return
    this.#closed.abort()
    for (const connection of this.#taken) connection.cut()
    const timer = setTimeout(() => {
      for (const client of this.#all) cut(client)
    }, END_MS_MAX)
    await this.#pool.end().finally(() => clearTimeout(timer))
  }
}
