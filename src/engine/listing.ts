import type { ListRequest, ListResponse, TransactionView } from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import type { Namespace } from '../core/ids.ts'
import { isSaga, type Status, type TransactionImage, transactionStatusOf } from '../core/transaction.ts'
import { type Attributes, hasAttributes } from '../store/images.ts'
import type { Store } from '../store/store.ts'
import { decodeTransactionImage } from '../store/transaction-record.ts'
import { viewOf } from './views.ts'

const LIST_MAX = 1_000
/** Rows that one list looks at for what its filters ask for; the next page goes on behind them. */
export const LIST_SCANNED_MAX = 10_000
/** Rows of one look at the store, where most may not be what is asked for. */
const SCANNED_AT_ONCE = 1_000

/** What a list needs to know of the logs. */
export interface ListedLogs {
  /** Wall clock of the last checkpoint of all logs: what the list is true for. */
  readonly asOfMs: number
  /** Wall time less log time of the log that has an image. */
  outagesMsOf(image: TransactionImage): number
}

/**
 * Answers a list from the rows of the store, which finds them by status, business key and tags. With filters a page may have
 * fewer than `limit`, or none, and still a next one: a list looks at no more than `LIST_SCANNED_MAX` rows. Throws
 * `invalidArgument`, and what the store throws.
 */
export async function list(
  store: Store,
  namespace: Namespace,
  request: ListRequest,
  logs: ListedLogs,
): Promise<ListResponse> {
  const limit = request.limit || 100
  if (!Number.isSafeInteger(limit) || limit < 1 || limit > LIST_MAX)
    throw new EscrowError('invalidArgument', `limit is ${limit}, allowed are 1-${LIST_MAX}`)
  const statuses = request.statuses ?? []
  const { asOfMs } = logs
  const attributes = attributesOf(request)
  const isListed = filterOf(request, attributes)
  const transactions: TransactionView[] = []
  let after = request.pageToken ?? ''
  // What the store finds by an index is what is asked for, or nearly all of it: the first look takes no more than a page.
  const isFound = attributes !== undefined || (request.kind === undefined && (request.saga ?? '') === '')
  let atOnce = isFound ? limit : SCANNED_AT_ONCE
  for (let left = isListed === undefined ? limit : LIST_SCANNED_MAX; left > 0; ) {
    const rows = await store.images.query({ namespace, statuses, attributes, after, limit: atOnce })
    for (const { key, stored } of rows) {
      after = key
      const image = decodeTransactionImage(stored.bytes)
      if (isListed?.(image) === false) continue
      transactions.push(viewOf(image, logs.outagesMsOf(image)))
      if (transactions.length === limit) return { transactions, asOfMs, nextPageToken: after }
    }
    if (rows.length < atOnce) return { transactions, asOfMs, nextPageToken: '' }
    left -= atOnce
    atOnce = Math.min(left, SCANNED_AT_ONCE)
  }
  return { transactions, asOfMs, nextPageToken: after }
}

/** The search attributes that the request asks for; undefined where that is nothing. */
function attributesOf({ businessKey = '', tags = {} }: ListRequest): Attributes | undefined {
  return businessKey === '' && Object.keys(tags).length === 0 ? undefined : { businessKey, tags }
}

/** What the request asks for; undefined where that is nothing. */
function filterOf(
  { kind, saga = '', statuses = [] }: ListRequest,
  attributes: Attributes | undefined,
): ((image: TransactionImage) => boolean) | undefined {
  const isOfSagas = saga !== '' || attributes !== undefined
  if (kind === undefined && !isOfSagas && statuses.length === 0) return undefined
  const wanted = new Set<Status>(statuses)
  return (image) => {
    if (kind !== undefined && image.head.kind !== kind) return false
    if (wanted.size > 0 && !wanted.has(transactionStatusOf(image))) return false
    if (!isOfSagas) return true
    if (!isSaga(image)) return false
    if (saga !== '' && image.head.saga !== saga) return false
    return attributes === undefined || hasAttributes(image.state, attributes)
  }
}
