/**
 * One local transaction behind the barrier. Source of the idea: DTM's sub-transaction barrier (dtm-labs/client,
 * dtmcli/barrier.go); the rules are in protos/escrow/v1/BARRIER.md.
 *
 * | where it is  | what was sent                          | leaves by                                                      |
 * |--------------|----------------------------------------|----------------------------------------------------------------|
 * | opening      | BEGIN, the row, a savepoint: one trip  | row written → working; key taken → repeated; not ours → refused; a compensation with nothing to undo → committing |
 * | working      | the caller's statements                | resolves → committing; refuses → refusing; throws → ROLLBACK    |
 * | refusing     | savepoint undone, row changed, COMMIT  | as committing                                                   |
 * | committing   | the guard, then COMMIT: one trip       | COMMIT → done; a server's error → ROLLBACK; silence → uncertain |
 * | repeated     | the row of the earlier one is read     | its outcome is given again                                      |
 */
import type { FixedBody } from '../../core/api.ts'
import { EscrowError } from '../../core/errors.ts'
import { later } from '../later.ts'
import { Refusal } from '../refusal.ts'
import { decodeFixedBodies, encodeFixedBodies } from './fixed-bodies.ts'
import { LATER_REASON, resultJson } from './kept-result.ts'
import { keepsRefusal, type Opened, openText, readOpened, refusedText, rowCondition } from './opening.ts'
import {
  bytesLiteral,
  type Checkout,
  checkOut,
  literal,
  type PostgresClient,
  type PostgresPool,
  sendText,
  sqlState,
} from './postgres-client.ts'
import type { BarrierTable } from './table.ts'

/** What a barrier row is about. `action` and `compensation` are a step's. */
export type BarrierOperation = 'local' | 'deliver' | 'action' | 'compensation'

/** Whose row it is: the local transaction that `sendInTransaction` gives, a message that a handler was given, a step's call. */
export interface BarrierSubject {
  readonly operation: BarrierOperation
  readonly namespace: string
  readonly executionId: string
  /** The database that the coordinator was told; another one than the barrier's is refused. Empty: not told. */
  readonly databaseId?: string | undefined
  /** Of a compensation: the action is known to be done. Otherwise a missing row means that it wasn't, and never will be. */
  readonly isActionDone?: boolean | undefined
  /** How long ago its outcome was first asked for, in milliseconds. */
  readonly ageMs?: (() => number) | undefined
  /** The bodies that were fixed, complete and within the limits; throws otherwise. Asked for before COMMIT. */
  readonly sealBodies?: (() => readonly FixedBody[]) | undefined
  /** Takes over the bodies of a transaction that had been committed before. */
  readonly restoreBodies?: ((bodies: readonly FixedBody[]) => void) | undefined
  /** Of a local transaction that a step sends in: it didn't commit, and never will, though the step is done. */
  readonly abandon?: (() => void) | undefined
}

/** The isolation level of a local transaction. */
export type Isolation = 'read committed' | 'repeatable read' | 'serializable'

/** What `run` needs to know of its barrier. */
export interface RunContext {
  readonly table: BarrierTable
  readonly lockTimeoutMs: number
  readonly resultBytesMax: number
  readonly retentionMs: number
}

/** One call of `run`. */
export interface RunRequest<T> {
  readonly subject: BarrierSubject
  /** The local transaction of messages that commits with the subject, or not at all. */
  readonly sending: BarrierSubject | undefined
  readonly connection: PostgresClient | PostgresPool
  /** For a compensation with what its action's row kept. */
  readonly work: (client: PostgresClient, actionResult: unknown) => Promise<T> | T
  readonly isolation: Isolation | undefined
}

/** How often a transaction is begun again because another one of the same key ended in between. */
const OPEN_TRIES_MAX = 5
const GUARD = 'escrow: another transaction'
const UNDO_WORK = 'rollback to savepoint escrow_work;\n'
const ISOLATIONS: readonly unknown[] = ['read committed', 'repeatable read', 'serializable', undefined]

