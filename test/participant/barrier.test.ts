import { Client, Pool, type PoolClient } from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { EscrowError } from '../../src/core/errors.ts'
import { type PostgresBarrier, postgresBarrier } from '../../src/participant/barrier/postgres-barrier.ts'
import { sqlState } from '../../src/participant/barrier/postgres-client.ts'
import { Refusal, refuse } from '../../src/participant/refusal.ts'
import { service } from '../services/require.ts'
import { BarrierWorld, failure } from './barrier-world.ts'

const postgres = await service('postgres', { settings: { max_connections: 120 } })
let url: string
let world: BarrierWorld
let barrier: PostgresBarrier

const insert = (client: { query(text: string, values: unknown[]): Promise<unknown> }, id: string) =>
  client.query('insert into work values ($1)', [id])

beforeAll(async () => {
  url = await postgres.database('orders')
  world = new BarrierWorld(url)
  await world.prepare()
  barrier = await postgresBarrier(world.pool)
})

afterAll(async () => {
  await world.pool.end()
})

test('work and row commit together, and a check-back finds them', async () => {
  const tx = world.local()
  await barrier.run(tx, world.pool, (client) => insert(client, tx.executionId))
  expect(await world.done(tx.executionId)).toBe(1)
  expect(await world.row(tx)).toEqual({ outcome: 'committed', reason: null, result: null })
  expect(await barrier.checker.check(world.question(tx))).toEqual({ resolution: 'commit', bodies: [] })
})

test('work that throws leaves neither work nor row, and its own error comes through', async () => {
  const tx = world.local()
  const own = new Error('no stock')
  const thrown = await failure(
    barrier.run(tx, world.pool, async (client) => {
      await insert(client, tx.executionId)
      throw own
    }),
  )
  expect(thrown).toBe(own)
  expect(await world.done(tx.executionId)).toBe(0)
  expect(await world.row(tx)).toBeUndefined()
})

test('rows of other namespaces, executions and operations are other rows', async () => {
  const tx = world.local()
  const others = [
    { ...tx, namespace: 'other' },
    { ...tx, executionId: world.newId() },
    { ...tx, operation: 'deliver' as const },
  ]
  for (const each of [tx, ...others]) {
    await barrier.run(each, world.pool, (client) => insert(client, tx.executionId))
  }
  expect(await world.done(tx.executionId)).toBe(4)
})

test('a repeated call does no work and gives the same result', async () => {
  const message = world.delivery()
  const once = () =>
    barrier.run(message, world.pool, async (client) => {
      await insert(client, message.executionId)
      return { seat: 12 }
    })
  expect(await once()).toEqual({ seat: 12 })
  expect(await once()).toEqual({ seat: 12 })
  expect(await world.done(message.executionId)).toBe(1)
})

test("a statement's own answer is no result, and is not kept", async () => {
  const message = world.delivery()
  await barrier.run(message, world.pool, (client) => client.query('select 1 as one'))
  expect((await world.row(message))?.result).toBeNull()
})

test('a result over its limit is refused, and nothing is committed', async () => {
  const small = await postgresBarrier(world.pool, { resultBytesMax: 16 })
  const message = world.delivery()
  const thrown = await failure(
    small.run(message, world.pool, async (client) => {
      await insert(client, message.executionId)
      return 'x'.repeat(17)
    }),
  )
  expect(thrown).toMatchObject({ code: 'tooLarge', details: { limit: 'resultBytesMax', max: '16' } })
  expect(await world.done(message.executionId)).toBe(0)
})

test('a refusal undoes the work, commits its row before it is told, and every later attempt gets the same', async () => {
  const message = world.delivery()
  const work = async (client: PoolClient) => {
    await insert(client, message.executionId)
    throw refuse("no such article: \\ 'A-1'")
  }
  const first = await failure(barrier.run(message, world.pool, work))
  expect(first).toBeInstanceOf(Refusal)
  expect(await world.row(message)).toMatchObject({ outcome: 'refused', reason: "no such article: \\ 'A-1'" })
  expect(await world.done(message.executionId)).toBe(0)
  const late = await failure(
    barrier.run(message, world.pool, (client) => insert(client, message.executionId)),
  )
  expect(late).toBeInstanceOf(Refusal)
  expect(late.message).toBe("no such article: \\ 'A-1'")
  expect(await world.done(message.executionId)).toBe(0)
})

