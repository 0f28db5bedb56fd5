/** Rows of a checkpoint as columns: one array each, for `unnest`. */

import { ArrayBuilder, ELEMENT } from '../../core/postgres-arrays.ts'
import type { ImageRow } from '../images.ts'

type Put = (array: ArrayBuilder, row: ImageRow, facts: ReturnType<ImageRow['facts']>) => void

interface Column {
  readonly type: keyof typeof ELEMENT
  /** How the table has it, where that differs. */
  readonly cast?: string
  readonly put: Put
}

const text = (value: (...row: [ImageRow, ReturnType<ImageRow['facts']>]) => string): Column => ({
  type: 'text',
  put: (array, row, facts) => putText(array, value(row, facts)),
})

const time = (value: (...row: [ImageRow, ReturnType<ImageRow['facts']>]) => number | undefined): Column => ({
  type: 'float8',
  put: (array, row, facts) => {
    const ms = value(row, facts)
    if (ms === undefined) array.null()
    else array.float8(ms)
  },
})

const TRACE_ID = /^[0-9a-f]{32}$/i

/** What both tables have, beside `log` and `updated_ms`, which a checkpoint's rows have in common. */
const COMMON: Readonly<Record<string, Column>> = {
  key: text(({ key }) => key),
  sequence: { type: 'int8', put: (array, { sequence }) => array.int8(sequence) },
  status: text(({ status }) => status),
  is_saga: { type: 'bool', put: (array, _, { kind }) => array.bool(kind === 'saga') },
  version: { type: 'int4', put: (array, _, { version }) => array.int4(version) },
  began_ms: time((_, { beganAtMs }) => beganAtMs),
  settled_ms: time((_, { settledAtMs }) => settledAtMs || undefined),
  trace_id: {
    type: 'uuid',
    put: (array, _, { traceId }) => (TRACE_ID.test(traceId) ? array.uuid(traceId) : array.null()),
  },
  name: text((_, { name }) => name),
  business_key: text(({ attributes }) => attributes?.businessKey ?? ''),
  tags: { ...text(({ attributes }) => tagsText(attributes?.tags)), cast: 'jsonb' },
  error: text((_, { error }) => error),
  image: { type: 'bytea', put: (array, { bytes }) => array.bytea(bytes) },
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
  /** Makes the parameters from $3 on, and lends them until the statement was answered. */
  readonly lend: <T>(rows: readonly ImageRow[], use: (arrays: readonly Buffer[]) => Promise<T>) => Promise<T>
}

/** Sets of arrays that wait for the next statement, and bytes that one may hold on to: a usual one has a megabyte. */
const SETS_MAX = 2
const SET_BYTES_MAX = 4 << 20

const IS_NEW: Column = { type: 'bool', put: (array, { isNew }) => array.bool(isNew) }

function shapeOf(table: Readonly<Record<string, Column>>): RowShape {
  const names = Object.keys(table)
  const all = Object.entries({ ...table, is_new: IS_NEW })
  const parameters = all.map(([, { type }], i) => `$${i + 3}::${type}[]`)
  return {
    columns: `${names.join(', ')}, log, updated_ms`,
    values: `${names.map((name) => castOf(`r.${name}`, table[name]?.cast)).join(', ')}, $1::int4, $2::float8`,
    source: `unnest(${parameters.join(', ')}) as r (${all.map(([name]) => name).join(', ')})`,
    assignments: [...names, 'log', 'updated_ms'].map((name) => `${name} = excluded.${name}`).join(', '),
    lend: lender(all.map(([, column]) => column)),
  }
}

/** Rows that live. */
export const LIVE_SHAPE = shapeOf(LIVE)
/** Rows that have finished. */
export const FINISHED_SHAPE = shapeOf(FINISHED)

/** Memory of a megabyte that is taken and dropped with each statement costs more than what is written to it. */
function lender(columns: readonly Column[]): RowShape['lend'] {
  const free: (readonly ArrayBuilder[])[] = []
  return async (rows, use) => {
    const builders = free.pop() ?? columns.map(({ type }) => new ArrayBuilder(ELEMENT[type]))
    const result = await use(arraysOf(columns, builders, rows))
    // After an error a connection may still be sending them.
    const bytes = builders.reduce((sum, { capacity }) => sum + capacity, 0)
    if (free.length < SETS_MAX && bytes <= SET_BYTES_MAX) free.push(builders)
    return result
  }
}

function arraysOf(
  columns: readonly Column[],
  arrays: readonly ArrayBuilder[],
  rows: readonly ImageRow[],
): readonly Buffer[] {
  for (const array of arrays) array.clear()
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
