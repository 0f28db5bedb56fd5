import type { CommitRequest, PrepareResponse, TransactionRef, TransactionStatus } from '../core/api.ts'
import type { Limits } from '../core/envelope.ts'
import { EscrowError } from '../core/errors.ts'
import type { Runtime } from '../core/runtime.ts'
import {
  type LocalTransaction,
  OpenLocalTransaction,
  type TransactionRequest,
  toPrepareRequest,
} from './local-transaction.ts'
import type { RequestOptions } from './requests.ts'
import type { Session } from './session.ts'

/** How a transaction came out of `sendInTransaction`. */
export interface TransactionResult<T> {
  readonly id: string
  readonly executionId: string
  /** What the coordinator acknowledged: `committed`, or what came of it since. */
  readonly status: TransactionStatus
  /**
   * False when the local transaction is committed but the coordinator has not acknowledged that: there is nothing to do,
   * the check-back settles it. `error` tells what happened.
   */
  readonly acknowledged: boolean
  /**
   * The transaction had been settled before, under the same id: the callback was not called, `value` is undefined. Or it
   * is that of a step which an earlier attempt had done, with its messages: `value` is what that gave, and `status` is
   * `rolledBack`.
   */
  readonly repeated: boolean
  /** What the callback resolved to. */
  readonly value: T
  readonly error: EscrowError | undefined
}

/** One call of `sendInTransaction`. */
export interface Sending<T> {
  readonly session: Pick<Session, 'prepare' | 'commit' | 'rollback' | 'get' | 'requestCheckBack'>
  readonly context: { readonly namespace: string; readonly limits: Limits; readonly runtime: Runtime }
  readonly request: TransactionRequest
  readonly callback: (tx: LocalTransaction) => Promise<T> | T
  readonly options: RequestOptions
}

/** See `Session.sendInTransaction`. */
export async function sendInTransaction<T>({
  session,
  context,
  request,
  callback,
  options,
}: Sending<T>): Promise<TransactionResult<T>> {
  const prepare = toPrepareRequest(request)
  const prepared = await session.prepare(prepare, options)
  const { id, executionId } = prepared
  const ref = { namespace: request.namespace, id }
  const settled = await settledStatus(session, prepared, ref, options)
  if (settled !== undefined) {
    return {
      id,
      executionId,
      status: settled,
      acknowledged: true,
      repeated: true,
      value: undefined as T,
      error: undefined,
    }
  }
  const tx = new OpenLocalTransaction(prepare, prepared, context)
  let value: T
  let commit: CommitRequest
  try {
    value = await callback(tx)
    if (tx.isAbandoned) return { ...(await rollBack(session, ref, options)), executionId, value }
    commit = { ...ref, bodies: tx.sealBodies() }
  } catch (error) {
    // Not waited for: the schedule of check-backs finds out too, if this word is lost.
    session.requestCheckBack(ref).catch(() => {})
    throw error
  }
  try {
    const { status } = await session.commit(commit, { timeoutMs: options.timeoutMs })
    return { id, executionId, status, acknowledged: true, repeated: false, value, error: undefined }
  } catch (thrown) {
    const error = EscrowError.from(thrown)
    // What a broker would not take is committed all the same: the check-back settles it, and the delivery is parked.
    if (error.code === 'tooLarge') session.requestCheckBack(ref).catch(() => {})
    else if (error.family === 'refused') throw error
    return { id, executionId, status: 'prepared', acknowledged: false, repeated: false, value, error }
  }
}

/** Lets an abandoned transaction go. Where this word is lost, the schedule of check-backs finds out as well. */
async function rollBack(
  session: Sending<unknown>['session'],
  ref: TransactionRef,
  options: RequestOptions,
): Promise<Omit<TransactionResult<unknown>, 'executionId' | 'value'>> {
  const rolledBack = { id: ref.id, status: 'rolledBack', acknowledged: true, repeated: true } as const
  try {
    await session.rollback(
      { ...ref, reason: 'the step was done by an earlier attempt' },
      { timeoutMs: options.timeoutMs },
    )
    return { ...rolledBack, error: undefined }
  } catch (thrown) {
    return { ...rolledBack, status: 'prepared', acknowledged: false, error: EscrowError.from(thrown) }
  }
}

// An id of the caller's that was used before may be settled already: its local transaction must not run again.
async function settledStatus(
  session: Pick<Session, 'get'>,
  prepared: PrepareResponse,
  ref: TransactionRef,
  options: RequestOptions,
): Promise<TransactionStatus | undefined> {
  if (prepared.status === 'prepared') return undefined
  if (prepared.status === 'rolledBack') {
    throw new EscrowError('barrierRefused', `transaction ${ref.id} was settled as rolled back before`, {
      details: { operation: 'local' },
    })
  }
  if (prepared.status !== 'parked') return prepared.status
  const { settledBy, status } = await session.get(ref, options)
  return settledBy === '' ? undefined : status
}