test('a refusal after a failed statement still commits its row', async () => {
  const message = world.delivery()
  const thrown = await failure(
    barrier.run(message, world.pool, async (client) => {
      await client.query('select 1/0').catch(() => {})
      throw refuse('no')
    }),
  )
  expect(thrown).toBeInstanceOf(Refusal)
  expect((await world.row(message))?.outcome).toBe('refused')
})

test('a local transaction that throws a refusal is rolled back like any other', async () => {
  const tx = world.local()
  expect(await failure(barrier.run(tx, world.pool, () => Promise.reject(refuse('no'))))).toBeInstanceOf(
    Refusal,
  )
  expect(await world.row(tx)).toBeUndefined()
})

test('a connection that leads to another database is refused before the work', async () => {
  const other = new BarrierWorld(await postgres.database('other'))
  await other.prepare()
  await postgresBarrier(other.pool)
  const tx = world.local()
  const thrown = await failure(barrier.run(tx, other.pool, (client) => insert(client, tx.executionId)))
  expect(thrown.code).toBe('wouldNotShareTransaction')
  expect(await other.done(tx.executionId)).toBe(0)
  expect(await other.row(tx)).toBeUndefined()
  await other.pool.end()
})

test('a transaction that was prepared for another database is refused, and its check-back is unknown', async () => {
  const tx = world.local({ databaseId: 'another' })
  const thrown = await failure(barrier.run(tx, world.pool, (client) => insert(client, tx.executionId)))
  expect(thrown.code).toBe('wouldNotShareTransaction')
  const replaced = new BarrierWorld(await postgres.database('replaced'))
  const old = await postgresBarrier(replaced.pool)
  await replaced.pool.query(`update escrow_barrier set result = 'restored' where operation = 'database'`)
  expect(await old.checker.check(replaced.question(tx))).toMatchObject({ resolution: 'unknown' })
  expect(await replaced.row(tx)).toBeUndefined()
  await replaced.pool.end()
})

for (const [name, words] of [
  ['commits', ['commit']],
  ['commits and begins', ['commit', 'begin']],
  ['rolls back', ['rollback']],
  ['rolls back and begins', ['rollback', 'begin']],
  ['goes on in autocommit', ['commit', `insert into work values ('autocommit')`]],
] as const) {
  test(`work that ${name} by itself is refused, and what follows is not committed`, async () => {
    for (const subject of [world.local(), world.delivery()]) {
      const thrown = await failure(
        barrier.run(subject, world.pool, async (client) => {
          for (const word of words) await client.query(word)
          if (words.at(-1) === 'begin') await insert(client, subject.executionId)
        }),
      )
      expect(thrown.code).toBe('wouldNotShareTransaction')
      expect(await world.done(subject.executionId)).toBe(0)
    }
  })
}

test('work that committed by itself and then refuses is told so', async () => {
  const message = world.delivery()
  const thrown = await failure(
    barrier.run(message, world.pool, async (client) => {
      await client.query('commit')
      throw refuse('too late')
    }),
  )
  expect(thrown.code).toBe('wouldNotShareTransaction')
})

test('a connection with an open transaction is refused and left as it was', async () => {
  const client = new Client({ connectionString: url })
  await client.connect()
  const tx = world.local()
  // Of a client that can't tell its state only what the server says is known.
  for (const connection of [client, { query: (text: string) => client.query(text) }]) {
    await client.query('begin')
    await insert(client, `outer ${tx.executionId}`)
    const thrown = await failure(barrier.run(tx, connection, (given) => given.query('select 1')))
    expect(thrown.code).toBe('wouldNotShareTransaction')
    await client.query('commit')
    expect(await world.row(tx)).toBeUndefined()
  }
  expect(await world.done(`outer ${tx.executionId}`)).toBe(2)
  await client.end()
})

test("the caller's own client is used as it is", async () => {
  const client = new Client({ connectionString: url })
  await client.connect()
  const tx = world.local()
  await barrier.run(tx, client, (given) => {
    expect(given).toBe(client)
    return insert(given, tx.executionId)
  })
  expect(await world.done(tx.executionId)).toBe(1)
  await client.end()
})

