/**
 * "A checker that throws, hangs, answers nonsense, twice, or about another database": each is unknown, never a commit and
 * never a rollback; it is asked again, and parked when its budget is used up.
 */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { Pool } from 'pg'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { type CheckerInput, postgresBarrier, type TransactionView } from '../../src/index.ts'
import { until } from '../harness/until.ts'
import { service } from '../services/require.ts'
import { half, rawSession, refusal, type World, world } from './world.ts'

const postgres = await service('postgres')
const soon = { delayMs: 20, delayMsMax: 40 }
let databases: Pool[] = []
beforeAll(async () => {
  const urls = await Promise.all(['faults_one', 'faults_two'].map((name) => postgres.database(name)))
  databases = urls.map((connectionString) => new Pool({ connectionString, max: 4 }))
})
afterAll(() => Promise.all(databases.map((pool) => pool.end())))

/** Prepares one that this checker is asked about twice, and waits until nothing more is asked. */
async function checked(here: World, checker: CheckerInput): Promise<TransactionView> {
  const session = await here.connect({ service: 'asked' })
  await session.registerChecker('odd', checker)
  // As `sendInTransaction` tells it: one database of the barrier, of the prepare, and of whom may be asked.
  const databaseId = typeof checker === 'function' ? '' : checker.databaseId
  const checkBack = { ...soon, checksMax: 2 }
  const { id } = await session.prepare(half({ checker: 'odd', databaseId, checkBack }))
  return await session.wait({ id }, { timeoutMs: 15_000 })
}

/** It decided nothing: parked after the two that it was asked, and an operator can still have it either way. */
async function isUndecided(here: World, view: TransactionView, reason: RegExp): Promise<void> {
  expect(view).toMatchObject({ status: 'parked', settledBy: '', checks: 2, deliveries: [] })
  expect(view.reason).toMatch(reason)
  // Nothing is lost: it can be asked again, and settled.
  const { id, executionId } = view
  expect(await here.coordinator.retry({ id, executionId })).toMatchObject({ status: 'prepared' })
  expect(await here.coordinator.commit({ id })).toMatchObject({ status: 'committed' })
}

test('a checker that throws is unknown, and its words are there to be read', async () => {
  const here = await world()
  const view = await checked(here, () => {
    throw new Error('the database is on fire')
  })
  await isUndecided(here, view, /check-backs exhausted: the database is on fire/)
  const other = await world()
  await isUndecided(other, await checked(other, () => Promise.reject('no reason')), /no reason/)
})

test('a checker that hangs is unknown when its time is over', async () => {
  const here = await world({}, { bounds: { checkBackTimeoutMs: 150 } })
  const view = await checked(here, () => new Promise(() => {}))
  await isUndecided(here, view, /did not answer within 150 ms|no answer within 150 ms/)

  // One whose process stands still doesn't answer at all: the coordinator's own clock ends the question.
  const raw = await rawSession(here.grpc, {
    registration: { checkers: ['still'], handlers: [], databaseId: '' },
  })
  const { id } = await here.coordinator.prepare(
    half({ checker: 'still', checkBack: { ...soon, checksMax: 1 } }),
  )
  await raw.next('checkBack')
  expect(await here.coordinator.wait({ id }, { timeoutMs: 15_000 })).toMatchObject({
    status: 'parked',
    checks: 1,
    settledBy: '',
  })
})

test('a checker that answers nonsense is unknown', async () => {
  const here = await world()
  const nonsense = [
    'COMMIT',
    'yes',
    true,
    null,
    undefined,
    { resolution: 'maybe' },
    { resolution: 'commit', bodies: [1] },
  ]
  for (const answer of nonsense) {
    const own = await world()
    const view = await checked(own, () => answer as never)
    expect(view, JSON.stringify(answer)).toMatchObject({ status: 'parked', checks: 2, settledBy: '' })
    expect(view.reason).toMatch(/checker/)
  }
  // Over HTTP: whatever isn't the enum of the answer, a 200 included.
  for (const [status, body] of [
    [200, '{}'],
    [200, '{"resolution":"RESOLUTION_MAYBE"}'],
    [200, '{"resolution":"commit"}'],
    [200, 'RESOLUTION_COMMIT'],
    [200, '<html>RESOLUTION_COMMIT</html>'],
    [500, '{"resolution":"RESOLUTION_COMMIT"}'],
    [404, '{"resolution":"RESOLUTION_ROLLBACK"}'],
    [302, '{"resolution":"RESOLUTION_COMMIT"}'],
  ] as const) {
    const url = await answering(status, body)
    await registerListener(here, url)
    const { id } = await here.coordinator.prepare(
      half({ checker: 'listens', checkBack: { ...soon, checksMax: 2 } }),
    )
    const view = await here.coordinator.wait({ id }, { timeoutMs: 15_000 })
    expect(view, `${status} ${body}`).toMatchObject({ status: 'parked', checks: 2, settledBy: '' })
  }
  await registerListener(here, await answering(200, '{"resolution":"RESOLUTION_COMMIT"}'))
  const { id } = await here.coordinator.prepare(half({ checker: 'listens', checkBack: soon }))
  await until(
    'sense is understood',
    async () => (await here.coordinator.get({ id })).settledBy === 'checkBack',
  )
})

