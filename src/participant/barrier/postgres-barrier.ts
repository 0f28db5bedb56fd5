import type { TransactionChecker } from '../checker.ts'
import type { Refusal } from '../refusal.ts'
import { bounded } from '../session-options.ts'
import type { StepCall } from '../step.ts'
import { checkBarrier } from './check.ts'
import type { ClientOf, PostgresClient, PostgresPool } from './postgres-client.ts'
import { type BarrierSubject, type Isolation, runBehindBarrier } from './run.ts'
import { sweepBarrier, sweepRegularly } from './sweep.ts'
import { openTable, type TableOptions } from './table.ts'

/** Options of a barrier; a value out of its range is refused with `invalidArgument`. */
export interface PostgresBarrierOptions extends TableOptions {
  /**
   * How long rows are kept. Default 14 days, at least 8: a coordinator sends an operation again up to 7 days after its
   * first dispatch, and only the row tells that it was done.
   */
  readonly retentionMs?: number | undefined
  /** How long a check-back or an attempt waits for another transaction of the same execution. Default 5,000; 1-60,000. */
  readonly lockTimeoutMs?: number | undefined
  /** The longest result kept in a row, as JSON. Default 65,536; up to 1,048,576. */
  readonly resultBytesMax?: number | undefined
  /** About how often a session or participant that uses it sweeps. Default 3,600,000; 0 for never; at least 1,000. */
  readonly sweepEveryMs?: number | undefined
  /** How many rows one statement of a sweep deletes. Default 1,000; 1-100,000. */
  readonly sweepBatchRows?: number | undefined
  /** How many such statements one sweep sends. Default 100; 1-10,000. */
  readonly sweepBatchesMax?: number | undefined
}

/** One local transaction's options. */
export interface RunOptions {
  /** Default: the database's own. */
  readonly isolation?: Isolation | undefined
}

/** One step's options. */
export interface StepRunOptions extends RunOptions {
  /** What `sendInTransaction` gives its callback: its messages go if, and only if, this step's work commits. */
  readonly tx?: (BarrierSubject & { readonly operation: 'local' }) | undefined
}

/** A barrier in a service's own PostgreSQL database: one small table. See protos/escrow/v1/BARRIER.md. */
export interface PostgresBarrier {
  /** The UUID of the table, told at registration and at prepare. */
  readonly databaseId: string
  /** Answers check-backs from the table, so that no checker has to be written by hand. */
  readonly checker: TransactionChecker
  /**
   * Runs `work` once per subject in one local transaction with its row, and commits it: 2 round trips beside the work's own.
   * When it resolves, the transaction is committed. A repeated call doesn't run the work: it gives the result, or the
   * refusal, of the one that was committed. Kept are results that JSON can hold; an answer of a statement is not kept.
   *
   * `connection` is a pool, or a client of the caller's with no transaction open on it. `work` must use the client that it
   * is given, and neither begin nor end a transaction.
   *
   * Rejects with whatever the work threw, after ROLLBACK; with a `Refusal` that the work of a delivery threw, after the
   * row `refused` is committed; with `barrierRefused` when the transaction was settled as rolled back;
   * `localTransactionFailed` when a statement failed and the work went on; `wouldNotShareTransaction`; `bodiesMissing`; `tooLarge`; `overloaded` when
   * another attempt holds the key; `uncertain` when the connection was lost at COMMIT: never assume, the check-back finds
   * out.
   */
  run<S extends BarrierSubject, C extends PostgresClient | PostgresPool, T>(
    subject: S,
    connection: C,
    work: (client: ClientOf<C>, subject: S) => Promise<T> | T,
    options?: RunOptions,
  ): Promise<T>
  /**
   * The same for a step: runs its action, or its compensation, once for each execution, whatever comes in which order.
   *
   * An action: a repeated call gets the same result, `later` or refusal again. Rejects with `barrierRefused` when its
   * compensation came first: it must not be done any more, and never will be.
   *
   * A compensation: resolves with undefined, without running `work`, where there is nothing to undo: the action was
   * refused, or never came and never will. `work` is given the result that the action's row kept, which may be there
   * although the coordinator doesn't know it. A `Refusal` that it throws isn't kept: an operator may have it tried again.
   * Rejects with `wouldNotShareTransaction` when the action is known to be done and has no row here.
   *
   * A step that sends messages does so in the same local transaction, and leaves their transaction's id out:
   *
   * ```ts
   * action: async (order, call) => {
   *   const request = { checker: 'orders', messages: [{ to: 'audit/order-confirmed', body: order }] }
   *   const sent = await session.sendInTransaction(request, (tx) =>
   *     barrier.step(call, pool, (client) => recordConfirmation(client, order), { tx }),
   *   )
   *   return sent.value
   * }
   * ```
   *
   * However often it is attempted, and wherever an attempt dies, its messages go once, with the work. A repeated call
   * gets the result of the first, and its own transaction is rolled back.
   *
   * Beside that it rejects as `run`.
   */
  step<S extends StepSubject, C extends PostgresClient | PostgresPool, T>(
    call: S,
    connection: C,
    work: (client: ClientOf<C>, actionResult: unknown) => Promise<T> | T,
    options?: StepRunOptions,
  ): Promise<S['operation'] extends 'action' ? T : T | undefined>
  /**
   * Keeps a refusal that an action threw outside of `step`, on a connection of the pool that the barrier was opened with.
   * Rejects with it once it is durable, or with the refusal that is there already; resolves with the result of an earlier
   * attempt that was done after all. What serves a step with this barrier calls it.
   */
  refuse(call: StepSubject, refusal: Refusal): Promise<unknown>
  /** Deletes rows past their retention, in small batches; answers how many. Harmless to repeat, also at the same time. */
  sweep(): Promise<number>
}

