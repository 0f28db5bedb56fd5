import { Pool } from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type PostgresBarrier, postgresBarrier } from '../../src/participant/barrier/postgres-barrier.ts'
import { startFaultProxy } from '../services/fault-proxy.ts'
import { service } from '../services/require.ts'
import { BarrierWorld, failure, gate, until } from './barrier-world.ts'

const postgres = await service('postgres', { settings: { max_connections: 120 } })
const DAY_MS = 86_400_000
let url: string
let world: BarrierWorld
let barrier: PostgresBarrier

beforeAll(async () => {
  url = await postgres.database('races')
  world = new BarrierWorld(url, 30)
  await world.prepare()
  barrier = await postgresBarrier(world.pool)
})

afterAll(async () => {
  await world.pool.end()
})

const insert = (client: { query(text: string, values: unknown[]): Promise<unknown> }, id: string) =>
  client.query('insert into work values ($1)', [id])

test('a check-back that comes first settles it: the local transaction that comes later fails, and does no work', async () => {
  const tx = world.local()
  expect(await barrier.checker.check(world.question(tx))).toBe('rollback')
  expect((await world.row(tx))?.outcome).toBe('rolledBack')
  const thrown = await failure(barrier.run(tx, world.pool, (client) => insert(client, tx.executionId)))
  expect(thrown.code).toBe('barrierRefused')
  expect(await world.done(tx.executionId)).toBe(0)
  expect(await barrier.checker.check(world.question(tx))).toBe('rollback')
})

for (const isolation of ['read committed', 'repeatable read'] as const) {
  test(`a check-back waits for a transaction in flight and tells how it ended (database default: ${isolation})`, async () => {
    const pool = new Pool({
      connectionString: url,
      options: `-c default_transaction_isolation=${isolation.replace(' ', '\\ ')}`,
    })
    const checking = await postgresBarrier(pool)
    for (const end of ['commit', 'rollback'] as const) {
      const tx = world.local()
      const held = gate()
      const running = barrier.run(tx, world.pool, async (client) => {
        await insert(client, tx.executionId)
        await held.wait()
        if (end === 'rollback') throw new Error('no')
      })
      running.catch(() => {})
      await held.reached
      const checked = Promise.resolve(checking.checker.check(world.question(tx)))
      await until(async () => (await world.waiting()) === 1)
      held.open()
      expect(await checked).toEqual(end === 'commit' ? { resolution: 'commit', bodies: [] } : 'rollback')
      await running.catch(() => {})
      expect(await world.done(tx.executionId)).toBe(end === 'commit' ? 1 : 0)
    }
    await pool.end()
  })
}

test('a transaction that stays open is unknown after the lock time-out, and may still commit', async () => {
  const short = await postgresBarrier(world.pool, { lockTimeoutMs: 50 })
  const tx = world.local()
  const held = gate()
  const running = barrier.run(tx, world.pool, () => held.wait())
  await held.reached
  expect(await short.checker.check(world.question(tx))).toMatchObject({ resolution: 'unknown' })
  // The time for the answer bounds it too.
  expect(await barrier.checker.check(world.question(tx, { timeoutMs: 100 }))).toMatchObject({
    resolution: 'unknown',
  })
  held.open()
  await running
  expect(await short.checker.check(world.question(tx))).toMatchObject({ resolution: 'commit' })
})

test('a second attempt waits for the first and does no work; one that waits too long is told to come again', async () => {
  for (const isolation of ['read committed', 'repeatable read', 'serializable'] as const) {
    const message = world.delivery()
    const held = gate()
    const work = async (client: Parameters<typeof insert>[0]) => {
      await insert(client, message.executionId)
      await held.wait()
      return 'first'
    }
    const first = barrier.run(message, world.pool, work, { isolation })
    await held.reached
    const short = await postgresBarrier(world.pool, { lockTimeoutMs: 50 })
    expect((await failure(short.run(message, world.pool, () => 'never', { isolation }))).code).toBe(
      'overloaded',
    )
    const second = barrier.run(message, world.pool, () => 'second', { isolation })
    await until(async () => (await world.waiting()) === 1)
    held.open()
    expect(await Promise.all([first, second])).toEqual(['first', 'first'])
    expect(await world.done(message.executionId)).toBe(1)
  }
})

