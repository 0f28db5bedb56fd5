import { EscrowError } from '../../core/errors.ts'
import { openingFailure } from './failures.ts'
import { MIGRATIONS } from './schema.ts'
import { Session, type SessionOptions } from './session.ts'

/** What the store says of itself. */
export interface StoreIdentity {
  readonly format: number
  readonly storeId: string
  readonly logs: number
}

/** What making a new store needs. */
export interface MigrationOptions extends SessionOptions {
  /** How many logs a new store gets; one that is there keeps its own. */
  readonly logs: number
  readonly random: (bytes: number) => Uint8Array
}

const STORE_ID_CHARACTERS = 'abcdefghijklmnopqrstuvwxyz0123456789'
const STORE_ID_LENGTH = 8

/**
 * Brings the schema to this version's format, one migration a transaction; safe when several do it at once, and when there is
 * nothing to do. Rejects with `storeFormat` (written by a newer version), `invalidArgument` (the schema is somebody else's)
 * or `storeUnavailable`.
 */
export async function migrate(options: MigrationOptions): Promise<StoreIdentity> {
  for (;;) {
    const identity = await withSession(options, (session) => readIdentity(session, options))
    if (identity?.format === MIGRATIONS.length) return identity
    await withSession({ ...options, isPatient: true }, (session) => migrateOnce(session, options))
  }
}

/** What the store says of itself, without changing it. Rejects as `migrate`, and with `storeFormat` if it must be migrated first. */
export async function identify(options: SessionOptions): Promise<StoreIdentity> {
  return await withSession(options, async (session) => {
    const identity = await readIdentity(session, options)
    if (identity?.format === MIGRATIONS.length) return identity
    const found = identity === undefined ? 'there is no store' : `the store has format ${identity.format}`
    throw new EscrowError(
      'storeFormat',
      `${found} in schema ${options.schema} of ${options.url}, needed is format ${MIGRATIONS.length}: run 'escrow migrate'`,
    )
  })
}

async function withSession<T>(options: SessionOptions, work: (session: Session) => Promise<T>): Promise<T> {
  let session: Session | undefined
  try {
    session = await Session.open(options)
    return await work(session)
  } catch (error) {
    throw openingFailure(error, String(options.url))
  } finally {
    await session?.end()
  }
}

async function readIdentity(
  session: Session,
  { schema, url }: SessionOptions,
): Promise<StoreIdentity | undefined> {
  const where = `schema ${schema} of ${url}`
  // From the catalog's tables, not by to_regclass: that remembers what it didn't find while others were faster.
  const [there] = await session.query(
    `select count(*) filter (where c.relname = 'store') > 0, count(*)::int4
      from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1`,
    [schema],
  )
  const [hasStore, relations] = there as [boolean, number]
  if (!hasStore) {
    if (relations === 0) return undefined
    throw new EscrowError(
      'invalidArgument',
      `${where} has ${relations} tables that aren't Escrow's: give the store a schema of its own`,
    )
  }
  const [columns] = await session.query(
    `select count(*)::int4 from pg_attribute
      where attrelid = 'store'::regclass and attname in ('format', 'store_id', 'logs') and not attisdropped`,
  )
  if (columns?.[0] !== 3)
    throw new EscrowError(
      'invalidArgument',
      `${where} has a table 'store' that isn't Escrow's: give the store a schema of its own`,
    )
  const [row] = await session.query('select format, store_id, logs from store')
  if (row === undefined) throw new EscrowError('storeCorrupt', `${where}: its table 'store' is empty`)
  const [format, storeId, logs] = row as [number, string, number]
  if (format > MIGRATIONS.length)
    throw new EscrowError(
      'storeFormat',
      `the store in ${where} has format ${format}, this version knows formats up to ${MIGRATIONS.length}`,
    )
  return { format, storeId, logs }
}

/** Applies the migration that is next, unless somebody else just did. */
async function migrateOnce(session: Session, options: MigrationOptions): Promise<void> {
  const { schema, logs, random } = options
  await session.query('begin')
  await session.query(
    "select set_config('lock_timeout', '0', true), set_config('statement_timeout', '0', true)",
  )
  await session.query('select pg_advisory_xact_lock(hashtext($1), 0)', [`escrow ${schema}`])
  const [there] = await session.query('select count(*)::int4 from pg_namespace where nspname = $1', [schema])
  if (there?.[0] === 0) await session.query(`create schema "${schema}"`)
  const identity = await readIdentity(session, options)
  const format = identity?.format ?? 0
  for (const statement of MIGRATIONS[format] ?? []) await session.query(statement)
  if (identity === undefined) {
    await session.query('insert into store (format, store_id, logs) values (1, $1, $2)', [
      mintStoreId(random),
      logs,
    ])
    await session.query('insert into logs (log) select generate_series(0, $1::int4 - 1)', [logs])
  } else if (format < MIGRATIONS.length) {
    await session.query('update store set format = $1', [format + 1])
  }
  await session.query('commit')
}

function mintStoreId(random: (bytes: number) => Uint8Array): string {
  return Array.from(
    random(STORE_ID_LENGTH),
    (byte) => STORE_ID_CHARACTERS[byte % STORE_ID_CHARACTERS.length],
  ).join('')
}