/** What of a call names its rows. */
export type StepSubject = Pick<StepCall, 'operation' | 'namespace' | 'executionId' | 'isActionDone'>

const DAY_MS = 86_400_000

/**
 * Opens the barrier of the database that `pool` leads to, and creates its table where that isn't there yet (several may do
 * so at once). Rejects with the database's error, or with `invalidArgument`.
 */
export async function postgresBarrier(
  pool: PostgresPool,
  options: PostgresBarrierOptions = {},
): Promise<PostgresBarrier> {
  const settings = parseOptions(options)
  const table = await openTable(pool, options)
  const context = { ...settings, pool, table }
  const sweep = (): Promise<number> => sweepBarrier(context)
  return {
    databaseId: table.databaseId,
    checker: {
      databaseId: table.databaseId,
      check: (question) => checkBarrier(context, question),
      attach: (runtime) =>
        settings.sweepEveryMs === 0 ? () => {} : sweepRegularly(runtime, settings.sweepEveryMs, sweep),
    },
    run(subject, connection, work, runOptions = {}) {
      // The client that a pool of this type gives, or the client itself: ClientOf says the same in types.
      const typed = work as unknown as (
        client: PostgresClient,
        subject: BarrierSubject,
      ) => ReturnType<typeof work>
      return runBehindBarrier(context, {
        subject,
        sending: undefined,
        connection,
        work: (client) => typed(client, subject),
        isolation: runOptions.isolation,
      })
    },
    step(call, connection, work, runOptions = {}) {
      const typed = work as unknown as (client: PostgresClient, result: unknown) => ReturnType<typeof work>
      return runBehindBarrier(context, {
        subject: call,
        sending: runOptions.tx,
        connection,
        work: typed,
        isolation: runOptions.isolation,
      }) as Promise<never>
    },
    refuse: (call, refusal) =>
      runBehindBarrier(context, {
        subject: call,
        sending: undefined,
        connection: pool,
        work: () => Promise.reject(refusal),
        isolation: undefined,
      }),
    sweep,
  }
}

function parseOptions(options: PostgresBarrierOptions) {
  return Object.freeze({
    retentionMs: bounded('retentionMs', options.retentionMs ?? 14 * DAY_MS, 8 * DAY_MS, 3650 * DAY_MS),
    lockTimeoutMs: bounded('lockTimeoutMs', options.lockTimeoutMs ?? 5000, 1, 60_000),
    resultBytesMax: bounded('resultBytesMax', options.resultBytesMax ?? 65_536, 0, 1 << 20),
    sweepEveryMs:
      options.sweepEveryMs === 0
        ? 0
        : bounded('sweepEveryMs', options.sweepEveryMs ?? 3_600_000, 1000, DAY_MS),
    batchRows: bounded('sweepBatchRows', options.sweepBatchRows ?? 1000, 1, 100_000),
    batchesMax: bounded('sweepBatchesMax', options.sweepBatchesMax ?? 100, 1, 10_000),
  })
}
