import type { ListRequest, ListResponse, TransactionView } from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import type { Namespace } from '../core/ids.ts'
import { isSaga, type TransactionImage } from '../core/transaction.ts'
import type { Store } from '../store/store.ts'
import { decodeTransactionImage } from '../store/transaction-record.ts'
import { viewOf } from './views.ts'

const LIST_MAX = 1_000
/** Rows that one list looks at for what its filters ask for; the next page goes on behind them. */
export const LIST_SCANNED_MAX = 10_000
/** Rows of one look at the store. */
const SCANNED_AT_ONCE = 1_000

/** What a list needs to know of the logs. */
export interface ListedLogs {
  /** Wall clock of the last checkpoint of all logs: what the list is true for. */
  readonly asOfMs: number
  /** Wall time less log time of the log that has an image. */
  outagesMsOf(image: TransactionImage): number
}

/**
 * Answers a list from the rows of the store. With filters a page may have fewer than `limit`, or none, and still a next one:
 * a list looks at no more than `LIST_SCANNED_MAX` rows. Throws `invalidArgument`, and what the store throws.
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
  const isListed = filterOf(request)
  const atOnce = isListed === undefined ? limit : SCANNED_AT_ONCE
  const transactions: TransactionView[] = []
  let after = request.pageToken ?? ''
  for (let left = isListed === undefined ? limit : LIST_SCANNED_MAX; left > 0; left -= atOnce) {
    const rows = await store.images.query({ namespace, statuses, after, limit: atOnce })
    for (const { key, stored } of rows) {
      after = key
      const image = decodeTransactionImage(stored.bytes)
      if (isListed?.(image) === false) continue
      transactions.push(viewOf(image, logs.outagesMsOf(image)))
      if (transactions.length === limit) return { transactions, asOfMs, nextPageToken: after }
    }
    if (rows.length < atOnce) return { transactions, asOfMs, nextPageToken: '' }
  }
  return { transactions, asOfMs, nextPageToken: after }
}

/** What the request asks for beside statuses; undefined where that is nothing. */
function filterOf(request: ListRequest): ((image: TransactionImage) => boolean) | undefined {
  const { kind, saga = '', businessKey = '' } = request
  const tags = Object.entries(request.tags ?? {})
  const isOfSagas = saga !== '' || businessKey !== '' || tags.length > 0
  if (kind === undefined && !isOfSagas) return undefined
  return (image) => {
    if (kind !== undefined && image.head.kind !== kind) return false
    if (!isOfSagas) return true
    if (!isSaga(image)) return false
    const { head, state } = image
    if (saga !== '' && head.saga !== saga) return false
    if (businessKey !== '' && state.businessKey !== businessKey) return false
    return tags.every(([name, value]) => state.tags[name] === value)
  }
}
