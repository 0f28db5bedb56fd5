import { EscrowError } from '../../core/errors.ts'
import { identifier, type PostgresPool, type QueryResult } from './postgres-client.ts'

/** Where the barrier's table is. */
export interface TableOptions {
  /** Default: wherever the search path finds the table; when it must be created, the first schema of the path. */
  readonly schema?: string | undefined
  /** Default `escrow_barrier`. Services that share a database share the table. */
  readonly table?: string | undefined
  /** Create it when it isn't there. Default true; false where the service may not create tables. */
  readonly create?: boolean | undefined
}

/** The barrier's table, found. */
export interface BarrierTable {
  /** Schema and name, quoted: the same table whatever a connection's search path says. */
  readonly name: string
  /** The table's UUID: it tells this database from a copy, a restored one, or another one altogether. */
  readonly databaseId: string
}

/** The advisory lock under which the table is made: the bytes of `escrow`. Part of the barrier's contract. */
const CREATE_LOCK = 111_546_264_088_439

/** Statements that make the table, its index and its one row of kind `database`; each does nothing where it is there. */
export function createStatements(name: string, indexName: string): string {
  return `
create table if not exists ${name} (
  namespace    text collate "C" not null,
  execution_id text collate "C" not null,
  operation    text collate "C" not null
    check (operation in ('database', 'local', 'deliver', 'action', 'compensation')),
  outcome      text collate "C" not null
    check (outcome in ('database', 'committed', 'rolledBack', 'refused')),
  reason       text,
  result       text,
  bodies       bytea,
  swept_before timestamptz,
  created_at   timestamptz not null default now(),
  primary key (namespace, execution_id, operation)
);
create index if not exists ${indexName} on ${name} (created_at);
insert into ${name} (namespace, execution_id, operation, outcome, result)
  values ('', '', 'database', 'database', gen_random_uuid()::text)
  on conflict (namespace, execution_id, operation) do nothing`
}

/** Finds the table, or creates it. Safe to call from several processes at once. Rejects with the database's own error. */
export async function openTable(pool: PostgresPool, options: TableOptions): Promise<BarrierTable> {
  const client = await pool.connect()
  try {
    const found = await findTable(client, options)
    if (found !== undefined) return found
    if (options.create === false) {
      throw new EscrowError(
        'invalidArgument',
        `the barrier's table ${tableText(options)} is not there, and create is false`,
      )
    }
    await createTable(client, options)
    const created = await findTable(client, options)
    if (created === undefined) {
      throw new EscrowError(
        'internal',
        `the barrier's table ${tableText(options)} was created and is not there`,
      )
    }
    return created
  } finally {
    client.release()
  }
}

interface ParameterClient {
  query(text: string, values?: unknown[]): Promise<QueryResult>
}

async function findTable(client: ParameterClient, options: TableOptions): Promise<BarrierTable | undefined> {
  const located = await client.query(
    `select quote_ident(n.nspname) || '.' || quote_ident(c.relname) as name
       from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass($1)`,
    [tableText(options)],
  )
  const name = located.rows[0]?.name as string | undefined
  if (name === undefined) return undefined
  const row = await client.query(
    `select result from ${name} where namespace = '' and execution_id = '' and operation = 'database'`,
  )
  const databaseId = row.rows[0]?.result as string | undefined
  // Created by a migration that made the table alone: the row is still to be written.
  return databaseId === undefined ? undefined : { name, databaseId }
}

async function createTable(client: ParameterClient, options: TableOptions): Promise<void> {
  const index = identifier(`${options.table ?? 'escrow_barrier'}_created_at`)
  // One text is one transaction. `if not exists` alone isn't atomic: two that create at once collide in the catalogue, or
  // wait for each other's index and table for ever; the lock lets them come one after the other.
  await client.query(
    `select pg_advisory_xact_lock(${CREATE_LOCK});${createStatements(tableText(options), index)}`,
  )
}

function tableText(options: TableOptions): string {
  const table = identifier(options.table ?? 'escrow_barrier')
  return options.schema === undefined ? table : `${identifier(options.schema)}.${table}`
}
