/** How groups read a queue in PostgreSQL: who commits late, who dies, who shares, what piles up. */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { afterEach, beforeAll, expect, test } from 'vitest'
import type { Broker, BrokerMessage } from '../../src/broker/broker.ts'
import { laneOf } from '../../src/broker/postgres-queue/schema.ts'
import { enqueue, type PostgresQueueOptions, postgresQueue } from '../../src/broker/postgres-queue.ts'
import { Program } from '../harness/program.ts'
import { until } from '../harness/until.ts'
import { service } from '../services/require.ts'

const postgres = await service('postgres-queue')
const READER = join(import.meta.dirname, 'programs/postgres-reader.ts')

let url: string
const open: { close(): unknown }[] = []

beforeAll(async () => {
  url = postgres.proxy.through(await postgres.server.database('reading'))
})

afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
})

function connect(options: Partial<PostgresQueueOptions> = {}): Broker {
  const broker = postgresQueue({ url, missingTopics: 'create', leaseMs: 1_500, pollMs: 50, ...options })
  open.push(broker)
  return broker
}

let topics = 0
async function withTopic(
  options: Partial<PostgresQueueOptions> = {},
): Promise<{ broker: Broker; topic: string }> {
  topics += 1
  const topic = `topic-${topics}`
  const broker = connect(options)
  await broker.register(topic, AbortSignal.timeout(10_000))
  return { broker, topic }
}

async function client(): Promise<pg.Client> {
  const one = new pg.Client({ connectionString: url })
  one.on('error', () => {})
  await one.connect()
  open.push({ close: () => one.end() })
  return one
}

const message = (topic: string, id: string, key = 'k'): BrokerMessage => ({
  topic,
  id,
  key,
  body: Buffer.from(id),
  headers: {},
  contentType: 'text/plain',
})

async function publish(broker: Broker, ...messages: BrokerMessage[]): Promise<void> {
  const outcomes = await broker.publish(messages, AbortSignal.timeout(30_000))
  expect(new Set(outcomes.map(({ outcome }) => outcome))).toEqual(new Set(['published']))
}

async function collect(broker: Broker, topic: string, group = 'readers', from?: 'earliest' | 'latest') {
  const got: string[] = []
  const subscription = await broker.subscribe({ topic, group, from }, async ({ id }) => {
    got.push(id)
  })
  return { got, subscription }
}

const arrives = (got: readonly string[], ...ids: string[]) =>
  until(`${ids} arrive`, () => ids.every((id) => got.includes(id)), 20_000)

const noted = (topic: string, id: string, key = 'k') => ({ topic, id, key, body: Buffer.from(id) })

test('a message that is committed after a later one was read is read too', async () => {
  const { broker, topic } = await withTopic()
  const late = await client()
  await late.query('begin')
  await enqueue(late, noted(topic, 'late'))
  const { got } = await collect(broker, topic)
  await publish(broker, message(topic, 'early'))
  await arrives(got, 'early')
  await late.query('commit')
  await arrives(got, 'late')
  expect(got).toEqual(['early', 'late'])
})

test('one whose transaction is beyond the snapshot of what was read is found, by the next reader as well', async () => {
  // Nothing but these two may have an id: no renewal, and no lane that changes hands.
  const { broker, topic } = await withTopic({ leaseMs: 60_000 })
  const { got, subscription } = await collect(broker, topic)
  await publish(broker, message(topic, 'first'))
  await arrives(got, 'first')
  await until('it is acknowledged', async () => (await broker.lag(topic, 'readers')) === 0)
  const [older, younger, admin] = [await client(), await client(), await client()]
  for (const each of [older, younger]) {
    await each.query('begin')
    // The older has the lower id, and the higher position: as it commits, no snapshot lists the younger as running.
    await each.query('select pg_current_xact_id()')
  }
  await enqueue(younger, noted(topic, 'younger'))
  await enqueue(older, noted(topic, 'older'))
  await older.query('commit')
  await arrives(got, 'older')
  await until('it is acknowledged', async () => (await broker.lag(topic, 'readers')) === 0)
  const { rows } = await admin.query(
    `select seen::text, younger from escrow_queue.lanes l, (select backend_xid::text as younger from pg_stat_activity where pid = $1) y
      order by read_to desc limit 1`,
    [(younger as unknown as { processID: number }).processID],
  )
  expect(rows[0].seen).toBe(`${rows[0].younger}:${rows[0].younger}:`)
  await subscription.close()
  await younger.query('commit')
  expect(await broker.lag(topic, 'readers')).toBe(1)
  const next = await collect(connect(), topic)
  await arrives(next.got, 'younger')
  expect([got, next.got]).toEqual([['first', 'older'], ['younger']])
})

