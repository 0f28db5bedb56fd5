/** Connections to the server, each set up so that what the queue rests on holds, whatever the role's or the server's defaults are. */
import pg from 'pg'
import { EscrowError } from '../../core/errors.ts'
import { postgresFailure } from '../../core/postgres-failure.ts'
import {
  checkServer,
  clientConfig,
  END_MS_MAX,
  type Row,
  SETUP_COLUMNS,
  type Statement,
} from '../../core/postgres-session.ts'
import type { PostgresUrl } from '../../core/postgres-url.ts'
import { within } from '../within.ts'

/** How the server is reached. */
export interface ConnectionOptions {
  readonly url: PostgresUrl
  /** At once, beside the one that listens. */
  readonly connectionsMax: number
  /** Done once, by the first connection. What it rejects with, the use of that connection does; the next one tries again. */
  readonly prepare: (client: pg.ClientBase) => Promise<void>
}

const APPLICATION = 'escrow queue'
const CONNECT_MS = 5_000
const IDLE_MS = 30_000

/** `remote_apply`, where a role has it, is more than `on` and stays. */
const SETTINGS = `select ${SETUP_COLUMNS},
  set_config('synchronous_commit', case current_setting('synchronous_commit') when 'remote_apply' then 'remote_apply' else 'on' end, false),
  set_config('statement_timeout', '60s', false), set_config('lock_timeout', '30s', false),
  set_config('idle_in_transaction_session_timeout', '30s', false), set_config('client_connection_check_interval', '1s', false),
  set_config('plan_cache_mode', 'force_generic_plan', false), set_config('enable_bitmapscan', 'off', false)`

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

const late = (): Error => new Error('not within the time that there was')

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
      ...clientConfig(options.url, APPLICATION),
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
      const client = await within(within(connecting, signal, late), this.closed, late)
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
    const client = new pg.Client({
      ...clientConfig(this.#options.url, APPLICATION),
      connectionTimeoutMillis: CONNECT_MS,
    })
    client.on('error', () => {})
    client.on('notification', ({ payload }) => on.message(payload ?? ''))
    client.on('end', on.end)
    this.#all.add(client)
    client.on('end', () => this.#all.delete(client))
    try {
      await within(client.connect(), this.closed, late)
      const ms = AbortSignal.timeout(CONNECT_MS)
      await within(client.query(`listen "${channel}"`), ms, late)
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
      const { rows } = await client.query<unknown[]>({ text: SETTINGS, rowMode: 'array' })
      const { url } = this.#options
      checkServer(rows[0], client, { url, refused: 'brokerRefused', standby: 'brokerUnavailable' })
    } finally {
      clearTimeout(timer)
    }
    this.#prepared ??= this.#options.prepare(client).catch((error) => {
      this.#prepared = undefined
      throw error
    })
    await this.#prepared
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