test('a pool in the shape of a client is refused: its statements would not share a transaction', async () => {
  const pool = new Pool({ connectionString: url, max: 2 })
  const first = await pool.connect()
  const second = await pool.connect()
  let turn = 0
  const scattered = { query: (text: string) => (turn++ % 2 === 0 ? first : second).query(text) }
  const tx = world.local()
  const thrown = await failure(
    barrier.run(tx, scattered, (client) =>
      client.query(`insert into work values ('${tx.executionId}')`).then(() => client.query('select 1')),
    ),
  )
  expect(thrown.code).toBe('wouldNotShareTransaction')
  expect(await world.row(tx)).toBeUndefined()
  first.release(true)
  second.release(true)
  await pool.end()
})

test('a commit is synchronous even where the connection says otherwise', async () => {
  await world.pool.query(`
    create table seen (setting text);
    create function see() returns trigger language plpgsql as
      $$ begin insert into seen values (current_setting('synchronous_commit')); return null; end $$;
    create constraint trigger see after insert on escrow_barrier deferrable initially deferred
      for each row when (new.reason is null and new.namespace = 'synchronous') execute function see()`)
  const pool = new Pool({ connectionString: url, options: '-c synchronous_commit=off' })
  const careless = await postgresBarrier(pool)
  const tx = world.local({ namespace: 'synchronous' })
  await careless.run(tx, pool, (client) => insert(client, tx.executionId))
  await careless.checker.check(world.question(world.local({ namespace: 'synchronous' })))
  const { rows } = await pool.query('select setting from seen')
  expect(rows).toEqual([{ setting: 'on' }, { setting: 'on' }])
  expect((await pool.query('show synchronous_commit')).rows[0]).toEqual({ synchronous_commit: 'off' })
  await pool.end()
})

test('work that swallows an SQL error is not believed: the transaction is rolled back, and that is told', async () => {
  const tx = world.local()
  const thrown = await failure(
    barrier.run(tx, world.pool, async (client) => {
      await insert(client, tx.executionId)
      await client.query('select 1/0').catch(() => {})
    }),
  )
  expect(thrown).toMatchObject({ code: 'localTransactionFailed' })
  expect(await world.done(tx.executionId)).toBe(0)
})

test('only the answer COMMIT is believed', async () => {
  const client = new Client({ connectionString: url })
  await client.connect()
  const doubting = {
    async query(text: string) {
      const results = (await client.query(text)) as unknown as { command: string }[]
      const last = Array.isArray(results) ? results.at(-1) : undefined
      return last?.command === 'COMMIT'
        ? [...results.slice(0, -1), { ...last, command: 'ROLLBACK' }]
        : results
    },
  }
  const tx = world.local()
  const thrown = await failure(barrier.run(tx, doubting, () => 'done'))
  expect(thrown).toMatchObject({ code: 'localTransactionFailed' })
  const pool = { connect: async () => ({ ...doubting, release: () => {} }) }
  const doubted = await postgresBarrier({ connect: () => world.pool.connect() })
  const checker = await postgresBarrier({
    connect: async () =>
      Object.assign(await pool.connect(), {
        query: (t: string, v?: unknown[]) => (v ? client.query(t, v) : doubting.query(t)),
      }),
  })
  expect(checker.databaseId).toBe(doubted.databaseId)
  expect(await checker.checker.check(world.question(world.local()))).toMatchObject({ resolution: 'unknown' })
  await client.end()
})

test('an error of a deferred constraint at COMMIT comes through, and nothing is committed', async () => {
  await world.pool.query('create table once (id text, unique (id) deferrable initially deferred)')
  const tx = world.local()
  const thrown = await failure(
    barrier.run(tx, world.pool, async (client) => {
      await client.query(`insert into once values ('a'), ('a')`)
      await insert(client, tx.executionId)
    }),
  )
  expect(thrown.code).toBe('23505')
  expect(await world.row(tx)).toBeUndefined()
})

test('the work has the isolation level that it asks for', async () => {
  for (const isolation of ['read committed', 'repeatable read', 'serializable'] as const) {
    const level = await barrier.run(
      world.delivery(),
      world.pool,
      async (client) => (await client.query('show transaction_isolation')).rows[0].transaction_isolation,
      { isolation },
    )
    expect(level).toBe(isolation)
  }
  const thrown = await failure(
    barrier.run(world.local(), world.pool, () => {}, { isolation: 'x; drop' as never }),
  )
  expect(thrown.code).toBe('invalidArgument')
})

test("the lock time-out of the row is not the work's", async () => {
  const pool = new Pool({ connectionString: url, options: '-c lock_timeout=1234' })
  const setting = await barrier.run(world.delivery(), pool, async (client) => {
    return (await client.query('show lock_timeout')).rows[0].lock_timeout
  })
  expect(setting).toBe('1234ms')
  expect((await pool.query('show lock_timeout')).rows[0].lock_timeout).toBe('1234ms')
  await pool.end()
})

