/** The rules of BARRIER.md for the steps of sagas, each on a real PostgreSQL. */
import { Pool } from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  type PostgresBarrier,
  postgresBarrier,
  type StepSubject,
} from '../../src/participant/barrier/postgres-barrier.ts'
import { later } from '../../src/participant/later.ts'
import { Refusal, refuse } from '../../src/participant/refusal.ts'
import { startFaultProxy } from '../services/fault-proxy.ts'
import { service } from '../services/require.ts'
import { BarrierWorld, failure, gate, until } from './barrier-world.ts'

const postgres = await service('postgres', { settings: { max_connections: 120 } })
let url: string
let world: BarrierWorld
let barrier: PostgresBarrier

beforeAll(async () => {
  url = await postgres.database('steps')
  world = new BarrierWorld(url, 20)
  await world.prepare()
  barrier = await postgresBarrier(world.pool)
})

afterAll(async () => {
  await world.pool.end()
})

type Client = { query(text: string, values: unknown[]): Promise<unknown> }

/** An execution that nobody else has. */
function execution() {
  const executionId = world.newId()
  const action: StepSubject = { namespace: 'default', executionId, operation: 'action', isActionDone: false }
  const undo: StepSubject = { ...action, operation: 'compensation' }
  const undoKnown: StepSubject = { ...undo, isActionDone: true }
  const [done, undone] = [`action ${executionId}`, `undo ${executionId}`]
  const work = (id: string) => (client: Client) => client.query('insert into work values ($1)', [id])
  const row = async (subject: StepSubject) => (await world.row(subject))?.outcome
  return {
    action,
    undo,
    undoKnown,
    act: async (result: unknown = { seat: 12 }) =>
      barrier.step(action, world.pool, async (client) => {
        await work(done)(client)
        return result
      }),
    compensate: (subject: StepSubject = undo) => barrier.step(subject, world.pool, work(undone)),
    work: { action: work(done), undo: work(undone) },
    effects: async () => [await world.done(done), await world.done(undone)],
    rows: async () => [await row(action), await row(undo)],
  }
}

describe('an action', () => {
  test('is done once, and gives the same result again', async () => {
    const one = execution()
    expect(await one.act()).toEqual({ seat: 12 })
    expect(await one.act({ seat: 13 })).toEqual({ seat: 12 })
    expect([await one.effects(), await one.rows()]).toEqual([
      [1, 0],
      ['committed', undefined],
    ])
  })

  test('that is refused has done nothing, and gives the same refusal again, its code too', async () => {
    const one = execution()
    const refused = barrier.step(one.action, world.pool, async (client) => {
      await one.work.action(client)
      throw refuse("sold 'out'", "sold\\'Out")
    })
    expect(await failure(refused)).toBeInstanceOf(Refusal)
    expect(await one.rows()).toEqual(['refused', undefined])
    const again = await failure(one.act())
    expect(again).toBeInstanceOf(Refusal)
    expect([again.message, again.code, await one.effects()]).toEqual(["sold 'out'", "sold\\'Out", [0, 0]])
  })

  test('that goes on later says so again, and is compensated as one that was done', async () => {
    const one = execution()
    expect(await one.act(later)).toBe(later)
    expect(await one.act('other')).toBe(later)
    expect(await world.row(one.action)).toEqual({ outcome: 'committed', reason: 'later', result: null })
    await one.compensate()
    expect(await one.effects()).toEqual([1, 1])
  })

  test('that throws leaves nothing, and may be tried again', async () => {
    const one = execution()
    const own = new Error('no')
    const thrown = barrier.step(one.action, world.pool, async (client) => {
      await one.work.action(client)
      throw own
    })
    expect(await failure(thrown)).toBe(own)
    expect([await one.effects(), await one.rows()]).toEqual([
      [0, 0],
      [undefined, undefined],
    ])
    expect(await one.act()).toEqual({ seat: 12 })
  })

  test('whose COMMIT got no answer is uncertain; its next attempt gives what was committed', async () => {
    const proxy = await startFaultProxy({ target: { host: '127.0.0.1', port: postgres.port } })
    const pool = new Pool({ connectionString: proxy.through(url), max: 1 })
    pool.on('error', () => {})
    const one = execution()
    const lost = barrier.step(one.action, pool, async (client: Client) => {
      await one.work.action(client)
      // The COMMIT goes up; the first byte of its answer ends the connection.
      void proxy.cutAfter(1, 'down')
      return 'first'
    })
    expect((await failure(lost)).code).toBe('uncertain')
    await pool.end()
    await proxy.close()
    await until(async () => (await one.rows())[0] === 'committed')
    expect(await one.act('second')).toBe('first')
    expect(await one.effects()).toEqual([1, 0])
  })
})

