import { Pool } from 'pg'
import type { CheckBackRequest } from '../../src/core/api.ts'
import type { BarrierSubject } from '../../src/participant/barrier/run.ts'

/** A database with a table of work, and what tests ask about it. */
export class BarrierWorld {
  readonly pool: Pool
  #count = 0

  constructor(url: string, max = 10) {
    this.pool = new Pool({ connectionString: url, max })
    this.pool.on('error', () => {})
  }

  async prepare(): Promise<void> {
    await this.pool.query('create table if not exists work (id text not null)')
  }

  /** A local transaction that nobody else has. */
  local(more: Partial<BarrierSubject> = {}): BarrierSubject & { readonly operation: 'local' } {
    return { namespace: 'default', executionId: this.newId(), ...more, operation: 'local' }
  }

  /** A delivery that nobody else has. */
  delivery(): BarrierSubject {
    return { operation: 'deliver', namespace: 'default', executionId: this.newId() }
  }

  newId(): string {
    this.#count++
    return `execution-${process.pid}-${this.#count}-${performance.now()}`
  }

  /** How often the work with this id is there. */
  async done(id: string): Promise<number> {
    const { rows } = await this.pool.query('select count(*)::int as n from work where id = $1', [id])
    return rows[0].n
  }

  async row(
    subject: BarrierSubject,
  ): Promise<{ outcome: string; reason: string | null; result: string | null } | undefined> {
    const { rows } = await this.pool.query(
      'select outcome, reason, result from escrow_barrier where namespace = $1 and execution_id = $2 and operation = $3',
      [subject.namespace, subject.executionId, subject.operation],
    )
    return rows[0]
  }

  /** How many connections wait for a lock in this database. */
  async waiting(): Promise<number> {
    const { rows } = await this.pool.query(
      `select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
    )
    return rows[0].n
  }

  question(subject: BarrierSubject, more: Partial<CheckBackRequest> = {}): CheckBackRequest {
    return {
      namespace: subject.namespace,
      transactionId: 'transaction',
      executionId: subject.executionId,
      attempt: 1,
      checker: 'orders',
      preparedAtMs: Date.now(),
      trace: { traceparent: '', tracestate: '', baggage: '' },
      timeoutMs: 10_000,
      ...more,
    }
  }
}

/** Waits until `probe` answers something that holds; fails after 30 s. */
export async function until<T>(probe: () => Promise<T> | T): Promise<NonNullable<T>> {
  const end = performance.now() + 30_000
  for (;;) {
    const value = await probe()
    if (value) return value
    if (performance.now() > end) throw new Error('the condition did not come true within 30 s')
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** What a promise that must fail fails with. */
export async function failure(promise: Promise<unknown>): Promise<Error & { code?: string }> {
  try {
    await promise
  } catch (error) {
    return error as Error
  }
  throw new Error('it did not fail')
}

/** A gate that work waits at. */
export function gate(): { reached: Promise<void>; open(): void; wait(): Promise<void> } {
  let open = () => {}
  let reach = () => {}
  const opened = new Promise<void>((resolve) => (open = resolve))
  const reached = new Promise<void>((resolve) => (reach = resolve))
  return {
    reached,
    open,
    wait() {
      reach()
      return opened
    },
  }
}
