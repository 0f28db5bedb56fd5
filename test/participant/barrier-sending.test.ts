/** The rules of BARRIER.md for steps that send messages, each on a real PostgreSQL. */
import { Pool } from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  type PostgresBarrier,
  postgresBarrier,
  type StepSubject,
} from '../../src/participant/barrier/postgres-barrier.ts'
import { Refusal, refuse } from '../../src/participant/refusal.ts'
import { seeded } from '../harness/seed.ts'
import { service } from '../services/require.ts'
import { BarrierWorld, failure, gate, until } from './barrier-world.ts'

const postgres = await service('postgres', { settings: { max_connections: 120 } })
let url: string
let world: BarrierWorld
let barrier: PostgresBarrier

beforeAll(async () => {
  url = await postgres.database('sending')
  world = new BarrierWorld(url, 30)
  await world.prepare()
  barrier = await postgresBarrier(world.pool)
})

afterAll(async () => {
  await world.pool.end()
})

/** A half message's local transaction, and whether it was abandoned. */
function sending(bodies: readonly { index: number; body: Uint8Array }[] = []) {
  const seen = { isAbandoned: false, restored: undefined as unknown }
  const tx = world.local({
    abandon: () => (seen.isAbandoned = true),
    sealBodies: () => bodies,
    restoreBodies: (found) => (seen.restored = found),
  })
  return { tx, seen, check: () => barrier.checker.check(world.question(tx)) }
}

type Client = { query(text: string, values?: unknown[]): Promise<{ rows: Record<string, unknown>[] }> }

/** An execution that nobody else has, and attempts at it. */
function execution(operation: StepSubject['operation'] = 'action') {
  const executionId = world.newId()
  const step: StepSubject = { namespace: 'default', executionId, operation, isActionDone: false }
  return {
    step,
    attempt: (tx: ReturnType<typeof sending>['tx'], work?: (client: Client) => Promise<unknown>) =>
      barrier.step(
        step,
        world.pool,
        async (client) => {
          await client.query('insert into work values ($1)', [executionId])
          return (await work?.(client)) ?? { by: tx.executionId }
        },
        { tx },
      ),
    effects: () => world.done(executionId),
    outcome: async () => (await world.row(step))?.outcome,
  }
}

const commit = (bodies: unknown[] = []) => ({ resolution: 'commit', bodies })

test('its work and its messages are one local transaction: the check-back says commit, with the bodies', async () => {
  const one = execution()
  const body = Buffer.from('{}')
  const { tx, seen, check } = sending([{ index: 0, body }])
  expect(await one.attempt(tx)).toEqual({ by: tx.executionId })
  expect([await one.effects(), await one.outcome(), seen.isAbandoned]).toEqual([1, 'committed', false])
  expect(await check()).toEqual(commit([{ index: 0, body }]))
  // The result is the step's, not the message's.
  expect((await world.row(tx))?.result).toBeNull()
})

test('what its work throws, and a body that is missing, commit neither', async () => {
  const one = execution()
  const { tx, check } = sending()
  expect((await failure(one.attempt(tx, () => Promise.reject(new Error('no'))))).message).toBe('no')
  const sealBodies = () => {
    throw new Error('not fixed')
  }
  const unfixed = { ...tx, sealBodies }
  expect((await failure(one.attempt(unfixed))).message).toBe('not fixed')
  expect([await one.effects(), await one.outcome(), await world.row(tx)]).toEqual([0, undefined, undefined])
  expect(await check()).toBe('rollback')
})

test('an attempt after the one that was done gives its result, and its own messages never go', async () => {
  const one = execution()
  const [first, second] = [sending(), sending()]
  const given = await one.attempt(first.tx)
  expect(await one.attempt(second.tx)).toEqual(given)
  expect([first.seen.isAbandoned, second.seen.isAbandoned, await one.effects()]).toEqual([false, true, 1])
  expect([await first.check(), await second.check()]).toEqual([commit(), 'rollback'])
})

test('the same transaction again is the one that was done, and goes', async () => {
  const one = execution()
  const body = Buffer.from('x')
  const { tx, seen } = sending([{ index: 0, body }])
  const given = await one.attempt(tx)
  expect(await one.attempt(tx)).toEqual(given)
  expect(seen).toEqual({ isAbandoned: false, restored: [{ index: 0, body }] })
})

test('a check-back that came first fails the attempt, and no more: the next one is done with messages of its own', async () => {
  const one = execution()
  const [first, second] = [sending(), sending()]
  expect(await first.check()).toBe('rollback')
  expect(await failure(one.attempt(first.tx))).toMatchObject({
    code: 'barrierRefused',
    details: { operation: 'local' },
  })
  expect([await one.effects(), await one.outcome()]).toEqual([0, undefined])
  expect(await one.attempt(second.tx)).toEqual({ by: second.tx.executionId })
  expect([await first.check(), await second.check()]).toEqual(['rollback', commit()])
})

test('a check-back waits for work in flight, however long that takes', async () => {
  const one = execution()
  const { tx, check } = sending()
  const held = gate()
  const attempt = one.attempt(tx, () => held.wait())
  await held.reached
  const checked = Promise.resolve(check())
  await until(async () => (await world.waiting()) === 1)
  held.open()
  await attempt
  expect(await checked).toEqual(commit())
})