/** A participant that listens and answers everything with the same words. */
async function answering(status: number, body: string): Promise<string> {
  const server = createServer((_, response) =>
    response.writeHead(status, { 'content-type': 'application/json' }).end(body),
  )
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

async function registerListener({ http }: World, url: string): Promise<void> {
  const response = await fetch(`${http}/escrow.v1.CoordinatorService/Register`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ service: 'listener', url, checkers: ['listens'] }),
  })
  expect(response.status).toBe(200)
}

test('a checker that answers twice is heard once', async () => {
  const here = await world()
  const raw = await rawSession(here.grpc, {
    registration: { checkers: ['twice'], handlers: [], databaseId: '' },
  })
  const answer = (callId: number, resolution: 'commit' | 'rollback' | 'unknown') =>
    raw.stream.send({ type: 'checkBackAnswer', callId, response: { resolution, bodies: [], error: '' } })
  const late = { delayMs: 20, delayMsMax: 600_000, checksMax: 9 }
  const prepare = () => here.coordinator.prepare(half({ checker: 'twice', checkBack: late }))

  const contradicted = await prepare()
  const first = await raw.next('checkBack')
  answer(first.callId, 'commit')
  answer(first.callId, 'rollback')
  await until(
    'it is settled',
    async () => (await here.coordinator.get(contradicted)).settledBy === 'checkBack',
  )
  expect(await here.coordinator.get(contradicted)).toMatchObject({ status: 'committed', checks: 1 })

  // Two answers to one question are one check of the budget, and the second one decides nothing.
  const { id, executionId } = await prepare()
  const second = await raw.next('checkBack', 2)
  expect(second.request.executionId).toBe(executionId)
  answer(second.callId, 'unknown')
  answer(second.callId, 'commit')
  answer(second.callId + 1_000, 'commit')
  await until('it is heard', async () => (await here.coordinator.get({ id })).checks > 0)
  // Everything that the session has sent was read before this is answered.
  raw.stream.send({ type: 'command', commandId: 1, timeoutMs: 0, op: 'get', request: { id } })
  await raw.next('reply')
  expect(await here.coordinator.get({ id })).toMatchObject({ status: 'prepared', checks: 1 })
})

test('a checker about another database is not asked, and a message prepared for the one waits for it', async () => {
  const here = await world()
  const [one, two] = await Promise.all(databases.map((pool) => postgresBarrier(pool)))
  if (one === undefined || two === undefined) throw new Error('two databases were made')
  expect(one.databaseId).not.toBe(two.databaseId)
  const pool = databases[0] as Pool
  await pool.query('create table if not exists made (id text primary key)')

  const service = await here.connect({ service: 'maker' })
  await service.registerChecker('made', one.checker)
  // It commits and never says so: only the row in its own database tells.
  const prepared = await service.prepare(
    // Nobody asks before the local transaction has begun, however long that takes, unless the test says so.
    half({ checker: 'made', databaseId: one.databaseId, checkBack: { delayMs: 600_000 } }),
  )
  const { id, executionId } = prepared
  await one.run({ operation: 'local', namespace: 'default', executionId }, pool, (client) =>
    client.query('insert into made values ($1)', [id]),
  )
  await service.close()

  let asked = 0
  const other = await here.connect({ service: 'maker' })
  await other.registerChecker('made', {
    databaseId: two.databaseId,
    check: (question) => {
      asked += 1
      return two.checker.check(question)
    },
  })
  await here.coordinator.requestCheckBack({ id })
  await sleep(300)
  // It would have found no row, and settled what is committed as rolled back.
  expect(asked).toBe(0)
  expect(await here.coordinator.get({ id })).toMatchObject({ status: 'prepared', checks: 0 })

  const right = await here.connect({ service: 'maker' })
  await right.registerChecker('made', one.checker)
  await here.coordinator.requestCheckBack({ id })
  await until(
    'the right one is asked',
    async () => (await here.coordinator.get({ id })).settledBy === 'checkBack',
  )
  expect(await here.coordinator.get({ id })).toMatchObject({ status: 'committed', settledBy: 'checkBack' })
  // The barrier of the other database refuses the local transaction itself.
  const subject = {
    operation: 'local',
    namespace: 'default',
    executionId: 'x-1',
    databaseId: one.databaseId,
  } as const
  await refusal(
    two.run(subject, databases[1] as Pool, () => {}),
    'wouldNotShareTransaction',
    /prepared for database/,
  )
})

test('a checker whose table has become that of another database answers unknown', async () => {
  const here = await world()
  const pool = databases[1] as Pool
  const barrier = await postgresBarrier(pool)
  const row = "namespace = '' and execution_id = '' and operation = 'database'"
  // As after a restore, or a fail-over to a copy that was set up anew.
  await pool.query(`update escrow_barrier set result = gen_random_uuid()::text where ${row}`)
  const view = await checked(here, barrier.checker)
  await pool.query(`update escrow_barrier set result = $1 where ${row}`, [barrier.databaseId])
  // Nor did it leave a row there, by which a local transaction of that database would be turned away.
  const rows = await pool.query("select 1 from escrow_barrier where operation = 'local'")
  expect(rows.rowCount).toBe(0)
  await isUndecided(here, view, /another database/)
})
