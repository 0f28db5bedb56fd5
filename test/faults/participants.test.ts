/** "A participant that answers after its attempt was abandoned; a callback that swallows an SQL error." */
import { setTimeout as sleep } from 'node:timers/promises'
import { Pool } from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type PostgresBarrier, participant, postgresBarrier, type ReceivedMessage } from '../../src/index.ts'
import { until } from '../harness/until.ts'
import { service } from '../services/require.ts'
import { half, rawSession, refusal, world } from './world.ts'

const postgres = await service('postgres')
let pool: Pool
let barrier: PostgresBarrier
beforeAll(async () => {
  pool = new Pool({ connectionString: await postgres.database('faults_participants'), max: 8 })
  barrier = await postgresBarrier(pool)
  await pool.query('create table effects (execution_id text); create table orders (id text primary key)')
})
afterAll(() => pool.end())

/** Long enough for the second attempt to be answered in it, and for what a test does meanwhile, on a busy machine too. */
const impatient = { attemptTimeoutMs: 3_000, delayMs: 1, delayMsMax: 2 }
const take = [{ destination: 'slow/take', body: Buffer.from('{}') }]
const effects = async (executionId: string): Promise<number> =>
  (await pool.query('select 1 from effects where execution_id = $1', [executionId])).rowCount ?? 0

test('a participant that answers after its attempt was abandoned: what it says late is not heard', async () => {
  const here = await world()
  const raw = await rawSession(here.grpc, {
    service: 'slow',
    registration: { checkers: [], handlers: ['take'], databaseId: '' },
  })
  const answer = (callId: number, outcome: 'delivered' | 'failed' | 'refused') =>
    raw.stream.send({ type: 'deliveryAnswer', callId, response: { outcome, error: 'late' } })
  const { id } = await here.coordinator.prepare(half({ messages: take, retry: impatient }))
  await here.coordinator.commit({ id })
  const first = await raw.next('delivery')
  const second = await raw.next('delivery', 2)
  expect([first.request.attempt, second.request.attempt]).toEqual([1, 2])
  expect(second.request.executionId).toBe(first.request.executionId)
  // The first attempt refuses and fails while the second is under way: neither parks it, nor sends a third beside the second.
  answer(first.callId, 'refused')
  answer(first.callId, 'failed')
  raw.stream.send({ type: 'command', commandId: 1, timeoutMs: 0, op: 'get', request: { id } })
  await raw.next('reply')
  await sleep(100)
  expect(raw.items.filter(({ type }) => type === 'delivery')).toHaveLength(2)
  expect(await here.coordinator.get({ id })).toMatchObject({
    status: 'committed',
    deliveries: [{ status: 'waiting' }],
  })
  answer(second.callId, 'delivered')
  expect(await here.coordinator.wait({ id }, { timeoutMs: 15_000 })).toMatchObject({
    status: 'delivered',
    deliveries: [{ attempts: 1 }],
  })
})

for (const way of ['connected', 'listening over gRPC', 'listening over HTTP'] as const) {
  test(`a participant that answers after its attempt was abandoned: its effect happens once (${way})`, async () => {
    const here = await world()
    const seen: number[] = []
    const ended: number[] = []
    let release = (): void => {}
    const released = new Promise<void>((resolve) => {
      release = resolve
    })
    const handlers = {
      take: async (message: ReceivedMessage) => {
        seen.push(message.attempt)
        // The first attempt comes to its work when the second has long been asked for.
        if (message.attempt === 1) await released
        await barrier.run(message, pool, (client) =>
          client.query('insert into effects values ($1)', [message.executionId]),
        )
        ended.push(message.attempt)
      },
    }
    const slow = participant('slow', handlers, { barrier })
    const stop =
      way === 'connected'
        ? await slow.connect(here.grpc, { closeTimeoutMs: 0 })
        : await slow.listen(0, {
            protocol: way === 'listening over HTTP' ? 'http' : 'grpc',
            register: here.http,
            closeTimeoutMs: 0,
          })
    try {
      const { id } = await here.coordinator.prepare(half({ messages: take, retry: impatient }))
      await here.coordinator.commit({ id })
      const view = await here.coordinator.wait({ id }, { timeoutMs: 15_000 })
      expect(view).toMatchObject({ status: 'delivered', deliveries: [{ attempts: 1, status: 'delivered' }] })
      release()
      const { executionId } = view.deliveries[0] as { executionId: string }
      await until('the first has come to its end', () => ended.length === 2)
      expect(ended).toEqual([2, 1])
      expect(await effects(executionId)).toBe(1)
      expect(seen).toEqual([1, 2])
      expect(await here.coordinator.get({ id })).toMatchObject({ status: 'delivered' })
    } finally {
      await stop.close()
    }
  })
}

test('a callback that swallows an SQL error: nothing counts as committed, and no message is delivered', async () => {
  const here = await world()
  const session = await here.connect({ service: 'orders' })
  await session.registerChecker('swallows', barrier.checker)
  const delivered: string[] = []
  const slow = await here.connect({ service: 'slow' })
  await slow.registerHandlers({ take: (message) => void delivered.push(message.transactionId) })
  const request = (id: string) => ({ id, checker: 'swallows', messages: [{ to: 'slow/take', body: { id } }] })
  const insert = 'insert into orders values ($1)'

  const swallowed = session.sendInTransaction(request('swallowed'), (tx) =>
    barrier.run(tx, pool, async (client) => {
      await client.query(insert, ['swallowed'])
      await client.query('insert into nowhere values (1)').catch(() => {})
    }),
  )
  // PostgreSQL answers ROLLBACK to the COMMIT of a failed transaction, and calls that a success.
  const error = await refusal(swallowed, 'localTransactionFailed', /rolled back/)
  expect(error.remedy).toMatch(/savepoint/)
  await until(
    'the check-back settles it',
    async () => (await session.get({ id: 'swallowed' })).settledBy === 'checkBack',
  )
  expect(await session.get({ id: 'swallowed' })).toMatchObject({ status: 'rolledBack' })

  // The connection is as good as new, and what doesn't fail is committed.
  await session.sendInTransaction(request('fine'), (tx) =>
    barrier.run(tx, pool, (client) => client.query(insert, ['fine'])),
  )
  await session.wait({ id: 'fine' }, { timeoutMs: 15_000 })
  expect((await pool.query('select id from orders')).rows).toEqual([{ id: 'fine' }])
  expect(delivered).toEqual(['fine'])
})
