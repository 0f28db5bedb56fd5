/**
 * How a group reads a topic, in SQL.
 *
 * **Lanes.** A topic's messages are in 16 lanes by their keys. A lane has one reader of a group at a time, by a lease, so that
 * the order within a key is that reader's own affair, no message is locked or updated, and no transaction stays open while
 * messages are handled. Readers claim lanes with SKIP LOCKED and share them evenly.
 *
 * **How far a lane is read.** A position is given before its transaction commits, so a reader that remembers a position alone
 * skips whoever commits late. It remembers a snapshot besides, as PGQ does (Kreen, "PgQ", Skytools): `seen` and `read_to`
 * stand for the messages that are visible in `seen` and at or before `read_to`. What is to be read then is, for a lane,
 *
 *   late    at or before `read_to`, of a transaction that was running in `seen`: those that it lists as running, and those
 *           from its xmax on that had an id by then, which is below `below`, any id given after `seen` was taken (ids mean
 *           nothing in another cluster: after a dump was restored some messages may come twice)
 *   fresh   beyond `read_to`, and visible
 *
 * That is complete only if no transaction which got its id after `seen` has a position at or before `read_to`: it takes its
 * id before its position (`insert.ts`), and `read_to` was visible in `seen`. A key's order is that of positions among what is
 * visible at once; so a message that was enqueued after the commit of another comes after it.
 *
 * **Acknowledging** changes one row a lane, however many messages: `open` has the positions that were given out and aren't
 * acknowledged yet, so that what is behind a slow one is not given out again. The next reader begins with those.
 *
 * **Bloat.** Readers only ever look beyond `read_to`, so dead rows behind it cost them nothing, however long a transaction
 * keeps VACUUM from removing them: that is where queues that delete from the head, or update a status, grow slow (brandur.org,
 * "Postgres job queues and failure by MVCC"; riverqueue/river#59). Messages are deleted behind all groups, many at once.
 */
import { ArrayBuilder, ELEMENT, textArray } from '../../core/postgres-arrays.ts'
import type { Row, Statement } from '../../core/postgres-session.ts'
import { LANES } from './schema.ts'

/** How far a lane has been read, and what of that is not acknowledged. */
export interface LaneState {
  readonly lane: number
  /** A snapshot as PostgreSQL writes it. */
  readonly seen: string
  readonly readTo: number
  /** A transaction id; empty for whatever has ended by the next look. */
  readonly below: string
  readonly open: readonly number[]
}

/** A row that was read: headers and body are left out of those that are only named. */
export interface ReadRow {
  readonly lane: number
  readonly position: number
  readonly headers: string | undefined
  readonly body: Buffer | undefined
}

/** What one look brings. */
export interface Page {
  /** The snapshot of all of it. */
  readonly seen: string
  /** Positions to be loaded, by lane: everything late there is. */
  readonly late: readonly ReadRow[]
  /** In the order of positions, as far as room and bytes go. */
  readonly fresh: readonly ReadRow[]
}

/** Bytes of bodies that one statement brings; the first may have more. As text they are twice that. */
export const READ_BYTES = 4 << 20

/** The statements, for one schema. */
export type LaneStatements = ReturnType<typeof claiming> & ReturnType<typeof reading>

const statement = (name: string, text: string): Statement => ({ name: `escrow_queue_${name}`, text })

const within = (order: string): string =>
  `coalesce(sum(octet_length(body)) over (order by ${order} rows between unbounded preceding and 1 preceding), 0) < ${READ_BYTES}`

const stateColumns = (lanes: string): string =>
  `${lanes}.lane, ${lanes}.seen::text, ${lanes}.read_to, ${lanes}.below::text, ${lanes}.open::text`

/** All of them, by what they do. */
export const laneStatements = (schema: string): LaneStatements => ({
  ...claiming(`"${schema}"`),
  ...reading(`"${schema}"`),
})