/** Does the work and writes the row in one local transaction, or gives the outcome of the one that did before. */
export async function runBehindBarrier<T>(context: RunContext, request: RunRequest<T>): Promise<T> {
  checkRequest(context, request)
  // Before a connection is taken: a text that has no form in SQL throws here.
  const key = rowCondition(request.subject, request.subject.operation)
  const checkout = await checkOut(request.connection)
  const sendingKey = request.sending && rowCondition(request.sending, 'local')
  const run = new Run(context, request, checkout, { key, sendingKey })
  try {
    return await run.run()
  } finally {
    checkout.release(run.isBroken)
  }
}

function checkRequest(context: RunContext, { subject, sending, isolation }: RunRequest<unknown>): void {
  checkSubject(context, subject)
  if (sending !== undefined) checkSubject(context, sending)
  if (!ISOLATIONS.includes(isolation))
    throw new EscrowError('invalidArgument', `isolation ${String(isolation)} is not one`)
}

function checkSubject(context: RunContext, subject: BarrierSubject): void {
  if (subject.databaseId && subject.databaseId !== context.table.databaseId) {
    throw new EscrowError(
      'wouldNotShareTransaction',
      `prepared for database ${subject.databaseId}, but this barrier stands in ${context.table.databaseId}`,
    )
  }
  // A rollback row that settled it may have been swept: what starts so late could commit what was rolled back.
  if (subject.ageMs !== undefined && subject.ageMs() > context.retentionMs / 2) {
    throw refusedLocal('the local transaction starts later than the barrier remembers')
  }
}

class Run<T> {
  /** The connection is in a state that nobody knows: it must not be used again. */
  isBroken = false
  readonly #context: RunContext
  readonly #request: RunRequest<T>
  readonly #client: PostgresClient
  readonly #key: string
  readonly #sendingKey: string | undefined
  readonly #keepsRefusal: boolean
  #xid = ''

  constructor(
    context: RunContext,
    request: RunRequest<T>,
    checkout: Checkout,
    { key, sendingKey }: { readonly key: string; readonly sendingKey: string | undefined },
  ) {
    this.#context = context
    this.#request = request
    this.#client = checkout.client
    this.#keepsRefusal = keepsRefusal(request.subject)
    this.#key = key
    this.#sendingKey = sendingKey
  }

  async run(): Promise<T> {
    const opened = await this.#open()
    if ('result' in opened) return opened.result as T
    const { subject, sending } = this.#request
    if (subject.operation === 'compensation' && (await this.#hasNothingToUndo(opened))) {
      await this.#commit('', sending === undefined ? '' : UNDO_WORK)
      sending?.abandon?.()
      return undefined as T
    }
    const kept = opened.action?.result ?? null
    let result: T
    try {
      result = await this.#request.work(this.#client, kept === null ? undefined : JSON.parse(kept))
    } catch (error) {
      if (this.#keepsRefusal && error instanceof Refusal) await this.#refuse(error)
      else await this.#rollBack()
      throw error
    }
    await this.#commit(await this.#keep(result))
    return result
  }

  /** The action was refused, or never done: with the row that this transaction wrote for it, it never will be. */
  async #hasNothingToUndo({ action }: Opened): Promise<boolean> {
    if (action !== undefined) return action.outcome !== 'committed'
    await this.#rollBack()
    throw new EscrowError(
      'wouldNotShareTransaction',
      'the action is known to be done, but its row is not here: it was done in another database, or without the barrier',
    )
  }

  /** Begins the transaction with its row; tells what it found when the work may start, else what one before it left. */
  async #open(): Promise<Opened | { result: unknown }> {
    for (let attempt = 1; attempt <= OPEN_TRIES_MAX; attempt++) {
      const opened = await this.#tryOpen()
      if (typeof opened === 'object') return opened
      if (opened === 'taken') {
        const [row, sent] = await this.#readRows()
        if (row !== undefined) return this.#repeat(row, sent)
        if (sent !== undefined) throw alreadySettled(sent)
      }
      // The row was swept, or its transaction ended after our snapshot: a new one sees clearly.
    }
    throw new EscrowError(
      'overloaded',
      `the barrier row changed hands ${OPEN_TRIES_MAX} times while it was asked for`,
    )
  }

