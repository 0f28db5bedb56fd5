/** How a local transaction begins behind the barrier: BEGIN, the rows and a savepoint in one text, and what it tells. */
import type { Refusal } from '../refusal.ts'
import { literal, type QueryResult } from './postgres-client.ts'
import type { BarrierSubject, Isolation } from './run.ts'
import type { BarrierTable } from './table.ts'

/** What an opening is made of. */
export interface Opening {
  readonly table: BarrierTable
  readonly subject: BarrierSubject
  /** The local transaction of messages that commits with the subject, or not at all. */
  readonly sending: BarrierSubject | undefined
  readonly isolation: Isolation | undefined
  readonly lockTimeoutMs: number
}

/** What an opening told. */
export interface Opened {
  /** The transaction is our own: none was open on the connection. */
  readonly isFresh: boolean
  /** The transaction, if it wrote our row; undefined when the key is taken, or the table is another one. */
  readonly xid: string | undefined
  /** The row of what is sent was written too; so it is where nothing is sent. */
  readonly isSendingOpen: boolean
  /** For a compensation: the action that it is to undo. */
  readonly action: ActionRow | undefined
}

/** The row of an action, as its compensation finds it. */
export interface ActionRow {
  readonly outcome: 'committed' | 'rolledBack' | 'refused'
  readonly result: string | null
}

/** Whether a refusal of this subject's work is kept as a result. A compensation's isn't: an operator may have it tried again. */
export const keepsRefusal = ({ operation }: BarrierSubject): boolean =>
  operation === 'deliver' || operation === 'action'

/** The condition that finds a row. */
export const rowCondition = (
  { namespace, executionId }: BarrierSubject,
  operation: BarrierSubject['operation'],
): string =>
  `namespace = ${literal(namespace)} and execution_id = ${literal(executionId)} and operation = ${literal(operation)}`

/** The text that opens the transaction; `readOpened` reads what it answers. */
export function openText(opening: Opening): string {
  const { subject, sending, isolation, lockTimeoutMs, table } = opening
  const isUndo = subject.operation === 'compensation'
  const parts = [
    `begin${isolation === undefined ? '' : ` isolation level ${isolation}`}`,
    // A transaction of our own began with this very text, so its now() is the text's; in one that was open before it is
    // older, and nothing may be written. The lock time-out holds for the rows alone: the work has the caller's.
    `select now() = statement_timestamp() as fresh,
  set_config('escrow.lock_timeout', current_setting('lock_timeout'), true),
  set_config('lock_timeout', case when now() = statement_timestamp() then '${lockTimeoutMs}' else current_setting('lock_timeout') end, true)`,
  ]
  // First the action's row: this waits for an action in flight, and turns away one that comes later.
  if (isUndo && subject.isActionDone !== true) parts.push(insertText(opening, 'action', 'rolledBack'))
  const giveBack = `set_config('lock_timeout', current_setting('escrow.lock_timeout'), true)`
  parts.push(
    `${insertText(opening, subject.operation, 'committed')}
  returning pg_current_xact_id()::text as xid${sending === undefined ? `, ${giveBack}` : ''}`,
  )
  if (isUndo) parts.push(`select outcome, result from ${table.name} where ${rowCondition(subject, 'action')}`)
  if (keepsRefusal(subject) || sending !== undefined) parts.push('savepoint escrow_work')
  // Behind the savepoint: what is refused, or has nothing to undo, sends nothing.
  if (sending !== undefined)
    parts.push(`${insertText({ table, subject: sending }, 'local', 'committed')}\n  returning ${giveBack}`)
  return parts.join(';\n')
}

function insertText(
  { table, subject }: Pick<Opening, 'table' | 'subject'>,
  operation: BarrierSubject['operation'],
  outcome: string,
): string {
  const values = [subject.namespace, subject.executionId, operation, outcome].map(literal).join(', ')
  return `insert into ${table.name} (namespace, execution_id, operation, outcome)
  select ${values} from ${table.name}
  where namespace = '' and execution_id = '' and operation = 'database'
    and result = ${literal(table.databaseId)} and now() = statement_timestamp()
  on conflict (namespace, execution_id, operation) do nothing`
}

/** Reads what `openText` answered. */
export function readOpened({ subject, sending }: Opening, results: readonly QueryResult[]): Opened {
  const isUndo = subject.operation === 'compensation'
  const own = isUndo && subject.isActionDone !== true ? 3 : 2
  const xid = results[own]?.rows[0]?.xid
  return {
    isFresh: results[1]?.rows[0]?.fresh === true,
    xid: xid === undefined ? undefined : String(xid),
    isSendingOpen: sending === undefined || results.at(-1)?.rows.length === 1,
    action: isUndo ? (results[own + 1]?.rows[0] as ActionRow | undefined) : undefined,
  }
}

/** The statement that turns our row into that of a refusal; its code stands where a result would. */
export const refusedText = (table: BarrierTable, condition: string, refusal: Refusal): string => {
  const text = (value: string): string => literal(value.replaceAll('\0', ''))
  const code = refusal.code === '' ? 'null' : text(JSON.stringify(refusal.code))
  return `update ${table.name} set outcome = 'refused', reason = ${text(refusal.message)}, result = ${code} where ${condition};\n`
}