/** Who reads: `s` is the schema, quoted. */
function claiming(s: string) {
  return {
    /** Topic, name, whether it begins at the end. A group that is there stays as it is. */
    join: statement(
      'join',
      `with made as (insert into ${s}.groups (topic, name) values ($1::int4, $2) on conflict do nothing returning group_id)
      insert into ${s}.lanes (group_id, lane, seen, read_to, below)
      select group_id, l.lane, pg_current_snapshot(), case when $3::boolean then coalesce((
          select max(position) from ${s}.messages m where m.topic = $1 and m.lane = l.lane), 0) else 0 end, pg_current_xact_id()
      from made, generate_series(0, ${LANES - 1}) as l (lane)`,
    ),
    group: statement('group', `select group_id from ${s}.groups where topic = $1::int4 and name = $2`),
    /** Group, reader, lease. How many other readers live. */
    renewReader: statement(
      'renew_reader',
      `with gone as (delete from ${s}.readers where group_id = $1::int4 and until < now() and reader <> $2::uuid),
      me as (insert into ${s}.readers (group_id, reader, until) values ($1, $2, now() + $3::float8 * interval '1 ms')
        on conflict (group_id, reader) do update set until = excluded.until)
      select count(*)::int4 from ${s}.readers where group_id = $1 and until >= now() and reader <> $2`,
    ),
    /** Group, reader, lease, how many it may have. Its lanes, and how far they were read. */
    claim: statement(
      'claim',
      `with mine as (
        update ${s}.lanes set until = now() + $3::float8 * interval '1 ms' where group_id = $1::int4 and reader = $2::uuid
        returning *),
      free as (
        select lane from ${s}.lanes where group_id = $1 and reader is distinct from $2 and (reader is null or until < now())
        order by lane limit greatest(0, $4::int4 - (select count(*) from mine)) for update skip locked),
      claimed as (
        update ${s}.lanes l set reader = $2, until = now() + $3 * interval '1 ms' from free
        where l.group_id = $1 and l.lane = free.lane returning l.*)
      select ${stateColumns('mine')} from mine union all select ${stateColumns('claimed')} from claimed`,
    ),
    /** Group, reader; lanes, seen, read_to, open. The lanes that were still its, and an id that is above all given before. */
    acknowledge: statement(
      'acknowledge',
      `update ${s}.lanes l set seen = u.seen::pg_snapshot, read_to = u.read_to, below = pg_current_xact_id(), open = u.open::int8[]
      from unnest($3::int4[], $4::text[], $5::int8[], $6::text[]) as u (lane, seen, read_to, open)
      where l.group_id = $1::int4 and l.reader = $2::uuid and l.lane = u.lane returning l.lane, l.below::text`,
    ),
    /** Group, reader; lanes, the channel by which the other readers are told. */
    release: statement(
      'release',
      `with released as (update ${s}.lanes set reader = null, until = null
        where group_id = $1::int4 and reader = $2::uuid and lane = any ($3::int4[]) returning lane)
      select pg_notify($4, 'g' || $1) from (select count(*) from released) r`,
    ),
    leave: statement('leave', `delete from ${s}.readers where group_id = $1::int4 and reader = $2::uuid`),
    notify: statement('notify', 'select pg_notify($1, $2)'),
  }
}