  async #tryOpen(): Promise<Opened | 'taken' | 'again'> {
    const { table, lockTimeoutMs } = this.#context
    const { subject, sending, isolation } = this.#request
    const opening = { table, subject, sending, isolation, lockTimeoutMs }
    try {
      const opened = readOpened(opening, await sendText(this.#client, openText(opening)))
      if (!opened.isFresh) throw this.#alreadyOpen()
      if (opened.xid === undefined || !opened.isSendingOpen) {
        await this.#rollBack()
        return 'taken'
      }
      this.#xid = opened.xid
      return opened
    } catch (error) {
      if (error instanceof EscrowError) throw error
      if (sqlState(error) === '25P02') throw this.#alreadyOpen()
      await this.#rollBack()
      // Under REPEATABLE READ and SERIALIZABLE: the row's transaction ended after our snapshot. The work hasn't begun.
      if (sqlState(error) === '40001') return 'again'
      if (sqlState(error) === '55P03') throw this.#keyIsHeld(error)
      throw error
    }
  }

  #alreadyOpen(): EscrowError {
    // Out of a pool it was left open by somebody who is gone; a connection of the caller's stays as it is.
    this.isBroken = true
    return new EscrowError(
      'wouldNotShareTransaction',
      'a transaction is open on this connection already: the barrier begins and ends its own',
    )
  }