test('what is found late comes before what was enqueued after its commit', async () => {
  const { broker, topic } = await withTopic({ pollMs: 60_000 })
  const [late, later] = [await client(), await client()]
  await late.query('begin')
  await enqueue(late, noted(topic, 'late'))
  const { got } = await collect(broker, topic)
  await publish(broker, message(topic, 'early'))
  await arrives(got, 'early')
  await late.query('commit')
  await later.query('begin')
  await enqueue(later, noted(topic, 'later'), { notify: true })
  await later.query('commit')
  await arrives(got, 'late', 'later')
  expect(got).toEqual(['early', 'late', 'later'])
})

test('transactions that commit in any order, or not at all: exactly the committed arrive, a key in the order of its commits', async () => {
  const { broker, topic } = await withTopic()
  const admin = await client()
  await admin.query('create table if not exists counters (key text primary key, n int not null)')
  // Of one lane, in which the others go on while one has not committed.
  const keys = Array.from({ length: 400 }, (_, at) => `key-${at}`)
    .filter((key) => laneOf(key, '') === 7)
    .slice(0, 10)
  await admin.query('insert into counters select unnest($1::text[]), 0', [keys])
  const groups = [await collect(broker, topic, 'one'), await collect(connect(), topic, 'two')]
  const committed: string[] = []
  const writers = Array.from({ length: 12 }, async (_, writer) => {
    const own = await client()
    for (let turn = 0; turn < 40; turn++) {
      const key = keys[Math.floor(Math.random() * keys.length)] as string
      await own.query('begin')
      // Some have their id long before they take the row's lock, and their position after it.
      if (Math.random() < 0.5) await own.query('select pg_current_xact_id()')
      if (Math.random() < 0.3) await sleep(Math.random() * 20)
      const { rows } = await own.query('update counters set n = n + 1 where key = $1 returning n', [key])
      const id = `${key}:${rows[0].n}:${writer}-${turn}`
      await enqueue(own, noted(topic, id, key), { notify: turn % 2 === 0 })
      if (Math.random() < 0.2) await sleep(Math.random() * 20)
      if (Math.random() < 0.2) await own.query('rollback')
      else {
        await own.query('commit')
        committed.push(id)
      }
    }
  })
  await Promise.all(writers)
  for (const { got } of groups) {
    await until('all arrive', () => got.length >= committed.length, 20_000)
    expect(got.toSorted()).toEqual(committed.toSorted())
    for (const key of keys) {
      const numbers = got.filter((id) => id.startsWith(`${key}:`)).map((id) => Number(id.split(':')[1]))
      expect(numbers).toEqual(numbers.toSorted((a, b) => a - b))
    }
  }
})

test('several groups read a topic, each by itself, from the beginning or from the end', async () => {
  const { broker, topic } = await withTopic()
  await publish(broker, message(topic, 'one'))
  const first = await collect(broker, topic, 'first')
  await arrives(first.got, 'one')
  await first.subscription.close()
  const latest = await collect(broker, topic, 'latest', 'latest')
  await publish(broker, message(topic, 'two'))
  const second = await collect(broker, topic, 'second')
  await arrives(second.got, 'one', 'two')
  await arrives(latest.got, 'two')
  await until('both are acknowledged', async () => (await broker.lag(topic, 'second')) === 0)
  expect(await broker.lag(topic, 'first')).toBe(1)
  expect(await broker.lag(topic, 'nobody')).toBe(2)
  expect(latest.got).toEqual(['two'])
})

test('what a reader had that was killed comes to another one after its lease, and nothing else does', async () => {
  const { broker, topic } = await withTopic()
  const program = new Program({ file: READER, args: [url, topic, 'mortal'] })
  await publish(broker, ...['quick-1', 'quick-2'].map((id, at) => message(topic, id, `q${at}`)))
  await until('the quick ones are acknowledged', async () => (await broker.lag(topic, 'mortal')) === 0)
  await publish(broker, message(topic, 'held-1'), message(topic, 'held-2'))
  await program.said(/got held-1/)
  const { got } = await collect(broker, topic, 'mortal')
  await sleep(100)
  const from = performance.now()
  await program.kill()
  await arrives(got, 'held-1', 'held-2')
  expect(got).toEqual(['held-1', 'held-2'])
  expect(performance.now() - from).toBeLessThan(6_000)
})

test('a handler may take longer than the lease: it is renewed, and nobody else gets the message', async () => {
  const { broker, topic } = await withTopic({ leaseMs: 1_000 })
  let times = 0
  const slow = async () => {
    times += 1
    await sleep(3_000)
  }
  await broker.subscribe({ topic, group: 'slow' }, slow)
  await connect({ leaseMs: 1_000 }).subscribe({ topic, group: 'slow' }, slow)
  await publish(broker, message(topic, 'long'))
  await until('it is acknowledged', async () => (await broker.lag(topic, 'slow')) === 0, 10_000)
  expect(times).toBe(1)
})