test('a second attempt does the work when the first was rolled back', async () => {
  for (const isolation of ['read committed', 'repeatable read', 'serializable'] as const) {
    const message = world.delivery()
    const held = gate()
    const first = barrier.run(
      message,
      world.pool,
      async () => {
        await held.wait()
        throw new Error('no')
      },
      { isolation },
    )
    first.catch(() => {})
    await held.reached
    const second = barrier.run(message, world.pool, () => 'second', { isolation })
    await until(async () => (await world.waiting()) === 1)
    held.open()
    expect(await second).toBe('second')
  }
})

test('a connection lost at COMMIT is uncertain, whatever the server did; the check-back finds out', async () => {
  const proxy = await startFaultProxy({ target: { host: '127.0.0.1', port: postgres.port } })
  const pool = new Pool({ connectionString: proxy.through(url), max: 3 })
  pool.on('error', () => {})
  for (const [direction, resolution] of [
    ['down', 'commit'],
    ['up', 'rollback'],
  ] as const) {
    for (const subject of [world.local(), world.delivery()]) {
      let cut: Promise<void> | undefined
      const thrown = await failure(
        barrier.run(subject, pool, async (client) => {
          await insert(client, subject.executionId)
          // One byte of the answer to COMMIT passes, or one byte of COMMIT itself.
          cut = proxy.cutAfter(1, direction)
        }),
      )
      await cut
      expect(thrown.code).toBe('uncertain')
      // The server notices a dead connection when it next reads from it.
      await until(
        async () =>
          (await world.pool.query(`select from pg_stat_activity where state like 'idle in transaction%'`))
            .rowCount === 0,
      )
      expect(await world.done(subject.executionId)).toBe(resolution === 'commit' ? 1 : 0)
      if (subject.operation === 'local') {
        const answer = await barrier.checker.check(world.question(subject))
        expect(typeof answer === 'string' ? answer : answer.resolution).toBe(resolution)
      }
    }
  }
  expect(pool.totalCount).toBe(0)
  await pool.end()
  await proxy.close()
})

test('a connection on which COMMIT was not answered is never used again, though it seems alive', async () => {
  const released: boolean[] = []
  const pool = {
    async connect() {
      const client = await world.pool.connect()
      return {
        query: (text: string) =>
          text.endsWith('commit') ? Promise.reject(new Error('Query read timeout')) : client.query(text),
        release(destroy: boolean) {
          released.push(destroy)
          client.release(true)
        },
      }
    },
  }
  expect((await failure(barrier.run(world.local(), pool, () => {}))).code).toBe('uncertain')
  expect(released).toEqual([true])
})

test('a connection lost during the work is an ordinary failure, and the pool does not get it back', async () => {
  const pool = new Pool({ connectionString: url, max: 1 })
  const tx = world.local()
  const thrown = await failure(
    barrier.run(tx, pool, async (client) => {
      const { rows } = await client.query('select pg_backend_pid() as pid')
      await world.pool.query('select pg_terminate_backend($1)', [rows[0].pid])
      await until(
        async () =>
          (await world.pool.query('select from pg_stat_activity where pid = $1', [rows[0].pid])).rowCount ===
          0,
      )
      await insert(client, tx.executionId)
    }),
  )
  expect(thrown.code).not.toBe('uncertain')
  expect(pool.totalCount).toBe(0)
  expect(await barrier.checker.check(world.question(tx))).toBe('rollback')
  await pool.end()
})

test('a check-back about what the barrier may have forgotten is unknown, and inserts nothing', async () => {
  const tx = world.local()
  const old = world.question(tx, { preparedAtMs: Date.now() - 14 * DAY_MS - 1000 })
  expect(await barrier.checker.check(old)).toMatchObject({ resolution: 'unknown' })
  expect(await world.row(tx)).toBeUndefined()
  // What is still there is told however old it is.
  await barrier.run(tx, world.pool, () => {})
  expect(await barrier.checker.check(old)).toMatchObject({ resolution: 'commit' })
})

