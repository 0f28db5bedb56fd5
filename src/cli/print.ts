import type { ListResponse, TransactionView } from '../core/api.ts'

const time = (ms: number): string => (ms === 0 ? '-' : new Date(ms).toISOString())

/** Texts come from services and participants: a control character in one must not steer the terminal that shows it. */
const shown = (text: string): string => text.replace(/\p{Cc}/gu, '?')

/** Prints one transaction: JSON, or lines for people. */
export function printTransaction(transaction: TransactionView, json: boolean): void {
  if (json) return console.log(JSON.stringify(transaction, undefined, 2))
  const settled =
    transaction.settledBy === '' ? '-' : `${time(transaction.settledAtMs)} by ${transaction.settledBy}`
  const rows: readonly (readonly [string, string])[] = [
    ['id', transaction.id],
    ['namespace', transaction.namespace],
    ['status', transaction.status],
    ['reason', transaction.reason],
    ['execution', transaction.executionId],
    ['checker', transaction.checker],
    ['ordering key', transaction.orderingKey],
    ['prepared', time(transaction.preparedAtMs)],
    ['settled', settled],
    ['check-backs', String(transaction.checks)],
    ['trace', transaction.trace.traceparent],
  ]
  for (const [name, value] of rows) if (value !== '') console.log(`${name.padEnd(13)} ${shown(value)}`)
  for (const {
    executionId,
    destination,
    status,
    attempts,
    error,
    nextAttemptAtMs,
  } of transaction.deliveries) {
    console.log(`delivery      ${shown(destination)} ${status}, ${attempts} failed attempts`)
    console.log(`  execution   ${shown(executionId)}`)
    if (nextAttemptAtMs > 0) console.log(`  next        ${time(nextAttemptAtMs)}`)
    if (error !== '') console.log(`  error       ${shown(error)}`)
  }
}

/** Prints a page of transactions: JSON, or a table for people. */
export function printList(page: ListResponse, json: boolean): void {
  if (json) return console.log(JSON.stringify(page, undefined, 2))
  const rows = page.transactions.map((each) =>
    [each.id, each.status, each.checker, time(each.preparedAtMs), each.reason].map(shown),
  )
  const header = ['ID', 'STATUS', 'CHECKER', 'PREPARED', 'REASON']
  const widths = header.map((name, at) => Math.max(name.length, ...rows.map((row) => row[at]?.length ?? 0)))
  for (const row of [header, ...rows])
    console.log(
      row
        .map((cell, at) => cell.padEnd(widths[at] ?? 0))
        .join('  ')
        .trimEnd(),
    )
  console.log(`\n${rows.length} as of ${time(page.asOfMs)}`)
  if (page.nextPageToken !== '') console.log(`more: --page-token ${JSON.stringify(page.nextPageToken)}`)
}