test('readers of a group share a topic as they come and go, and the order of each key stays', async () => {
  const { broker, topic } = await withTopic()
  const got: string[] = []
  const counts = new Map<number, number>()
  const join = (reader: number) =>
    connect().subscribe({ topic, group: 'shared' }, async ({ id }) => {
      await sleep(Math.random() * 4)
      got.push(id)
      counts.set(reader, (counts.get(reader) ?? 0) + 1)
    })
  const first = await join(0)
  const ids: string[] = []
  const publishSome = async () => {
    const batch = Array.from({ length: 200 }, (_, at) => `key-${at % 20}:${ids.length + at}`)
    ids.push(...batch)
    await publish(broker, ...batch.map((id) => message(topic, id, id.split(':')[0])))
  }
  for (let turn = 0; turn < 30; turn++) {
    await publishSome()
    if (turn === 5 || turn === 10) await join(turn)
    if (turn === 20) await first.close()
    await sleep(50)
  }
  await until('all arrive', () => got.length >= ids.length, 20_000)
  expect(got.toSorted()).toEqual(ids.toSorted())
  for (let key = 0; key < 20; key++) {
    const ofKey = (id: string) => id.startsWith(`key-${key}:`)
    expect(got.filter(ofKey)).toEqual(ids.filter(ofKey))
  }
  expect(Math.min(...counts.values())).toBeGreaterThan(200)
  expect(counts.size).toBe(3)
})

test('a message that is rejected again and again holds up its key, and no other', async () => {
  const { broker, topic } = await withTopic()
  const got: string[] = []
  await broker.subscribe({ topic, group: 'stuck', concurrencyMax: 2 }, async ({ id, key }) => {
    if (key === 'bad') throw new Error('never')
    got.push(id)
  })
  const bad = Array.from({ length: 100 }, (_, at) => message(topic, `bad-${at}`, 'bad'))
  const good = Array.from({ length: 3_000 }, (_, at) => message(topic, `good-${at}`, `good-${at % 100}`))
  await publish(broker, ...bad, ...good)
  await until('all others arrive', () => got.length >= good.length, 20_000)
  await until('only those are left', async () => (await broker.lag(topic, 'stuck')) === bad.length)
})

test('large messages arrive, in parts that memory has room for', async () => {
  const { broker, topic } = await withTopic()
  const body = Buffer.alloc(3 << 20, 'x')
  const messages = Array.from({ length: 12 }, (_, at) => ({ ...message(topic, `large-${at}`), body }))
  await publish(broker, ...messages)
  const late = await client()
  await late.query('begin')
  await enqueue(
    late,
    Array.from({ length: 4 }, (_, at) => ({ ...noted(topic, `late-${at}`), body })),
  )
  await publish(broker, message(topic, 'last'))
  const got: string[] = []
  await broker.subscribe({ topic, group: 'large' }, async (one) => {
    got.push(`${one.id} ${one.id === 'last' || body.equals(one.body)}`)
  })
  await arrives(got, 'last true')
  await late.query('commit')
  await until('all arrive', () => got.length >= 17, 30_000)
  expect(got).toEqual([
    ...messages.map(({ id }) => `${id} true`),
    'last true',
    ...[0, 1, 2, 3].map((at) => `late-${at} true`),
  ])
})

/** Messages a second that a new group gets, between the 2,000th and the 20,000th. */
async function rate(broker: Broker, topic: string): Promise<number> {
  const times: number[] = []
  const subscription = await broker.subscribe({ topic, group: `g${Math.random()}` }, async () => {
    times.push(performance.now())
  })
  await until('it reads', () => times.length > 20_000, 30_000)
  await subscription.close()
  return 18_000_000 / ((times[20_000] as number) - (times[2_000] as number))
}

test('a backlog of 200,000 messages makes reading no slower than one of 40,000, dead rows before it or not', async () => {
  const { broker, topic } = await withTopic()
  const admin = await client()
  await admin.query("insert into escrow_queue.topics (name) values ('small')")
  const fill = (name: string, count: number) =>
    admin.query(
      `with own as materialized (select pg_current_xact_id() as xid), t as (select topic from escrow_queue.topics where name = $1)
      insert into escrow_queue.messages (xid, topic, lane, id, headers, body)
      select own.xid, t.topic, n % 16, 'm' || n, json_build_object('escrow-id', 'm' || n), convert_to(repeat('x', 200), 'UTF8')
      from own, t, generate_series(1, $2::int) n`,
      [name, count],
    )
  await fill('small', 40_000)
  await fill(topic, 200_000)
  // The oldest are deleted and, while this snapshot lives, can't be removed.
  const holder = await client()
  await holder.query('begin isolation level repeatable read; select 1')
  await admin.query(
    'delete from escrow_queue.messages m using escrow_queue.topics t where t.topic = m.topic and t.name = $1 and substr(m.id, 2)::int <= 50000',
    [topic],
  )
  const [small, large]: [number[], number[]] = [[], []]
  for (let round = 0; round < 5; round++) {
    small.push(await rate(broker, 'small'))
    large.push(await rate(broker, topic))
  }
  const median = (values: number[]) => values.toSorted((a, b) => a - b)[2] as number
  console.log(
    `read a second: ${Math.round(median(small))} of 40,000, ${Math.round(median(large))} of 200,000`,
  )
  expect(median(large)).toBeGreaterThan(median(small) * 0.75)
}, 120_000)