describe('a compensation', () => {
  test('undoes an action that was done, once, with the result that its row kept', async () => {
    for (const known of [true, false]) {
      const one = execution()
      await one.act()
      const results: unknown[] = []
      const undo = () =>
        barrier.step(known ? one.undoKnown : one.undo, world.pool, async (client, result) => {
          results.push(result)
          await one.work.undo(client)
        })
      await undo()
      await undo()
      expect([await one.effects(), results]).toEqual([[1, 1], [{ seat: 12 }]])
      expect(await one.rows()).toEqual(['committed', 'committed'])
    }
  })

  test('that comes first does nothing, and turns the action away for good', async () => {
    const one = execution()
    expect(await one.compensate()).toBe(undefined)
    expect([await one.effects(), await one.rows()]).toEqual([
      [0, 0],
      ['rolledBack', 'committed'],
    ])
    expect((await failure(one.act())).code).toBe('barrierRefused')
    // A repeated compensation finds its own row.
    await one.compensate()
    expect(await one.effects()).toEqual([0, 0])
  })

  test('of an action that was refused does nothing', async () => {
    const one = execution()
    await failure(barrier.step(one.action, world.pool, () => Promise.reject(refuse('sold out'))))
    for (const subject of [one.undo, one.undoKnown]) await one.compensate(subject)
    expect([await one.effects(), await one.rows()]).toEqual([
      [0, 0],
      ['refused', 'committed'],
    ])
  })

  test('of an action that is known to be done, but has no row here, is refused and leaves none', async () => {
    const one = execution()
    expect((await failure(one.compensate(one.undoKnown))).code).toBe('wouldNotShareTransaction')
    expect([await one.effects(), await one.rows()]).toEqual([
      [0, 0],
      [undefined, undefined],
    ])
  })

  test('that throws, or refuses, leaves nothing and is really tried again; the action’s row stays', async () => {
    for (const own of [new Error('no'), refuse('not yet')]) {
      const one = execution()
      await one.act()
      const thrown = barrier.step(one.undo, world.pool, async (client) => {
        await one.work.undo(client)
        throw own
      })
      expect(await failure(thrown)).toBe(own)
      expect([await one.effects(), await one.rows()]).toEqual([
        [1, 0],
        ['committed', undefined],
      ])
      await one.compensate()
      expect(await one.effects()).toEqual([1, 1])
    }
  })

  test('that is lost before its COMMIT leaves no row: the action may come yet', async () => {
    const one = execution()
    const other = await postgresBarrier(world.pool)
    // The null compensation runs no work, so that only a lost transaction can undo its rows.
    const client = await world.pool.connect()
    const dying = {
      query: (text: string) =>
        text.includes('commit') && !text.startsWith('begin')
          ? Promise.reject(new Error('died'))
          : client.query(text),
    }
    expect((await failure(other.step(one.undo, dying, () => 'never'))).code).toBe('uncertain')
    await client.query('rollback')
    client.release()
    expect(await one.act()).toEqual({ seat: 12 })
  })

  test('of one database is refused in another', async () => {
    const elsewhere = new BarrierWorld(await postgres.database('steps_elsewhere'))
    await elsewhere.prepare()
    await postgresBarrier(elsewhere.pool)
    const one = execution()
    for (const subject of [one.action, one.undo, one.undoKnown]) {
      const thrown = await failure(barrier.step(subject, elsewhere.pool, () => 'never'))
      expect(thrown.code).toBe('wouldNotShareTransaction')
      expect(await elsewhere.row(subject)).toBeUndefined()
    }
    expect(await elsewhere.row(one.action)).toBeUndefined()
    await elsewhere.pool.end()
  })
})

