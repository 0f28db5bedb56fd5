import type { TransactionKey } from '../../core/ids.ts'
import type { Attributes, ImageQuery, ImageStatus, StoredImage } from '../images.ts'
import { tagsText, withinBytes, withoutNul } from './rows.ts'
import type { Parameter, Session } from './session.ts'

const ENDS: readonly ImageStatus[] = ['delivered', 'rolledBack', 'completed', 'compensated']

/** A row that was asked for. */
export interface FoundImage {
  readonly key: TransactionKey
  readonly stored: StoredImage
}

/** Where they stand among a statement's values and columns. */
const AFTER = 2
const LIMIT = 3
const IMAGE = 2

/**
 * Rows for `list`, from both tables in the order of keys. Statuses are literals, so that the planner sees which index of a few
 * has them; they are a closed set, and the texts that come of it few.
 */
export async function queryImages(session: Session, query: ImageQuery): Promise<readonly FoundImage[]> {
  const { text, values } = statementOf(query)
  const found: FoundImage[] = []
  for (;;) {
    const rows = await session.query(text, values)
    for (const [key, sequence, bytes, finishedAtMs] of rows) {
      if (bytes === null) break
      found.push({ key, stored: { sequence, bytes, finishedAtMs } } as FoundImage)
    }
    if (rows.at(-1)?.[IMAGE] !== null) return found
    values[AFTER] = found.at(-1)?.key as TransactionKey
    values[LIMIT] = query.limit - found.length
  }
}

function statementOf(query: ImageQuery): { readonly text: string; readonly values: Parameter[] } {
  const { namespace, statuses, limit } = query
  const ends = ENDS.filter((status) => statuses.includes(status))
  const lives = statuses.filter((status) => !ENDS.includes(status))
  // '0' is the character after '/'. No key has a control character, so that one in a page's token may stand for U+0000.
  const values: Parameter[] = [`${namespace}/`, `${namespace}0`, query.after.replaceAll('\0', '\x01'), limit]
  const filter = `key >= $1 and key < $2 and key > $3${attributesFilter(query.attributes, values)}`
  const sources: string[] = []
  if (statuses.length === 0 || lives.length > 0) sources.push(source('live', '0::float8', filter, lives))
  if (ends.length > 0) sources.push(source('finished', 'finished_ms', filter, ends))
  const text = `select key, sequence, ${withinBytes('image', 'key')}, finished_ms
    from (${sources.join(' union all ')}) r order by key limit $4`
  return { text, values }
}

function source(table: string, finished: string, filter: string, statuses: readonly ImageStatus[]): string {
  const among =
    statuses.length === 0 ? '' : ` and status in (${statuses.map((status) => `'${status}'`).join(', ')})`
  return `(select key, sequence, image, ${finished} as finished_ms from ${table} where ${filter}${among} order by key limit $4)`
}

/** Adds the parameters; returns what is asked of them. */
function attributesFilter(attributes: Attributes | undefined, values: Parameter[]): string {
  if (attributes === undefined) return ''
  let filter = ''
  if (attributes.businessKey !== '')
    filter += ` and business_key = $${values.push(withoutNul(attributes.businessKey))}`
  const tags = tagsText(attributes.tags)
  if (tags !== '') filter += ` and tags @> $${values.push(tags)}::jsonb`
  return filter
}
