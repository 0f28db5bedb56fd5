import type { CheckBackRequest } from '../../core/api.ts'
import type { CheckerAnswer } from '../checker.ts'
import { decodeFixedBodies } from './fixed-bodies.ts'
import {
  checkOut,
  literal,
  type PostgresPool,
  type QueryResult,
  sendText,
  sqlState,
} from './postgres-client.ts'
import type { BarrierTable } from './table.ts'

/** What a check-back needs to know of its barrier. */
export interface CheckContext {
  readonly pool: PostgresPool
  readonly table: BarrierTable
  readonly lockTimeoutMs: number
  readonly retentionMs: number
}

/**
 * Says how a local transaction ended, or sees to it that it can never commit: inserts a rollback row, which waits on the
 * key for a transaction in flight and turns away one that comes later. Answers after its own COMMIT. `unknown` when the key
 * stays locked, when the row may have been swept, or when the table isn't the one it was; rejects when the database fails.
 */
export async function checkBarrier(
  context: CheckContext,
  question: CheckBackRequest,
): Promise<CheckerAnswer> {
  const { client, release } = await checkOut(context.pool)
  let broken = true
  try {
    const results = await sendText(client, checkText(context, question))
    broken = results.at(-1)?.command !== 'COMMIT'
    if (broken) return unknown('the COMMIT of the check-back was not answered with COMMIT')
    return readAnswer(results)
  } catch (error) {
    if (sqlState(error) !== undefined) {
      await client.query('rollback')
      broken = false
    }
    if (sqlState(error) === '55P03') return unknown('the local transaction is still open')
    throw error
  } finally {
    release(broken)
  }
}

/*
 * One text, one trip, one id. READ COMMITTED: the read that follows the insert sees what the insert waited for. The lock
 * on the `database` row keeps a sweep from forgetting the very row that is asked about between its check and the insert.
 */
function checkText({ table, lockTimeoutMs, retentionMs }: CheckContext, question: CheckBackRequest): string {
  const { name, databaseId } = table
  const values = [question.namespace, question.executionId, 'local'].map(literal)
  const preparedAt = `to_timestamp(${Number(question.preparedAtMs)} / 1000.0)`
  return `begin isolation level read committed;
select set_config('lock_timeout', '${Math.max(1, Math.min(lockTimeoutMs, Math.floor(question.timeoutMs / 2)))}', true),
  case when current_setting('synchronous_commit') = 'off' then set_config('synchronous_commit', 'on', true) end;
insert into ${name} (namespace, execution_id, operation, outcome)
  select ${values.join(', ')}, 'rolledBack' from (
    select 1 from ${name}
    where namespace = '' and execution_id = '' and operation = 'database' and result = ${literal(databaseId)}
      and (swept_before is null or swept_before <= ${preparedAt})
      and ${preparedAt} > now() - interval '${retentionMs} milliseconds'
    for share) as remembered
  on conflict (namespace, execution_id, operation) do nothing;
select outcome, bodies from ${name}
  where namespace = ${values[0]} and execution_id = ${values[1]} and operation = ${values[2]}
    and exists (select from ${name} where namespace = '' and execution_id = '' and operation = 'database'
      and result = ${literal(databaseId)});
commit`
}

function readAnswer(results: readonly QueryResult[]): CheckerAnswer {
  const row = results[3]?.rows[0] as { outcome: string; bodies: Uint8Array | null } | undefined
  if (row === undefined) return unknown('the row may have been swept, or this is another database')
  if (row.outcome === 'rolledBack') return 'rollback'
  if (row.outcome !== 'committed') return unknown(`a local transaction can't be ${row.outcome}`)
  return { resolution: 'commit', bodies: row.bodies === null ? [] : decodeFixedBodies(row.bodies) }
}

function unknown(error: string): CheckerAnswer {
  return { resolution: 'unknown', error }
}
