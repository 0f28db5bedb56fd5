/**
 * The schema, as numbered migrations: each is applied once, in its own transaction, and never changed afterwards.
 *
 * | relation       | a row                                                         | written by                         |
 * |----------------|---------------------------------------------------------------|------------------------------------|
 * | `store`        | the one: format, id, how many logs                            | the first migration                |
 * | `logs`         | a log: its fence, and its clock as of the last checkpoint      | claim, append, checkpoint          |
 * | `segments`     | what one append made durable                                  | append; deleted behind checkpoints |
 * | `live`         | a transaction that hasn't finished                            | checkpoint                         |
 * | `finished`     | one that has, in the partition of its day                     | checkpoint; a day is dropped whole |
 * | `directory`    | an entry                                                      | compareAndSet, remove              |
 * | `transactions` | the view over `live` and `finished` that people may rely on   | nobody                             |
 */

/** What a key is ordered by: its bytes. */
const KEY = 'text collate "C" not null'

/**
 * What both tables of transactions have. Images aren't compressed: that costs more than the bytes that it saves. Times are
 * milliseconds, log time (`due_log_ms`) or since the Unix epoch.
 */
const COLUMNS = `
  key ${KEY},
  log int4 not null,
  sequence int8 not null,
  status text collate "C" not null,
  is_saga boolean not null,
  version int4 not null,
  began_ms float8 not null,
  settled_ms float8,
  updated_ms float8 not null,
  trace_id uuid,
  name text collate "C",
  business_key text collate "C",
  tags jsonb,
  error text,
  image bytea not null`

const INDEXES = (table: string, rare: string): string[] => [
  `create index ${table}_rare on ${table} (key) where status in (${rare})`,
  `create index ${table}_business_key on ${table} (business_key, key) where business_key is not null`,
  `create index ${table}_tags on ${table} using gin (tags jsonb_path_ops) where tags is not null`,
]

const SHOWN = (due: string, finished: string): string => `
  split_part(t.key, '/', 1) as namespace,
  substr(t.key, strpos(t.key, '/') + 1) as id,
  case when t.is_saga then 'saga' else 'message' end as kind,
  t.name, t.version, t.status, t.business_key, t.tags,
  to_timestamp(t.began_ms / 1000) as began_at,
  to_timestamp(t.settled_ms / 1000) as settled_at,
  to_timestamp(${finished}) as finished_at,
  to_timestamp(${due}) as due_at,
  to_timestamp(t.updated_ms / 1000) as updated_at,
  replace(t.trace_id::text, '-', '') as trace_id,
  t.error, t.key, t.log, t.sequence, t.image`

/** Log time stands still during outages: what is due by it is due that much later by the wall clock. */
const DUE = 'least(t.due_wall_ms, nullif(t.due_log_ms, 0) + l.wall_ms - l.log_ms) / 1000'

/** The first format. */
const FIRST = [
  `create table store (
    one boolean primary key default true check (one),
    format int4 not null, store_id text not null, logs int4 not null)`,
  // Every append changes a row of it: with room in the page the change stays there, and touches no index.
  `create table logs (
    log int4 primary key, epoch int8 not null default 0, head int8 not null default 0,
    checkpointed int8 not null default 0,
    wall_ms float8 not null default 0, log_ms float8 not null default 0) with (fillfactor = 10)`,
  `create table segments (
    log int4 not null, sequence int8 not null, bytes bytea not null,
    primary key (log, sequence)) with (toast_tuple_target = 8160)`,
  `create table live (${COLUMNS}, due_log_ms float8, due_wall_ms float8, primary key (key))`,
  ...INDEXES('live', "'parked', 'compensating', 'committed'"),
  'create index live_due_log on live (log, due_log_ms, key) where due_log_ms is not null',
  'create index live_due_wall on live (log, due_wall_ms, key) where due_wall_ms is not null',
  `create table finished (${COLUMNS}, finished_ms float8 not null) partition by range (finished_ms)`,
  ...INDEXES('finished', "'rolledBack', 'compensated'"),
  // In the definition of a column only PostgreSQL 16 and later take it. A partition takes it over from its parent.
  'alter table segments alter column bytes set storage external',
  'alter table live alter column image set storage external',
  'alter table finished alter column image set storage external',
  `create table directory (name ${KEY} primary key, version int8 not null, value bytea not null)`,
  `create view transactions as
    select ${SHOWN(DUE, 'null::float8')} from live t join logs l on l.log = t.log
    union all
    select ${SHOWN('null::float8', 't.finished_ms / 1000')} from finished t`,
]

/** Statements by format: the first makes a store of format 1. */
export const MIGRATIONS: readonly (readonly string[])[] = [FIRST]