describe('an action in flight', () => {
  for (const isolation of ['read committed', 'repeatable read', 'serializable'] as const) {
    for (const end of ['commits', 'rolls back', 'refuses'] as const) {
      test(`that ${end} is waited for by its compensation (${isolation})`, async () => {
        const one = execution()
        const held = gate()
        const acting = barrier.step(one.action, world.pool, async (client) => {
          await one.work.action(client)
          await held.wait()
          if (end === 'rolls back') throw new Error('no')
          if (end === 'refuses') throw refuse('sold out')
        })
        acting.catch(() => {})
        await held.reached
        const undoing = barrier.step(one.undo, world.pool, one.work.undo, { isolation })
        await until(async () => (await world.waiting()) === 1)
        held.open()
        await undoing
        await acting.catch(() => {})
        const happened = end === 'commits' ? 1 : 0
        expect(await one.effects()).toEqual([happened, happened])
        const row = { commits: 'committed', 'rolls back': 'rolledBack', refuses: 'refused' }[end]
        expect(await one.rows()).toEqual([row, 'committed'])
      })
    }
  }

  test('is waited for a bounded time, and then the compensation comes again', async () => {
    const short = await postgresBarrier(world.pool, { lockTimeoutMs: 50 })
    const one = execution()
    const held = gate()
    const acting = barrier.step(one.action, world.pool, () => held.wait())
    await held.reached
    expect((await failure(short.step(one.undo, world.pool, one.work.undo))).code).toBe('overloaded')
    held.open()
    await acting
    await one.compensate()
    expect(await one.effects()).toEqual([0, 1])
  })
})

test('an action that comes while its compensation is under way waits, and is turned away', async () => {
  const one = execution()
  await one.act()
  const late = execution()
  const held = gate()
  // A compensation in flight of an action that was done: a repeated action still gets its result.
  const undoing = barrier.step(one.undo, world.pool, () => held.wait())
  await held.reached
  expect(await one.act()).toEqual({ seat: 12 })
  held.open()
  await undoing
  const client = await world.pool.connect()
  await client.query('begin')
  await client.query(
    `insert into escrow_barrier (namespace, execution_id, operation, outcome) values ('default', $1, 'action', 'rolledBack')`,
    [late.action.executionId],
  )
  const acting = late.act()
  acting.catch(() => {})
  await until(async () => (await world.waiting()) === 1)
  await client.query('commit')
  client.release()
  expect((await failure(acting)).code).toBe('barrierRefused')
  expect(await late.effects()).toEqual([0, 0])
})

test('many compensations and actions of one execution at once: one order, and no effect without its undoing', async () => {
  for (let round = 0; round < 10; round++) {
    const one = execution()
    const calls = [one.compensate, one.act, one.act, one.compensate, one.act, one.compensate]
    await Promise.allSettled(calls.map((call) => call()))
    const [done, undone] = await one.effects()
    expect(undone).toBe(done)
    expect(await one.rows()).toEqual([done === 1 ? 'committed' : 'rolledBack', 'committed'])
  }
})

describe('a refusal that was decided outside of the barrier', () => {
  test('stands in the row before it is told, and turns an attempt in flight away', async () => {
    const one = execution()
    const refusal = refuse('the input does not fit', 'invalidArgument')
    expect(await failure(barrier.refuse(one.action, refusal))).toBe(refusal)
    expect(await one.rows()).toEqual(['refused', undefined])
    expect((await failure(one.act())).message).toBe('the input does not fit')
    expect(await one.effects()).toEqual([0, 0])
  })

  test('gives way to an attempt that was done before, and waits for one in flight', async () => {
    const one = execution()
    const held = gate()
    const acting = barrier.step(one.action, world.pool, async (client) => {
      await one.work.action(client)
      await held.wait()
      return { seat: 12 }
    })
    await held.reached
    const refusing = barrier.refuse(one.action, refuse('too late'))
    await until(async () => (await world.waiting()) === 1)
    held.open()
    await acting
    expect(await refusing).toEqual({ seat: 12 })
  })
})

test('steps are swept like every row', async () => {
  const swept = new BarrierWorld(await postgres.database('steps_swept'))
  await swept.prepare()
  const own = await postgresBarrier(swept.pool)
  const subject: StepSubject = {
    namespace: 'default',
    executionId: 'x',
    operation: 'compensation',
    isActionDone: false,
  }
  await own.step(subject, swept.pool, () => {})
  await swept.pool.query(
    `update escrow_barrier set created_at = now() - interval '30 days' where operation <> 'database'`,
  )
  expect(await own.sweep()).toBe(2)
  await swept.pool.end()
})
