/** Rows of a checkpoint as columns: one array each, for `unnest`. */

import { ArrayBuilder, ELEMENT } from '../../core/postgres-arrays.ts'
import type { ImageRow } from '../images.ts'

type Put = (array: ArrayBuilder, row: ImageRow, facts: ReturnType<ImageRow['facts']>) => void

interface Column {
  readonly type: keyof typeof ELEMENT
  /** How the table has it, where that differs. */
  readonly cast?: string
  /** Bytes of an element, about. */
  readonly bytes: number
  readonly put: Put
}

const text = (
  bytes: number,
  value: (...row: [ImageRow, ReturnType<ImageRow['facts']>]) => string,
): Column => ({
  type: 'text',
  bytes,
  put: (array, row, facts) => putText(array, value(row, facts)),
})

const time = (value: (...row: [ImageRow, ReturnType<ImageRow['facts']>]) => number | undefined): Column => ({
  type: 'float8',
  bytes: 12,
  put: (array, row, facts) => {
    const ms = value(row, facts)
    if (ms === undefined) array.null()
    else array.float8(ms)
  },
})

const TRACE_ID = /^[0-9a-f]{32}$/i

/** What both tables have, beside `log` and `updated_ms`, which a checkpoint's rows have in common. */
const COMMON: Readonly<Record<string, Column>> = {
  key: text(64, ({ key }) => key),
  sequence: { type: 'int8', bytes: 12, put: (array, { sequence }) => array.int8(sequence) },
  status: text(16, ({ status }) => status),
  is_saga: { type: 'bool', bytes: 5, put: (array, _, { kind }) => array.bool(kind === 'saga') },
  version: { type: 'int4', bytes: 8, put: (array, _, { version }) => array.int4(version) },
  began_ms: time((_, { beganAtMs }) => beganAtMs),
  settled_ms: time((_, { settledAtMs }) => settledAtMs || undefined),
  trace_id: {
    type: 'uuid',
    bytes: 20,
    put: (array, _, { traceId }) => (TRACE_ID.test(traceId) ? array.uuid(traceId) : array.null()),
  },
  name: text(32, (_, { name }) => name),
  business_key: text(16, ({ attributes }) => attributes?.businessKey ?? ''),
  tags: { ...text(16, ({ attributes }) => tagsText(attributes?.tags)), cast: 'jsonb' },
  error: text(8, (_, { error }) => error),
  image: { type: 'bytea', bytes: 512, put: (array, { bytes }) => array.bytea(bytes) },
}

/** Of those, what a row that lives has besides. */
const LIVE = {
  ...COMMON,
  due_log_ms: time(({ dueLogMs }) => dueLogMs),
  due_wall_ms: time(({ dueWallMs }) => dueWallMs),
}
const FINISHED = { ...COMMON, finished_ms: time(({ finishedAtMs }) => finishedAtMs) }

/** A table's columns, as statements name them, and their arrays. */
export interface RowShape {
  /** `key, sequence, …, log, updated_ms`. */
  readonly columns: string
  /** `r.key, …, $1, $2`: what stands in those columns. */
  readonly values: string
  /** `unnest($3::text[], …) as r (key, …, is_new)`. */
  readonly source: string
  /** `key = excluded.key, …`. */
  readonly assignments: string
  /** The parameters from $3 on. */
  readonly arrays: (rows: readonly ImageRow[]) => Buffer[]
}

const IS_NEW: Column = { type: 'bool', bytes: 5, put: (array, { isNew }) => array.bool(isNew) }

function shapeOf(table: Readonly<Record<string, Column>>): RowShape {
  const names = Object.keys(table)
  const all = Object.entries({ ...table, is_new: IS_NEW })
  const parameters = all.map(([, { type }], i) => `$${i + 3}::${type}[]`)
  return {
    columns: `${names.join(', ')}, log, updated_ms`,
    values: `${names.map((name) => castOf(`r.${name}`, table[name]?.cast)).join(', ')}, $1::int4, $2::float8`,
    source: `unnest(${parameters.join(', ')}) as r (${all.map(([name]) => name).join(', ')})`,
    assignments: [...names, 'log', 'updated_ms'].map((name) => `${name} = excluded.${name}`).join(', '),
    arrays: (rows) =>
      arraysOf(
        all.map(([, column]) => column),
        rows,
      ),
  }
}

/** Rows that live. */
export const LIVE_SHAPE = shapeOf(LIVE)
/** Rows that have finished. */
export const FINISHED_SHAPE = shapeOf(FINISHED)

function arraysOf(columns: readonly Column[], rows: readonly ImageRow[]): Buffer[] {
  const arrays = columns.map(({ type, bytes }) => new ArrayBuilder(ELEMENT[type], 32 + bytes * rows.length))
  for (const row of rows) {
    const facts = row.facts()
    for (let i = 0; i < columns.length; i++) (columns[i] as Column).put(arrays[i] as ArrayBuilder, row, facts)
  }
  return arrays.map((array) => array.finish())
}

/** Bytes of images, or of segments, that one statement brings; the first may have more. As text they are twice that. */
const BYTES_PER_READ = 4 << 20

/**
 * A column of bytes as far as those before it, in this order, leave room; null from there on. Whoever finds null asks again:
 * what a statement brings must get here within the lease, however large the rows are.
 */
export const withinBytes = (column: string, order: string): string =>
  `case when coalesce(sum(octet_length(${column})) over (order by ${order}
    rows between unbounded preceding and 1 preceding), 0) < ${BYTES_PER_READ} then ${column} end`

/** Empty text is none. */
function putText(array: ArrayBuilder, value: string): void {
  if (value === '') array.null()
  else array.text(withoutNul(value))
}

/** PostgreSQL has no U+0000 in text; a search for it asks for the same replacement. */
export function withoutNul(value: string): string {
  return value.includes('\0') ? value.replaceAll('\0', '\ufffd') : value
}

/** Tags as jsonb reads them; empty for none. */
export function tagsText(tags: Readonly<Record<string, string>> = {}): string {
  for (const _ in tags) {
    const entries = Object.entries(tags).map(([name, value]) => [wellFormed(name), wellFormed(value)])
    return JSON.stringify(Object.fromEntries(entries))
  }
  return ''
}

/** JSON escapes a lone surrogate, and jsonb refuses it. */
function wellFormed(value: string): string {
  return withoutNul(value.toWellFormed())
}

function castOf(value: string, cast: string | undefined): string {
  return cast === undefined ? value : `${value}::${cast}`
}
