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
/** Rows of other statuses that one query passes over: nothing else goes on meanwhile. */
const PASSED_MAX = 5_000
/** Terms that are searched for together: who asks looks again, so that the rest needs no search. */
const TERMS_MAX = 4
const ENDS: readonly ImageStatus[] = ['delivered', 'rolledBack', 'completed', 'compensated']
const LIVING: readonly ImageStatus[] = ['prepared', 'committed', 'parked', 'running', 'compensating']

/** The key of a row that qualifies, and the table that has it. */
interface Hit {
  readonly key: Uint8Array
  readonly table: Table
}

/** Hits in the order of keys, looked for as they are taken. */
type Hits = Generator<Hit, void>

/**
 * Rows for `list`, of those that have all of the terms. Each source gives its keys in order, from an index where most of a
 * table wouldn't qualify; the first of all of them are read.
 */
export function queryImages(
  tables: ImageTables,
  days: readonly { readonly table: Table }[],
  query: ImageQuery,
  terms: Terms,
): { readonly key: TransactionKey; readonly stored: StoredImage }[] {
  const sources = terms.length === 0 ? hitsOf(tables, days, query) : hitsWith(terms, tables, days, query)
  return firstOf(sources, query.limit).map(({ key: bytes, table }) => {
    const key = keyText(bytes)
    return { key, stored: storedImage(key, table.getBinary(bytes) as Uint8Array) }
  })
}

/**
 * The first `limit` of all sources, in order. Of each no more is looked for than that takes: a month of days and several
 * statuses are a hundred sources.
 */
function firstOf(sources: readonly Hits[], limit: number): Hit[] {
  const first: Hit[] = []
  const heads = sources.map((source) => source.next().value ?? undefined)
  while (first.length < limit) {
    const least = leastOf(heads)
    if (least === undefined) break
    const hit = heads[least] as Hit
    heads[least] = sources[least]?.next().value ?? undefined
    // One that passes over no more gives what another one gives, too.
    const last = first.at(-1)
    if (last === undefined || Buffer.compare(last.key, hit.key) !== 0) first.push(hit)
  }
  // Each holds a cursor until it ends.
  for (const source of sources) source.return()
  return first
}

function leastOf(heads: readonly (Hit | undefined)[]): number | undefined {
  let least: number | undefined
  let key: Uint8Array | undefined
  for (let at = 0; at < heads.length; at++) {
    const head = heads[at]
    if (head === undefined || (key !== undefined && Buffer.compare(head.key, key) > 0)) continue
    least = at
    key = head.key
  }
  return least
}

function hitsOf(tables: ImageTables, days: readonly { readonly table: Table }[], query: ImageQuery): Hits[] {
  const { statuses } = query
  const sources: Hits[] = []
  const passedMax = Math.ceil(PASSED_MAX / Math.max(1, days.length))
  if (statuses.length === 0) sources.push(fromRows(tables.live, query))
  for (const status of new Set(statuses)) {
    sources.push(fromIndex(tables.statuses, Buffer.of(statusPrefix(status)), tables.live, query))
    for (const { table } of days) {
      // Most of what finished was delivered, or completed; the others have an index.
      if (status === 'delivered' || status === 'completed')
        sources.push(fromRows(table, { ...query, status, passedMax }))
      const rare = RARE_ENDS[status]
      if (rare !== undefined) sources.push(fromIndex(table, Buffer.of(rare), table, query))
    }
  }
  return sources
}

function hitsWith(
  terms: Terms,
  tables: ImageTables,
  days: readonly { readonly table: Table }[],
  query: ImageQuery,
): Hits[] {
  const sources: { status: ImageStatus; index: Table; table: Table }[] = []
  for (const status of new Set(query.statuses.length === 0 ? LIVING : query.statuses)) {
    if (!ENDS.includes(status)) sources.push({ status, index: tables.terms, table: tables.live })
    else for (const { table } of days) sources.push({ status, index: table, table })
  }
  const seeksMax = Math.ceil(SEEKS_MAX / sources.length)
  return sources.map(({ status, index, table }) => {
    const prefixes = terms.slice(0, TERMS_MAX).map((term) => termKey(term, status, ''))
    return prefixes.length === 1
      ? fromIndex(index, prefixes[0] as Uint8Array, table, query)
      : fromAll(index, prefixes, table, { ...query, seeksMax })
  })
}

function* fromIndex(index: Table, prefix: Uint8Array, table: Table, query: ImageQuery): Hits {
  const { start, end } = bounds(query)
  const range = { start: Buffer.concat([prefix, start]), end: Buffer.concat([prefix, end]) }
  for (const found of index.getKeys(range)) yield { key: found.subarray(prefix.length), table }
}

/**
 * The keys that stand behind all of the prefixes. Each is sought in the next list from where the one before has it, so that
 * whatever one list has none of is leapt over in the others: the rarest sets the pace. After `seeksMax` looks that were in vain,
 * others are given between those that are sought, so that it ends.
 */
function* fromAll(
  index: Table,
  prefixes: readonly Uint8Array[],
  table: Table,
  query: ImageQuery & { readonly seeksMax: number },
): Hits {
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
  let given = 0
  let candidate: Uint8Array | undefined = start
  // How many lists in a row have the candidate.
  let agreed = 0
  let at = 0
  for (let seeks = 0; ; seeks++) {
    const found: Uint8Array | undefined = seek(lists[at] as (typeof lists)[number], candidate)
    if (found === undefined) return
    agreed = agreed > 0 && Buffer.compare(found, candidate) === 0 ? agreed + 1 : 1
    candidate = found
    const inVain = seeks - given * lists.length
    if (agreed < lists.length && inVain < query.seeksMax) {
      at = (at + 1) % lists.length
    } else {
      yield { key: found, table }
      given += 1
      candidate = successor(found)
      agreed = 0
    }
  }
}

/** Rows of a status; after `passedMax` others, all that there are, so that it ends. */
function* fromRows(
  table: Table,
  query: ImageQuery & { readonly status?: ImageStatus; readonly passedMax?: number },
): Hits {
  const { status, passedMax = 0 } = query
  let passed = 0
  for (const { key, value } of table.getRange(bounds(query))) {
    if (status === undefined || passed >= passedMax || hasStatus(value, status)) yield { key, table }
    else passed += 1
  }
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
