/** The outbox: messages on a service's own transaction. */
import pg from 'pg'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import type { Broker } from '../../src/broker/broker.ts'
import { enqueue, postgresQueue } from '../../src/broker/postgres-queue.ts'
import type { EscrowError } from '../../src/core/errors.ts'
import { until } from '../harness/until.ts'
import { service } from '../services/require.ts'

const postgres = await service('postgres-queue')

let pool: pg.Pool
let broker: Broker
let client: pg.PoolClient
let got: { id: string; key: string; text: string; headers: object; contentType: string }[] = []
let topics = 0
let topic = ''

beforeAll(async () => {
  const url = await postgres.server.database('shop')
  pool = new pg.Pool({ connectionString: url })
  // The server may stop before the last connection has ended.
  pool.on('error', () => {})
  await pool.query('create table orders (id int primary key)')
  broker = postgresQueue({ url, missingTopics: 'create', pollMs: 50 })
})

afterAll(async () => {
  await broker?.close()
  await pool?.end()
})

/** A reader of a new topic, and a client of the pool. */
async function begin(): Promise<void> {
  topics += 1
  topic = `orders-${topics}`
  got = []
  await broker.register(topic, AbortSignal.timeout(10_000))
  await broker.subscribe({ topic, group: 'audit' }, async ({ id, key, body, headers, contentType }) => {
    got.push({ id, key, text: Buffer.from(body).toString(), headers, contentType })
  })
  client = await pool.connect()
}

afterEach(() => client?.release())

async function count(): Promise<number> {
  const { rows } = await pool.query(
    'select count(*)::int as n from escrow_queue.messages join escrow_queue.topics using (topic) where name = $1',
    [topic],
  )
  return rows[0].n
}

async function rejected(promise: Promise<unknown>): Promise<EscrowError> {
  return await promise.then(
    () => Promise.reject(new Error('it was not rejected')),
    (error: EscrowError) => error,
  )
}

test('messages of a transaction that commits arrive whole, in the order of their key', async () => {
  await begin()
  await client.query('begin')
  await client.query('insert into orders values (1)')
  const headers = {
    traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
    'x-odd': 'a\0ü\ud83d',
  }
  const [id] = await enqueue(client, { topic, key: 'customer 7', body: Buffer.from('placed'), headers })
  const [paid] = await enqueue(client, [
    { topic, id: 'paid-1', key: 'customer 7', body: Buffer.from('paid') },
  ])
  expect(got).toEqual([])
  await client.query('commit')
  await until('both arrive', () => got.length >= 2)
  const key = 'customer 7'
  const contentType = 'application/json'
  expect(got).toEqual([
    { id, key, text: 'placed', headers, contentType },
    { id: 'paid-1', key, text: 'paid', headers: {}, contentType },
  ])
  expect(paid).toBe('paid-1')
})

test('of a transaction that rolls back none is ever there, of a savepoint that does neither', async () => {
  await begin()
  await client.query('begin')
  await enqueue(client, { topic, id: 'never', body: Buffer.from('') })
  await client.query('rollback')
  await client.query('begin')
  await enqueue(client, { topic, id: 'kept', body: Buffer.from('') })
  await client.query('savepoint here')
  await enqueue(client, { topic, id: 'undone', body: Buffer.from('') })
  await client.query('rollback to here')
  await client.query('commit')
  await until('what was kept arrives', () => got.length >= 1)
  expect(await count()).toBe(1)
  expect(got.map(({ id }) => id)).toEqual(['kept'])
})

test('a transaction that is repeated with the same id enqueues once, and what was lost with a crash of its client not at all', async () => {
  await begin()
  for (let time = 0; time < 2; time++) {
    await client.query('begin')
    expect(await enqueue(client, { topic, id: 'order 7 placed', body: Buffer.from('x') })).toEqual([
      'order 7 placed',
    ])
    await client.query('commit')
  }
  const other = await pool.connect()
  await other.query('begin')
  await enqueue(other, { topic, id: 'lost', body: Buffer.from('x') })
  other.release(true)
  await until('it arrives', () => got.length >= 1)
  expect(await count()).toBe(1)
})

test('without a transaction nothing is enqueued, and it says so', async () => {
  await begin()
  const error = await rejected(enqueue(client, { topic, body: Buffer.from('x') }))
  expect(error).toMatchObject({ code: 'wouldNotShareTransaction' })
  expect(
    await rejected(enqueue(pool as unknown as pg.PoolClient, { topic, body: Buffer.from('x') })),
  ).toMatchObject({
    code: 'wouldNotShareTransaction',
  })
  expect(await count()).toBe(0)
})

test('a topic that is not there enqueues nothing, not even for the others, and leaves the transaction usable', async () => {
  await begin()
  await client.query('begin')
  const error = await rejected(
    enqueue(client, [
      { topic, body: Buffer.from('x') },
      { topic: 'nowhere', body: Buffer.from('x') },
    ]),
  )
  expect(error).toMatchObject({ code: 'unknownDestination' })
  expect(error.message).toContain('"nowhere"')
  await client.query('insert into orders values (2)')
  await client.query('commit')
  expect(await count()).toBe(0)
  await client.query('begin')
  const elsewhere = await rejected(
    enqueue(client, { topic, body: Buffer.from('x') }, { schema: 'elsewhere' }),
  )
  expect(elsewhere).toMatchObject({ code: 'unknownDestination' })
  await client.query('rollback')
})

test('what can not be is refused before anything is sent', async () => {
  await begin()
  await client.query('begin')
  expect(await enqueue(client, [])).toEqual([])
  const body = Buffer.from('x')
  for (const id of ['', 'a\0b', 'x'.repeat(1_025)])
    expect(await rejected(enqueue(client, { topic, id, body }))).toMatchObject({ code: 'invalidArgument' })
  const large = await rejected(enqueue(client, { topic, body: Buffer.alloc((64 << 20) + 1) }))
  expect(large).toMatchObject({ code: 'tooLarge' })
  const schema = 'x"; drop table orders; --'
  expect(await rejected(enqueue(client, { topic, body }, { schema }))).toMatchObject({
    code: 'invalidArgument',
  })
})

test('a reader that looks once a minute is woken at COMMIT on request', async () => {
  const patient = postgresQueue({ url: await postgres.server.database('shop'), pollMs: 60_000 })
  await begin()
  const arrived: string[] = []
  await patient.subscribe({ topic, group: 'patient' }, async ({ id }) => {
    arrived.push(id)
  })
  await broker.publish(
    [{ topic, id: 'first', key: '', body: Buffer.from(''), headers: {}, contentType: '' }],
    AbortSignal.timeout(5_000),
  )
  await until('it reads', () => arrived.includes('first'))
  await client.query('begin')
  await enqueue(client, { topic, id: 'told', body: Buffer.from('x') }, { notify: true })
  await client.query('commit')
  await until('it is woken', () => arrived.includes('told'), 5_000)
  await patient.close()
})
