/**
 * The queue's tables, as numbered migrations: each is applied once, in its own transaction, and never changed afterwards.
 *
 * | table      | a row                                             | written by                                      |
 * |------------|---------------------------------------------------|-------------------------------------------------|
 * | `queue`    | the one: the format                               | migrations                                      |
 * | `topics`   | a topic                                           | register                                        |
 * | `messages` | a message, in one of the 16 lanes of its topic    | publish, enqueue; deleted by the sweep          |
 * | `groups`   | a group that reads a topic                        | subscribe                                       |
 * | `lanes`    | how far a group has read a lane, and who reads it | its reader: at a claim, a renewal and with acks |
 * | `readers`  | a reader of a group that lives                    | the reader, with each renewal                   |
 *
 * To forget a group is to delete its row of `groups`; to forget a topic, its groups, its messages and its row.
 */

import { crc32 } from 'node:zlib'
import type pg from 'pg'
import { EscrowError } from '../../core/errors.ts'

/** Where nothing else is said. */
export const DEFAULT_SCHEMA = 'escrow_queue'
/** Names of schemas that statements may have as they stand. */
export const SCHEMA = /^(?!pg_)[a-z_][a-z0-9_]{0,47}$/
export const SCHEMA_ALLOWED = "1-48 of a-z, 0-9 and '_', not first a digit or 'pg_'"

/** Messages of one key are in one lane, and a lane has one reader of a group at a time. */
export const LANES = 16

/** The lane of a key; messages without one are spread by their ids. Part of the format: never changed. */
export const laneOf = (key: string, id: string): number => crc32(key === '' ? id : key) % LANES

const FIRST = (s: string): readonly string[] => [
  `create table ${s}.queue (one boolean primary key default true check (one), format int4 not null)`,
  `create table ${s}.topics (
    topic int4 generated always as identity primary key,
    name text collate "C" not null unique, created_at timestamptz not null default now())`,
  // `position` last among the defaults: a transaction has its id before it takes a position (see `lanes.ts`).
  `create table ${s}.messages (
    xid xid8 not null, topic int4 not null, lane int2 not null, id text collate "C" not null,
    headers json not null, body bytea not null, created_at timestamptz not null default now(),
    position int8 not null generated always as identity,
    primary key (topic, lane, position), unique (id, topic))
    with (toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)`,
  // Of all indexes only the primary key begins with the topic: a planner without statistics has nothing to mistake for it.
  `create index messages_xid on ${s}.messages (xid)`,
  `alter table ${s}.messages alter column body set storage external`,
  `create table ${s}.groups (
    group_id int4 generated always as identity primary key,
    topic int4 not null references ${s}.topics, name text collate "C" not null,
    created_at timestamptz not null default now(), unique (topic, name))`,
  // Acknowledging changes a row of it: with room in the page the change stays there, and touches no index.
  `create table ${s}.lanes (
    group_id int4 not null references ${s}.groups on delete cascade, lane int2 not null,
    reader uuid, until timestamptz, seen pg_snapshot not null, read_to int8 not null, below xid8 not null,
    open int8[] not null default '{}', primary key (group_id, lane))
    with (fillfactor = 10, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0)`,
  `create table ${s}.readers (
    group_id int4 not null references ${s}.groups on delete cascade, reader uuid not null,
    until timestamptz not null, primary key (group_id, reader)) with (fillfactor = 50)`,
  `insert into ${s}.queue (format) values (1)`,
]

/** Statements by format: the first makes a queue of format 1. */
const MIGRATIONS: readonly ((schema: string) => readonly string[])[] = [FIRST]

/**
 * Brings the queue's tables to this version's format, one migration a transaction; safe when several do it at once, and when
 * there is nothing to do. `mayChange` false: only looks. Throws `brokerRefused` where the tables are missing, older or newer
 * and may or can not be changed, and what `pg` throws.
 */
export async function migrateQueue(
  client: pg.ClientBase,
  { schema, mayChange }: { readonly schema: string; readonly mayChange: boolean },
): Promise<void> {
  for (;;) {
    const format = await readFormat(client, schema)
    if (format === MIGRATIONS.length) return
    if (!mayChange) {
      const found = format === 0 ? 'has no queue' : `has a queue of format ${format}`
      throw new EscrowError(
        'brokerRefused',
        `schema ${schema} ${found}, needed is format ${MIGRATIONS.length}: connect once with 'migrate' left out, by a role that may create tables`,
      )
    }
    await client.query('begin')
    await migrateOnce(client, schema)
    await client.query('commit')
  }
}

async function migrateOnce(client: pg.ClientBase, schema: string): Promise<void> {
  await client.query('select pg_advisory_xact_lock(hashtext($1), 1)', [`escrow ${schema}`])
  const there = await client.query('select from pg_namespace where nspname = $1', [schema])
  if (there.rows.length === 0) await client.query(`create schema "${schema}"`)
  const format = await readFormat(client, schema)
  if (format === MIGRATIONS.length) return
  for (const statement of (MIGRATIONS[format] as (schema: string) => readonly string[])(`"${schema}"`))
    await client.query(statement)
  if (format > 0) await client.query(`update "${schema}".queue set format = $1`, [format + 1])
}

/** 0 where there is no queue yet. */
async function readFormat(client: pg.ClientBase, schema: string): Promise<number> {
  // From the catalog's tables, not by to_regclass: that remembers what it didn't find while others were faster.
  const { rows } = await client.query<{ has_queue: boolean; relations: number }>(
    `select count(*) filter (where c.relname = 'queue' and c.relkind = 'r') > 0 as has_queue, count(*)::int4 as relations
      from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1`,
    [schema],
  )
  const { has_queue: hasQueue, relations } = rows[0] as { has_queue: boolean; relations: number }
  if (!hasQueue) {
    if (relations === 0) return 0
    throw new EscrowError(
      'brokerRefused',
      `schema ${schema} has ${relations} tables that aren't the queue's: give it a schema of its own`,
    )
  }
  const found = await client.query<{ format: number }>(`select format from "${schema}".queue`)
  const format = found.rows[0]?.format ?? 0
  if (format <= MIGRATIONS.length) return format
  throw new EscrowError(
    'brokerRefused',
    `the queue in schema ${schema} has format ${format}, this version knows formats up to ${MIGRATIONS.length}: run the newer version`,
  )
}
