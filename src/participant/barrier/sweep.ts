import type { Runtime } from '../../core/runtime.ts'
import { checkOut, type PostgresPool, sendText } from './postgres-client.ts'
import type { BarrierTable } from './table.ts'

/** What a sweep needs to know of its barrier. */
export interface SweepContext {
  readonly pool: PostgresPool
  readonly table: BarrierTable
  readonly retentionMs: number
  readonly batchRows: number
  readonly batchesMax: number
}

/** How far the clocks of coordinator and database may lie apart: rows stay so much longer than check-backs are decided. */
const CLOCK_MARGIN = '1 hour'

/**
 * Deletes rows past their retention, in batches, each in a transaction of its own; answers how many. First, and for good,
 * the table is told up to when it may have forgotten, so that no check-back takes a row that was swept for one that never was.
 */
export async function sweepBarrier(context: SweepContext): Promise<number> {
  const { client, release } = await checkOut(context.pool)
  let broken = true
  try {
    await sendText(client, horizonText(context))
    let swept = 0
    for (let batch = 0; batch < context.batchesMax; batch++) {
      const [deleted] = await sendText(client, batchText(context))
      swept += deleted?.rowCount ?? 0
      if ((deleted?.rowCount ?? 0) < context.batchRows) break
    }
    broken = false
    return swept
  } finally {
    release(broken)
  }
}

// The update waits for check-backs in flight, which hold a share lock on this row; those that come later see it.
function horizonText({ table, retentionMs }: SweepContext): string {
  const horizon = `now() - interval '${retentionMs} milliseconds'`
  return `update ${table.name} set swept_before = ${horizon}
  where namespace = '' and execution_id = '' and operation = 'database'
    and (swept_before is null or swept_before < ${horizon})`
}

function batchText({ table, batchRows }: SweepContext): string {
  return `delete from ${table.name} where ctid = any (array(
  select ctid from ${table.name} where operation <> 'database' and created_at <
    (select swept_before - interval '${CLOCK_MARGIN}' from ${table.name}
      where namespace = '' and execution_id = '' and operation = 'database')
  order by created_at limit ${batchRows} for update skip locked))`
}

/** Sweeps now and then until the function that it returns is called. A sweep that fails is tried again at the next turn. */
export function sweepRegularly(runtime: Runtime, everyMs: number, sweep: () => Promise<unknown>): () => void {
  let stopped = false
  let cancel = (): void => {}
  const plan = (): void => {
    // Between half and one and a half: the instances of a service don't sweep in step.
    cancel = runtime.setTimer(() => void turn(), everyMs * (0.5 + runtime.random()))
  }
  const turn = async (): Promise<void> => {
    try {
      await sweep()
    } catch {
      // Nothing is lost by a table that shrinks later; a database that is away tells so where it matters.
    }
    if (!stopped) plan()
  }
  plan()
  return () => {
    stopped = true
    cancel()
  }
}
