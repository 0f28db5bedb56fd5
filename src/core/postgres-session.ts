/** What every connection to a PostgreSQL rests on, whatever the role's or the server's defaults are: the store's, and the queue's. */
import { type ErrorCode, EscrowError } from './errors.ts'
import { POSTGRES_TYPES } from './postgres-types.ts'
import type { PostgresUrl } from './postgres-url.ts'

/** A statement that is prepared once a connection. Its text never has anything in it that comes from outside. */
export interface Statement {
  readonly name: string
  readonly text: string
}

/** A row: the columns in their order. */
export type Row = readonly unknown[]

/** A goodbye that isn't answered by then is none. */
export const END_MS_MAX = 1_000
const KEEP_ALIVE_MS = 10_000
/** The oldest server: it detaches a partition without a lock, and ends the statement of a client that is gone. */
const SERVER_VERSION_MIN = 140_000

/** What a client of `pg` is made of. */
export function clientConfig(url: PostgresUrl, applicationName: string) {
  return {
    connectionString: url.reveal(),
    application_name: applicationName,
    keepAlive: true,
    keepAliveInitialDelayMillis: KEEP_ALIVE_MS,
    // Of no type that pg has: its own ones parse what is binary as well.
    types: POSTGRES_TYPES as never,
  }
}

/**
 * The first columns of the statement by which a connection is set up; `checkServer` looks at them. The planner knows
 * nothing of a table that was empty when a statement was planned: it must look rows up by an index, always.
 */
export const SETUP_COLUMNS = `pg_backend_pid(), pg_is_in_recovery(), current_setting('server_encoding'),
  current_setting('server_version_num')::int4,
  set_config('default_transaction_isolation', 'read committed', false),
  set_config('default_transaction_read_only', 'off', false), set_config('client_min_messages', 'warning', false),
  set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '2', false),
  set_config('tcp_keepalives_count', '3', false), set_config('bytea_output', 'hex', false),
  set_config('enable_seqscan', 'off', false), set_config('enable_hashjoin', 'off', false),
  set_config('enable_mergejoin', 'off', false), set_config('max_parallel_workers_per_gather', '0', false),
  set_config('jit', 'off', false)`

/** What a server is refused by: `refused` where somebody must change something, `standby` where it may be a primary later. */
export interface ServerRefusal {
  readonly url: PostgresUrl
  readonly refused: ErrorCode
  readonly standby: ErrorCode
}

/** Throws where a server can't be used. `row` begins with `SETUP_COLUMNS`; `client` is the one of `pg` that it was told. */
export function checkServer(
  row: Row | undefined,
  client: object,
  { url, refused, standby }: ServerRefusal,
): void {
  const [pid, isStandby, encoding, version] = row as [number, boolean, string, number]
  const refuse = (problem: string, code = refused): never => {
    throw new EscrowError(code, `the server at ${url} ${problem}`)
  }
  if (pid !== (client as { readonly processID?: number }).processID)
    refuse(
      'stands behind a pooler, where settings, locks, listening and prepared statements go astray: give the URL of the server itself',
    )
  if (version < SERVER_VERSION_MIN) refuse(`is too old (${version}): PostgreSQL 14 or newer is needed`)
  if (encoding !== 'UTF8') refuse(`has a database in ${encoding}: make one with encoding 'UTF8'`)
  if (isStandby) refuse('is a standby, which takes no writes: name the primary in the URL', standby)
}
