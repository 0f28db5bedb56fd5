import type { ExecutionView, ListResponse, SagaView, TransactionView } from '../core/api.ts'

/** A wall-clock time for people; `-` for none. */
export const time = (ms: number): string => (ms === 0 ? '-' : new Date(ms).toISOString())

/** Texts come from services and participants: a control character in one must not steer the terminal that shows it. */
export const shown = (text: string): string => text.replace(/\p{Cc}/gu, '?')

/** Prints one transaction: JSON, or lines for people. */
export function printTransaction(transaction: TransactionView, json: boolean): void {
  if (json) return console.log(JSON.stringify(plain(transaction), undefined, 2))
  const { saga } = transaction
  for (const [name, value] of saga === undefined ? messageRows(transaction) : sagaRows(transaction, saga))
    if (value !== '') console.log(`${name.padEnd(13)} ${shown(value)}`)
  printDeliveries(transaction)
  for (const execution of saga?.executions ?? []) printExecution(execution)
}

type Rows = readonly (readonly [name: string, value: string])[]

function messageRows(transaction: TransactionView): Rows {
  const settled =
    transaction.settledBy === '' ? '-' : `${time(transaction.settledAtMs)} by ${transaction.settledBy}`
  return [
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
}

function sagaRows(transaction: TransactionView, saga: SagaView): Rows {
  const tags = Object.entries(saga.tags).map(([key, value]) => `${key}=${value}`)
  return [
    ['id', transaction.id],
    ['namespace', transaction.namespace],
    ['status', transaction.status],
    ['saga', sagaName(saga)],
    ['business key', saga.businessKey],
    ['tags', tags.join(', ')],
    ['reason', transaction.reason],
    // Why it is undone, where it is parked for something else beside.
    ['undone for', saga.error === transaction.reason ? '' : saga.error],
    ['output', jsonText(saga.output)],
    ['state', saga.state],
    ['kept signals', saga.signals.join(', ')],
    ['timers', saga.timers === 0 ? '' : String(saga.timers)],
    ['execution', transaction.executionId],
    ['ordering key', transaction.orderingKey],
    ['started', time(transaction.preparedAtMs)],
    ['ended', time(transaction.settledAtMs)],
    ['trace', transaction.trace.traceparent],
  ]
}

/** A definition with its version, or that it is a routing slip. */
const sagaName = ({ name, version }: SagaView): string =>
  name === '' ? 'routing slip' : `${name} version ${version}`

const jsonText = (bytes: Uint8Array | undefined): string =>
  bytes === undefined ? '' : Buffer.from(bytes).toString()

function printDeliveries({ deliveries }: TransactionView): void {
  for (const { executionId, destination, status, attempts, error, nextAttemptAtMs } of deliveries) {
    console.log(`delivery      ${shown(destination)} ${status}, ${attempts} failed attempts`)
    console.log(`  execution   ${shown(executionId)}`)
    if (nextAttemptAtMs > 0) console.log(`  next        ${time(nextAttemptAtMs)}`)
    if (error !== '') console.log(`  error       ${shown(error)}`)
  }
}

function printExecution({ executionId, step, status, attempts, error, compensation }: ExecutionView): void {
  const undoing = compensation === '' ? '' : `, compensation ${compensation}`
  const failed = attempts === 0 ? '' : `, ${attempts} failed attempts`
  console.log(`step          ${shown(`${step} ${status}${undoing}${failed}`)}`)
  console.log(`  execution   ${shown(executionId)}`)
  if (error !== '') console.log(`  error       ${shown(error)}`)
}

/** As JSON has it: what is JSON in itself is not text or bytes in it. */
function plain(transaction: TransactionView): object {
  const { saga } = transaction
  if (saga === undefined) return transaction
  const output = saga.output === undefined ? undefined : JSON.parse(jsonText(saga.output))
  const state = saga.state === '' ? undefined : JSON.parse(saga.state)
  return { ...transaction, saga: { ...saga, output, state } }
}

/** Prints a page of transactions: JSON, or a table for people. */
export function printList(page: ListResponse, json: boolean): void {
  if (json)
    return console.log(JSON.stringify({ ...page, transactions: page.transactions.map(plain) }, undefined, 2))
  printTable(
    ['ID', 'STATUS', 'CHECKER OR SAGA', 'BEGUN', 'STEPS', 'REASON'],
    page.transactions.map(({ id, status, checker, saga, preparedAtMs, reason }) => [
      id,
      status,
      saga === undefined ? checker : sagaName(saga),
      time(preparedAtMs),
      stepCounts(saga?.executions ?? []),
      reason,
    ]),
  )
  console.log(`\n${page.transactions.length} as of ${time(page.asOfMs)}`)
  if (page.nextPageToken !== '') console.log(`more: --page-token ${JSON.stringify(page.nextPageToken)}`)
}

/** How many steps stand how: `2 done, 1 running`; of those that are undone, how that stands. */
function stepCounts(executions: readonly ExecutionView[]): string {
  const counts = new Map<string, number>()
  for (const { status, compensation } of executions) {
    const word = compensation === '' ? status : `compensation ${compensation}`
    counts.set(word, (counts.get(word) ?? 0) + 1)
  }
  return [...counts].map(([word, count]) => `${count} ${word}`).join(', ')
}

/** Prints rows below each other, each column as wide as its widest cell. */
export function printTable(header: readonly string[], cells: readonly (readonly string[])[]): void {
  const rows = [header, ...cells.map((row) => row.map(shown))]
  const widths = header.map((_, at) => Math.max(...rows.map((row) => row[at]?.length ?? 0)))
  for (const row of rows)
    console.log(
      row
        .map((cell, at) => cell.padEnd(widths[at] ?? 0))
        .join('  ')
        .trimEnd(),
    )
}