test('a refusal sends nothing, and stays', async () => {
  const one = execution()
  const [first, second] = [sending(), sending()]
  const refused = one.attempt(first.tx, () => Promise.reject(refuse('sold out', 'soldOut')))
  expect(await failure(refused)).toMatchObject({ message: 'sold out', code: 'soldOut' })
  expect([await one.effects(), await one.outcome(), await world.row(first.tx)]).toEqual([
    0,
    'refused',
    undefined,
  ])
  expect(await failure(one.attempt(second.tx))).toBeInstanceOf(Refusal)
  expect([await first.check(), await second.check()]).toEqual(['rollback', 'rollback'])
})

test('an action that was undone before it came sends nothing, and its end is the step’s own', async () => {
  const one = execution()
  const { tx, check } = sending()
  await barrier.step({ ...one.step, operation: 'compensation' }, world.pool, () => 'never')
  const thrown = await failure(one.attempt(tx))
  expect(thrown).toMatchObject({ code: 'barrierRefused', details: {} })
  expect([await one.effects(), await check()]).toEqual([0, 'rollback'])
})

describe('a compensation', () => {
  test('sends with what it undoes', async () => {
    const one = execution('compensation')
    const { tx, seen, check } = sending()
    await barrier.step({ ...one.step, operation: 'action' }, world.pool, () => 'done')
    await one.attempt(tx)
    expect([await one.effects(), seen.isAbandoned, await check()]).toEqual([1, false, commit()])
  })

  test('sends nothing where there is nothing to undo', async () => {
    const one = execution('compensation')
    const { tx, seen, check } = sending()
    expect(await one.attempt(tx)).toBeUndefined()
    expect([await one.effects(), seen.isAbandoned, await check()]).toEqual([0, true, 'rollback'])
    expect(await one.outcome()).toBe('committed')
  })
})

test('waiting for either row is bounded, and the work has the lock time-out of its connection', async () => {
  const impatient = await postgresBarrier(world.pool, { lockTimeoutMs: 50 })
  const [one, { tx }, held] = [execution(), sending(), gate()]
  let timeout: unknown
  const holding = one.attempt(tx, async (client) => {
    timeout = (await client.query('show lock_timeout')).rows[0]?.lock_timeout
    await held.wait()
  })
  await held.reached
  expect(timeout).toBe('0')
  for (const [step, other] of [
    [one.step, sending().tx],
    [execution().step, tx],
  ] as const) {
    const thrown = await failure(impatient.step(step, world.pool, () => {}, { tx: other }))
    expect(thrown.code).toBe('overloaded')
  }
  held.open()
  await holding
})

test('messages that were prepared for another database, or committed without the step, are refused', async () => {
  const one = execution()
  const elsewhere = await failure(one.attempt({ ...world.local(), databaseId: 'another' }))
  expect(elsewhere.code).toBe('wouldNotShareTransaction')
  const alone = sending().tx
  await barrier.run(alone, world.pool, () => {})
  expect((await failure(one.attempt(alone))).code).toBe('wouldNotShareTransaction')
  expect([await one.effects(), await one.outcome()]).toEqual([0, undefined])
})

test('whatever attempts and check-backs do at once, one transaction goes, and it is that of the work', async () => {
  const { random, between } = seeded('attempts and check-backs of a step that sends')
  // Under REPEATABLE READ what ended after a snapshot is seen as 40001 and not as a row.
  const repeatable = new Pool({
    connectionString: url,
    max: 30,
    options: '-c default_transaction_isolation=repeatable\\ read',
  })
  repeatable.on('error', () => {})
  try {
    for (let round = 0; round < 40; round++) {
      const one = execution()
      const pool = round % 2 === 0 ? world.pool : repeatable
      const all = Array.from({ length: Math.floor(between(2, 5)) }, () => sending())
      const work = (by: string) => async (client: Client) => {
        await client.query('insert into work values ($1)', [one.step.executionId])
        if (random() < 0.2) throw new Error('at random')
        return { by }
      }
      const results = await Promise.all(
        all.flatMap(({ tx, check }) => [
          barrier
            .step(one.step, pool, work(tx.executionId), { tx })
            .catch((error: Error & { code?: string; details?: { operation?: string } }) => {
              expect(
                error.message === 'at random' || error.details?.operation === 'local',
                error.message,
              ).toBe(true)
            }),
          random() < 0.5 ? check() : undefined,
        ]),
      )
      const answers = await Promise.all(all.map(({ check }) => check()))
      const gone = all.filter((_, index) => answers[index] !== 'rollback')
      expect([gone.length, gone.length]).toEqual([await one.effects(), (await one.outcome()) ? 1 : 0])
      for (const result of results) {
        if (typeof result === 'object' && 'by' in result) expect(result.by).toBe(gone[0]?.tx.executionId)
      }
      expect(gone.every(({ seen }) => !seen.isAbandoned)).toBe(true)
    }
  } finally {
    await repeatable.end()
  }
})
