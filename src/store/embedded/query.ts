import type { TransactionKey } from '../../core/ids.ts'
import type { ImageQuery, ImageStatus, StoredImage } from '../images.ts'
import type { Table } from './environment.ts'
import type { ImageTables } from './images.ts'
import {
  hasStatus,
  keyText,
  prefixedKey,
  RARE_ENDS,
  statusPrefix,
  storedImage,
  successor,
  textKey,
} from './row.ts'

/** A key that qualifies, and the table that has its row. */
interface Hit {
  readonly key: TransactionKey
  readonly bytes: Uint8Array
  readonly table: Table
}

/**
 * Rows for `list`. Each source gives at most `limit` keys in order, from an index where most of a table wouldn't qualify; the
 * first of all of them are read.
 */
export function queryImages(
  tables: ImageTables,
  days: readonly { readonly table: Table }[],
  query: ImageQuery,
): { readonly key: TransactionKey; readonly stored: StoredImage }[] {
  const { statuses, limit } = query
  const hits: Hit[] = []
  if (statuses.length === 0) hits.push(...fromRows(tables.live, query, undefined))
  for (const status of new Set(statuses)) {
    hits.push(...fromIndex(tables.statuses, statusPrefix(status), tables.live, query))
    for (const { table } of days) {
      // Most of what finished was delivered, or completed; the others have an index.
      if (status === 'delivered' || status === 'completed') hits.push(...fromRows(table, query, status))
      const rare = RARE_ENDS[status]
      if (rare !== undefined) hits.push(...fromIndex(table, rare, table, query))
    }
  }
  return hits
    .sort((one, other) => Buffer.compare(one.bytes, other.bytes))
    .slice(0, limit)
    .map(({ key, bytes, table }) => ({ key, stored: storedImage(key, table.getBinary(bytes) as Uint8Array) }))
}

function fromIndex(index: Table, prefix: number, table: Table, query: ImageQuery): Hit[] {
  const { start, end } = bounds(query)
  const range = { start: prefixedKey(prefix, start), end: prefixedKey(prefix, end), limit: query.limit }
  const first = query.after === start ? successor(range.start) : range.start
  return Array.from(index.getKeys({ ...range, start: first }), (found) => {
    const key = keyText(found, 1)
    return { key, bytes: textKey(key), table }
  })
}

function fromRows(table: Table, query: ImageQuery, status: ImageStatus | undefined): Hit[] {
  const { start, end } = bounds(query)
  const first = query.after === start ? successor(textKey(start)) : textKey(start)
  const hits: Hit[] = []
  for (const { key, value } of table.getRange({ start: first, end: textKey(end) })) {
    if (hits.length >= query.limit) break
    if (status === undefined || hasStatus(value, status))
      hits.push({ key: keyText(key), bytes: textKey(keyText(key)), table })
  }
  return hits
}

/** From the namespace's first key, or the one to go on after, up to the next namespace: '0' is the character after '/'. */
function bounds({ namespace, after }: ImageQuery): { start: string; end: string } {
  const first = `${namespace}/`
  return { start: Buffer.compare(textKey(after), textKey(first)) > 0 ? after : first, end: `${namespace}0` }
}