  #keyIsHeld(cause: unknown): EscrowError {
    const ms = this.#context.lockTimeoutMs
    return new EscrowError(
      'overloaded',
      `another transaction of this execution has been open for over ${ms} ms`,
      { cause },
    )
  }

  /** The rows that took the keys, or undefined where there is none. Throws when the table isn't the one it was. */
  async #readRows(): Promise<readonly [BarrierRow | undefined, BarrierRow | undefined]> {
    const { table } = this.#context
    const rowText = (key: string): string =>
      `select outcome, reason, result, bodies from ${table.name} where ${key};\n`
    const results = await sendText(
      this.#client,
      `${rowText(this.#key)}${rowText(this.#sendingKey ?? 'false')}select result from ${table.name} where namespace = '' and execution_id = '' and operation = 'database'`,
    )
    const databaseId = results[2]?.rows[0]?.result
    if (databaseId !== table.databaseId) {
      throw new EscrowError(
        'wouldNotShareTransaction',
        `the connection leads to database ${String(databaseId)}, but this barrier stands in ${table.databaseId}`,
      )
    }
    const row = (at: number) => results[at]?.rows[0] as BarrierRow | undefined
    return [row(0), row(1)]
  }

  #repeat(row: BarrierRow, sent: BarrierRow | undefined): { result: unknown } {
    const { subject, sending } = this.#request
    if (row.outcome === 'rolledBack') {
      if (subject.operation === 'local') throw alreadySettled(row)
      throw new EscrowError('barrierRefused', 'this execution was compensated before its action came')
    }
    if (row.outcome === 'refused')
      throw new Refusal(row.reason ?? '', row.result === null ? '' : JSON.parse(row.result))
    // An earlier attempt did the work, with a transaction of its own: this one can't commit any more, as nobody can write
    // both rows. It is the same one only where the caller gave both the same id.
    if (sent?.outcome === 'committed') restoreBodies(sending, sent)
    else sending?.abandon?.()
    if (row.reason === LATER_REASON) return { result: later }
    restoreBodies(subject, row)
    return { result: row.result === null ? undefined : JSON.parse(row.result) }
  }

  /** The statement that keeps result and bodies in the row; empty when there is nothing to keep. */
  async #keep(result: T): Promise<string> {
    try {
      const { subject, sending } = this.#request
      const bodies = (sending ?? subject).sealBodies?.() ?? []
      const kept = bodies.length === 0 ? [] : [`bodies = ${bytesLiteral(encodeFixedBodies(bodies))}`]
      const sets = sending === undefined ? kept : []
      if (result === later) sets.push(`reason = ${literal(LATER_REASON)}`)
      const json = resultJson(result, this.#context.resultBytesMax)
      if (json !== undefined) sets.push(`result = ${literal(json)}`)
      const sent = sending === undefined ? '' : this.#update(kept, this.#sendingKey as string)
      return this.#update(sets, this.#key) + sent
    } catch (error) {
      await this.#rollBack()
      throw error
    }
  }

  #update(sets: readonly string[], key: string): string {
    return sets.length === 0
      ? ''
      : `update ${this.#context.table.name} set ${sets.join(', ')} where ${key};\n`
  }

  async #refuse(refusal: Refusal): Promise<void> {
    await this.#commit(refusedText(this.#context.table, this.#key, refusal), UNDO_WORK)
  }

  /**
   * Commits. The guard stands before the row's last words and before COMMIT in one text: PostgreSQL drops the rest of a
   * text after an error, so what began or ended a transaction in between can't be committed under our row.
   */
  async #commit(keep: string, undo = ''): Promise<void> {
    const text = `${undo}select (case when pg_current_xact_id_if_assigned()::text = '${this.#xid}' then '1' else '${GUARD}' end)::int,
  case when current_setting('synchronous_commit') = 'off' then set_config('synchronous_commit', 'on', true) end;
${keep}commit`
    let command: string | undefined
    try {
      command = (await sendText(this.#client, text)).at(-1)?.command
    } catch (error) {
      throw await this.#commitError(error)
    }
    if (command === 'COMMIT') return
    await this.#rollBack()
    throw transactionFailed(`COMMIT was answered with ${String(command)}`)
  }

  async #commitError(error: unknown): Promise<unknown> {
    const state = sqlState(error)
    if (state === undefined) {
      this.isBroken = true
      return new EscrowError(
        'uncertain',
        'the connection was lost while the local transaction was being committed',
        {
          cause: error,
        },
      )
    }
    await this.#rollBack()
    if (state === '25P02') return transactionFailed('a statement failed and the work went on', error)
    const isGuard = state === '22P02' && error instanceof Error && error.message.includes(GUARD)
    // 3B001 and 25P01: the savepoint to which a refusal returns is gone, with the transaction that it was set in.
    if (!isGuard && state !== '3B001' && state !== '25P01') return error
    return new EscrowError('wouldNotShareTransaction', 'the work began or ended a transaction by itself', {
      cause: error,
    })
  }

  async #rollBack(): Promise<void> {
    try {
      await this.#client.query('rollback')
    } catch {
      // The server rolls back what a lost connection leaves; what matters here is the error that led to this.
      this.isBroken = true
    }
  }
}

interface BarrierRow {
  readonly outcome: 'committed' | 'rolledBack' | 'refused'
  readonly reason: string | null
  readonly result: string | null
  readonly bodies: Uint8Array | null
}

function restoreBodies(subject: BarrierSubject | undefined, { bodies }: BarrierRow): void {
  if (bodies !== null) subject?.restoreBodies?.(decodeFixedBodies(bodies))
}

/** Told apart from a step's own: a step whose message was rolled back is tried again, with a new one. */
function refusedLocal(message: string): EscrowError {
  return new EscrowError('barrierRefused', message, { details: { operation: 'local' } })
}

/** The row of a local transaction is there, though this transaction didn't write it. */
function alreadySettled({ outcome }: BarrierRow): EscrowError {
  if (outcome === 'rolledBack')
    return refusedLocal('a check-back has settled this local transaction as rolled back')
  return new EscrowError(
    'wouldNotShareTransaction',
    'the local transaction was committed without this step: each wants a transaction id of its own',
  )
}

function transactionFailed(message: string, cause?: unknown): EscrowError {
  return new EscrowError('localTransactionFailed', `the local transaction was rolled back: ${message}`, {
    cause,
  })
}