test('a sweep deletes what is past its retention, in batches, and keeps the rest and the UUID', async () => {
  const own = new BarrierWorld(await postgres.database('sweep'))
  const sweeping = await postgresBarrier(own.pool, {
    retentionMs: 8 * DAY_MS,
    sweepBatchRows: 10,
    sweepBatchesMax: 3,
  })
  const age = (days: number, count: number) =>
    own.pool.query(
      `insert into escrow_barrier (namespace, execution_id, operation, outcome, created_at)
       select 'default', 'old-' || $1::int || '-' || n, 'deliver', 'committed', now() - $1::int * interval '1 day'
       from generate_series(1, $2) as n`,
      [days, count],
    )
  await age(9, 45)
  await age(7, 5)
  await own.pool.query(`update escrow_barrier set created_at = '2000-01-01' where operation = 'database'`)
  expect([await sweeping.sweep(), await sweeping.sweep(), await sweeping.sweep()]).toEqual([30, 15, 0])
  const { rows } = await own.pool.query('select count(*)::int as n from escrow_barrier')
  expect(rows[0].n).toBe(6)
  expect((await postgresBarrier(own.pool)).databaseId).toBe(sweeping.databaseId)
  // A service that keeps rows for longer must not take a swept row for one that never was.
  const patient = await postgresBarrier(own.pool, { retentionMs: 30 * DAY_MS })
  const question = own.question(own.local(), { preparedAtMs: Date.now() - 9 * DAY_MS })
  expect(await patient.checker.check(question)).toMatchObject({ resolution: 'unknown' })
  expect(await patient.checker.check({ ...question, preparedAtMs: Date.now() - 7 * DAY_MS })).toBe('rollback')
  await own.pool.end()
})

test('a sweep waits for check-backs in flight before it forgets', async () => {
  const tx = world.local()
  const held = gate()
  const running = barrier.run(tx, world.pool, () => held.wait())
  await held.reached
  const checked = Promise.resolve(barrier.checker.check(world.question(tx)))
  await until(async () => (await world.waiting()) === 1)
  let swept = false
  const sweep = barrier.sweep().then(() => {
    swept = true
  })
  await until(async () => swept || (await world.waiting()) === 2)
  expect(swept).toBe(false)
  held.open()
  await running
  expect(await checked).toMatchObject({ resolution: 'commit' })
  await sweep
})

test('many runs and check-backs of the same ids at once: one outcome each, and everybody is told the same', async () => {
  const second = new BarrierWorld(url, 30)
  const other = await postgresBarrier(second.pool)
  const ids = Array.from({ length: 60 }, () => world.local())
  const outcomes = await Promise.all(
    ids.map(async (tx, i) => {
      const run = async (which: PostgresBarrier, pool: Pool) => {
        try {
          await which.run(tx, pool, (client) => insert(client, tx.executionId), {
            isolation: i % 2 ? 'serializable' : 'read committed',
          })
          return 'commit'
        } catch (error) {
          const { code } = error as { code?: string }
          if (code === 'barrierRefused') return 'rollback'
          // One that waited for its lock for too long is told to come again, as on a busy machine.
          if (code === '40001' || code === 'overloaded') return 'unknown'
          throw error
        }
      }
      const check = async (which: PostgresBarrier) => {
        const answer = await which.checker.check(world.question(tx))
        return typeof answer === 'string' ? answer : answer.resolution
      }
      const all = [run(barrier, world.pool), check(other), run(other, second.pool), check(barrier)]
      // Both orders of coming are tried.
      return Promise.all(i % 3 === 0 ? all.reverse() : all)
    }),
  )
  for (const [i, tx] of ids.entries()) {
    const told = new Set(outcomes[i]?.filter((outcome) => outcome !== 'unknown'))
    expect(told.size, `${outcomes[i]}`).toBeLessThanOrEqual(1)
    const committed = (await world.row(tx))?.outcome === 'committed'
    expect(await world.done(tx.executionId)).toBe(committed ? 1 : 0)
    if (told.size === 1) expect([...told][0]).toBe(committed ? 'commit' : 'rollback')
  }
  await second.pool.end()
})

test('a server killed at any moment leaves work and row together or neither', async () => {
  const ids = Array.from({ length: 100 }, () => world.local())
  const told = new Map<string, string>()
  const running = ids.map(async (tx) => {
    const work = barrier.run(tx, world.pool, (client) => insert(client, tx.executionId))
    const outcome = await work.then(
      () => 'done',
      () => 'failed',
    )
    told.set(tx.executionId, outcome)
  })
  await until(() => told.size > 10)
  await postgres.kill()
  await Promise.all(running)
  await postgres.start()
  // Connections that the pool still had are found dead one by one.
  const again = async <T>(ask: () => Promise<T> | T): Promise<T> => {
    const [answer] = await until(async () => {
      try {
        return [await ask()] as const
      } catch {
        return undefined
      }
    })
    return answer
  }
  await Promise.all(
    ids.map(async (tx) => {
      const answer = await again(() => barrier.checker.check(world.question(tx)))
      const done = await again(() => world.done(tx.executionId))
      expect(typeof answer === 'object' && 'resolution' in answer ? answer.resolution : answer).toBe(
        done === 1 ? 'commit' : 'rollback',
      )
      if (told.get(tx.executionId) === 'done') expect(done).toBe(1)
    }),
  )
})