test('bodies fixed in the local transaction are kept in its row, and the check-back gives them', async () => {
  const bodies = [
    { index: 0, body: Buffer.from([0, 1, 254, 255]) },
    { index: 3, body: new Uint8Array(0) },
  ]
  const tx = world.local({ sealBodies: () => bodies })
  await barrier.run(tx, world.pool, (client) => insert(client, tx.executionId))
  const answer = await barrier.checker.check(world.question(tx))
  expect(answer).toEqual({
    resolution: 'commit',
    bodies: bodies.map(({ index, body }) => ({ index, body: Buffer.from(body) })),
  })
  let restored: unknown
  await barrier.run({ ...tx, restoreBodies: (given) => (restored = given) }, world.pool, () => {})
  expect(restored).toEqual(answer instanceof Object ? answer.bodies : undefined)
})

test('a body that is missing or too large is refused before COMMIT', async () => {
  const tx = world.local({
    sealBodies: () => {
      throw new EscrowError('bodiesMissing', 'the body of message 0 was not fixed')
    },
  })
  const thrown = await failure(barrier.run(tx, world.pool, (client) => insert(client, tx.executionId)))
  expect(thrown.code).toBe('bodiesMissing')
  expect(await world.done(tx.executionId)).toBe(0)
  expect(await world.row(tx)).toBeUndefined()
})

test('texts from outside are data, never SQL', async () => {
  const executionId = `'; drop table work; -- \\' ${world.newId()}`
  const message = { ...world.delivery(), executionId }
  await barrier.run(message, world.pool, () => ({ quote: "'\\" }))
  expect(await barrier.run(message, world.pool, () => undefined)).toEqual({ quote: "'\\" })
  const thrown = await failure(barrier.run({ ...message, executionId: 'a\0b' }, world.pool, () => {}))
  expect(thrown.code).toBe('invalidArgument')
})

test('a transaction that starts later than the barrier remembers is refused', async () => {
  const day = 86_400_000
  const thrown = await failure(barrier.run(world.local({ ageMs: () => 8 * day }), world.pool, () => {}))
  expect(thrown.code).toBe('barrierRefused')
  await barrier.run(world.local({ ageMs: () => 6 * day }), world.pool, () => {})
})

test('the table is made once, whoever comes first, and its UUID is shared', async () => {
  const fresh = await postgres.database('fresh')
  const pools = Array.from({ length: 16 }, () => new Pool({ connectionString: fresh, max: 1 }))
  await Promise.all(pools.map((pool) => pool.query('select 1')))
  const barriers = await Promise.all(pools.map((pool) => postgresBarrier(pool)))
  expect(new Set(barriers.map(({ databaseId }) => databaseId)).size).toBe(1)
  expect(barriers[0]?.databaseId).toMatch(/^[0-9a-f-]{36}$/)
  await Promise.all(pools.map((pool) => pool.end()))
})

test('schema and table may be named; without the right to create, a missing table is refused', async () => {
  await world.pool.query('create schema "Odd ""schema"""')
  const odd = await postgresBarrier(world.pool, { schema: 'Odd "schema"', table: 'my barrier' })
  expect(odd.databaseId).not.toBe(barrier.databaseId)
  const tx = world.local()
  await odd.run(tx, world.pool, () => {})
  expect(await odd.checker.check(world.question(tx))).toMatchObject({ resolution: 'commit' })
  expect(await world.row(tx)).toBeUndefined()
  expect((await failure(postgresBarrier(world.pool, { table: 'none', create: false }))).code).toBe(
    'invalidArgument',
  )
  expect((await failure(postgresBarrier(world.pool, { retentionMs: 7 * 86_400_000 }))).message).toContain(
    '691200000',
  )
})

test("only the server's own word tells that a statement failed", () => {
  expect(sqlState({ code: '23505', severity: 'ERROR' })).toBe('23505')
  expect(sqlState({ code: 'EPIPE' })).toBeUndefined()
  expect(sqlState({ code: '57P01', severity: 'FATAL' })).toBeUndefined()
  expect(sqlState({ code: '08006', severity: 'ERROR' })).toBeUndefined()
  expect(sqlState(new Error('Query read timeout'))).toBeUndefined()
})
