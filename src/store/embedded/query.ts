import type { TransactionKey } from '../../core/ids.ts'
import type { ImageQuery, ImageStatus, StoredImage } from '../images.ts'
import type { Table } from './environment.ts'
import type { ImageTables } from './images.ts'
import {
  hasStatus,
  keyText,
  RARE_ENDS,
  statusPrefix,
  storedImage,
  successor,
  termKey,
  textKey,
} from './row.ts'
import type { Terms } from './terms.ts'

/** Looks at lists of one query that may be in vain, in search of what several terms share. */
const SEEKS_MAX = 2_000
/** Terms that are searched for together: who asks looks again, so that the rest needs no search. */
const TERMS_MAX = 4
const ENDS: readonly ImageStatus[] = ['delivered', 'rolledBack', 'completed', 'compensated']
const LIVING: readonly ImageStatus[] = ['prepared', 'committed', 'parked', 'running', 'compensating']

/** A key that qualifies, and the table that has its row. */
interface Hit {
  readonly key: TransactionKey
  readonly bytes: Uint8Array
  readonly table: Table
}

/**
 * Rows for `list`, of those that have all of the terms. Each source gives at most `limit` keys in order, from an index where
 * most of a table wouldn't qualify; the first of all of them are read.
 */
export function queryImages(
  tables: ImageTables,
  days: readonly { readonly table: Table }[],
  query: ImageQuery,
  terms: Terms,
): { readonly key: TransactionKey; readonly stored: StoredImage }[] {
  const hits = terms.length === 0 ? hitsOf(tables, days, query) : hitsWith(terms, tables, days, query)
  return hits
    .sort((one, other) => Buffer.compare(one.bytes, other.bytes))
    .slice(0, query.limit)
    .map(({ key, bytes, table }) => ({ key, stored: storedImage(key, table.getBinary(bytes) as Uint8Array) }))
}

function hitsOf(tables: ImageTables, days: readonly { readonly table: Table }[], query: ImageQuery): Hit[] {
  const { statuses } = query
  const hits: Hit[] = []
  if (statuses.length === 0) hits.push(...fromRows(tables.live, query, undefined))
  for (const status of new Set(statuses)) {
    hits.push(...fromIndex(tables.statuses, Buffer.of(statusPrefix(status)), tables.live, query))
    for (const { table } of days) {
      // Most of what finished was delivered, or completed; the others have an index.
      if (status === 'delivered' || status === 'completed') hits.push(...fromRows(table, query, status))
      const rare = RARE_ENDS[status]
      if (rare !== undefined) hits.push(...fromIndex(table, Buffer.of(rare), table, query))
    }
  }
  return hits
}

function hitsWith(
  terms: Terms,
  tables: ImageTables,
  days: readonly { readonly table: Table }[],
  query: ImageQuery,
): Hit[] {
  const sources: { status: ImageStatus; index: Table; table: Table }[] = []
  for (const status of new Set(query.statuses.length === 0 ? LIVING : query.statuses)) {
    if (!ENDS.includes(status)) sources.push({ status, index: tables.terms, table: tables.live })
    else for (const { table } of days) sources.push({ status, index: table, table })
  }
  const seeksMax = Math.ceil(SEEKS_MAX / sources.length)
  return sources.flatMap(({ status, index, table }) => {
    const prefixes = terms.slice(0, TERMS_MAX).map((term) => termKey(term, status, ''))
    return prefixes.length === 1
      ? fromIndex(index, prefixes[0] as Uint8Array, table, query)
      : fromAll(index, prefixes, table, { ...query, seeksMax })
  })
}

function fromIndex(index: Table, prefix: Uint8Array, table: Table, query: ImageQuery): Hit[] {
  const { start, end } = bounds(query)
  const range = { start: Buffer.concat([prefix, start]), end: Buffer.concat([prefix, end]) }
  return Array.from(index.getKeys({ ...range, limit: query.limit }), (found) =>
    hitOf(found.subarray(prefix.length), table),
  )
}

/**
 * The keys that stand behind all of the prefixes. Each is sought in the next list from where the one before has it, so that
 * whatever one list has none of is leapt over in the others: the rarest sets the pace. After `seeksMax` looks that were in vain,
 * others are given between those that are sought, so that it ends.
 */
function fromAll(
  index: Table,
  prefixes: readonly Uint8Array[],
  table: Table,
  query: ImageQuery & { readonly seeksMax: number },
): Hit[] {
  const { start, end } = bounds(query)
  const lists = prefixes.map((prefix) => ({ prefix, end: Buffer.concat([prefix, end]) }))
  const seek = (
    { prefix, end: listEnd }: (typeof lists)[number],
    from: Uint8Array,
  ): Uint8Array | undefined => {
    const range = { start: Buffer.concat([prefix, from]), end: listEnd, limit: 1 }
    for (const key of index.getKeys(range)) return key.subarray(prefix.length)
    return undefined
  }
  const hits: Hit[] = []
  let candidate: Uint8Array | undefined = start
  // How many lists in a row have the candidate.
  let agreed = 0
  let at = 0
  for (let seeks = 0; hits.length < query.limit; seeks++) {
    const found: Uint8Array | undefined = seek(lists[at] as (typeof lists)[number], candidate)
    if (found === undefined) break
    agreed = agreed > 0 && Buffer.compare(found, candidate) === 0 ? agreed + 1 : 1
    candidate = found
    const inVain = seeks - hits.length * lists.length
    if (agreed < lists.length && inVain < query.seeksMax) {
      at = (at + 1) % lists.length
    } else {
      hits.push(hitOf(found, table))
      candidate = successor(found)
      agreed = 0
    }
  }
  return hits
}

function fromRows(table: Table, query: ImageQuery, status: ImageStatus | undefined): Hit[] {
  const { start, end } = bounds(query)
  const hits: Hit[] = []
  for (const { key, value } of table.getRange({ start, end })) {
    if (hits.length >= query.limit) break
    if (status === undefined || hasStatus(value, status)) hits.push(hitOf(key, table))
  }
  return hits
}

function hitOf(bytes: Uint8Array, table: Table): Hit {
  const key = keyText(bytes)
  return { key, bytes: textKey(key), table }
}

/** From the namespace's first key, or behind the one to go on after, up to the next namespace: '0' comes after '/'. */
function bounds({ namespace, after }: ImageQuery): { start: Uint8Array; end: Uint8Array } {
  const first = textKey(`${namespace}/`)
  const last = textKey(after)
  return {
    start: Buffer.compare(last, first) >= 0 ? successor(last) : first,
    end: textKey(`${namespace}0`),
  }
}