/** What is read. */
function reading(s: string) {
  return {
    /** Topic; lanes, seen, read_to, below, room. `+ 0`: to be found by the transaction, and not among all that there is. */
    page: statement(
      'page',
      `with l as materialized (
        select * from unnest($2::int4[], $3::text[], $4::int8[], $5::text[], $6::int4[]) as l (lane, seen, read_to, below, room)),
      looks as materialized (select seen, below from l group by seen, below),
      late as materialized (
        select looks.*, m.* from looks cross join lateral (
          select lane, position from ${s}.messages
          where xid = any (array(select pg_snapshot_xip(looks.seen::pg_snapshot))) and topic + 0 = $1::int4
          union all
          select lane, position from ${s}.messages
          where xid >= pg_snapshot_xmax(looks.seen::pg_snapshot)
            and xid < coalesce(nullif(looks.below, '')::xid8, pg_snapshot_xmax(pg_current_snapshot())) and topic + 0 = $1) m)
      select null::int4, null::int8, pg_current_snapshot()::text, null::text, null::bytea
      union all
      select l.lane, late.position, null, null, null from late join l
        on l.lane = late.lane and l.seen = late.seen and l.below = late.below and late.position <= l.read_to
      union all
      (select lane, position, null, headers::text, body from (
        select l.lane, m.*, ${within('position')} as is_within from l cross join lateral (
          select position, headers, body from ${s}.messages where topic = $1 and lane = l.lane and position > l.read_to
          order by position limit l.room) m) r
      where is_within order by position)`,
    ),
    /** Topic; lanes, positions. Headers and body are null beyond the bytes, and a message that is gone is left out. */
    load: statement(
      'load',
      `select lane, position, null, case when is_within then headers::text end, case when is_within then body end from (
        select m.*, ${within('m.position')} as is_within
        from unnest($2::int4[], $3::int8[]) as u (lane, position) join ${s}.messages m
          on m.topic = $1::int4 and m.lane = u.lane and m.position = u.position) r order by position`,
    ),
    /** Topic, group. What isn't acknowledged, as a number. */
    lag: statement(
      'lag',
      `select case when not exists (select from ${s}.groups where topic = $1::int4 and name = $2)
        then (select count(*) from ${s}.messages where topic = $1)
        else (select sum(cardinality(l.open) + n.late + n.fresh)::int8
          from ${s}.groups g join ${s}.lanes l on l.group_id = g.group_id cross join lateral (select
            (select count(*) from ${s}.messages m where m.topic = $1 and m.lane = l.lane and m.position > l.read_to) as fresh,
            (select count(*) from ${s}.messages m where m.xid = any (array(select pg_snapshot_xip(l.seen)))
              and m.topic + 0 = $1 and m.lane + 0 = l.lane and m.position + 0 <= l.read_to) + (
            select count(*) from ${s}.messages m where m.xid >= pg_snapshot_xmax(l.seen) and m.xid < l.below
              and m.topic + 0 = $1 and m.lane + 0 = l.lane and m.position + 0 <= l.read_to) as late) n
          where g.topic = $1 and g.name = $2) end`,
    ),
  }
}

/** What `claim` answers. */
export const stateOf = (row: Row): LaneState => {
  const [lane, seen, readTo, below, open] = row as [number, string, number, string, string]
  return { lane, seen, readTo, below, open: open === '{}' ? [] : open.slice(1, -1).split(',').map(Number) }
}

/** What `page` and `load` answer. */
const readRow = (row: Row): ReadRow => {
  const [lane, position, , headers, body] = row as [number, number, null, string | null, Buffer | null]
  return { lane, position, headers: headers ?? undefined, body: body ?? undefined }
}

/** What `page` answers. */
export function pageOf([head, ...rows]: readonly Row[]): Page {
  const read = rows.map(readRow)
  return {
    seen: head?.[2] as string,
    late: read.filter(({ body }) => body === undefined),
    fresh: read.filter(({ body }) => body !== undefined),
  }
}

export const loadedOf = (rows: readonly Row[]): readonly ReadRow[] => rows.map(readRow)

const numbers = (type: 'int4' | 'int8', values: readonly number[]): Buffer => {
  const array = new ArrayBuilder(ELEMENT[type], 32 + 12 * values.length)
  for (const value of values) array[type](value)
  return array.finish()
}

/** Lanes as `release` takes them. */
export const lanesArray = (lanes: readonly number[]): Buffer => numbers('int4', lanes)

/** What `page` takes beside the topic. */
export const pageValues = (lanes: readonly LaneState[], rooms: readonly number[]): readonly Buffer[] => [
  numbers(
    'int4',
    lanes.map(({ lane }) => lane),
  ),
  textArray(lanes.map(({ seen }) => seen)),
  numbers(
    'int8',
    lanes.map(({ readTo }) => readTo),
  ),
  textArray(lanes.map(({ below }) => below)),
  numbers('int4', rooms),
]

/** What `load` takes beside the topic. */
export const loadValues = (
  wanted: readonly { readonly lane: number; readonly position: number }[],
): readonly Buffer[] => [
  numbers(
    'int4',
    wanted.map(({ lane }) => lane),
  ),
  numbers(
    'int8',
    wanted.map(({ position }) => position),
  ),
]

/** What `acknowledge` takes beside group and reader. */
export const acknowledgeValues = (lanes: readonly LaneState[]): readonly Buffer[] => [
  numbers(
    'int4',
    lanes.map(({ lane }) => lane),
  ),
  textArray(lanes.map(({ seen }) => seen)),
  numbers(
    'int8',
    lanes.map(({ readTo }) => readTo),
  ),
  textArray(lanes.map(({ open }) => `{${open.join(',')}}`)),
]
