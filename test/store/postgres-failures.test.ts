import { crc32 } from 'node:zlib'
import type { Client } from 'pg'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Segment } from '../../src/store/log.ts'
import type { Store } from '../../src/store/store.ts'
import { service } from '../services/require.ts'
import { appendAll, sequencesOf } from './contract-bench.ts'
import { checkpointOf, key, NOON_MS, rowOf, segmentOf } from './contract-fixtures.ts'
import { PostgresWorld } from './postgres-world.ts'

const postgres = await service('postgres')
const world = new PostgresWorld(postgres)

let store: Store
let client: Client

beforeEach(async () => {
  await world.begin()
  store = await world.store()
  client = await world.client()
})
afterEach(() => world.end())

/** Makes every write to a table raise this, until the test ends. */
async function raise(table: string, what: string): Promise<void> {
  await client.query(
    `create or replace function fail() returns trigger language plpgsql as $$ begin ${what}; return new; end $$`,
  )
  await client.query(
    `create or replace trigger fail before insert or update on ${table} for each row execute function fail()`,
  )
}

const heal = (table: string): Promise<unknown> => client.query(`drop trigger fail on ${table}`)

describe('what the server says', () => {
  test.each([
    ['53100', /disk is full/],
    ['53200', /no memory left/],
    ['53300', /max_connections/],
    ['40001', /try again/],
    ['40P01', /try again/],
    ['55P03', /holds a lock/],
    ['57014', /too slow/],
    ['25006', /name the primary/],
    ['42501', /grant the role/],
    ['57P01', /ended the connection/],
    ['08006', /connection/],
    ['XX000', /appending to log 0/],
  ])('%s: the append is unknown, and the same bytes again are done', async (state, message) => {
    const handle = await store.log.claim(0)
    await appendAll(handle, 1, 1)
    await raise('segments', `raise exception using errcode = '${state}', message = 'a failing connection'`)
    const unknown = {
      code: 'storeUnavailable',
      message: expect.stringMatching(message),
      details: { cause: state },
    }
    for (let time = 1; time <= 2; time++)
      await expect(handle.append(segmentOf(2))).rejects.toMatchObject(unknown)
    await heal('segments')
    expect(await handle.append(segmentOf(2))).toBe('done')
    expect(await sequencesOf(handle, 0)).toEqual([1, 2])
  })

  test.each(['XX001', 'XX002'])('%s: the store is damaged', async (state) => {
    const handle = await store.log.claim(0)
    await raise('segments', `raise exception using errcode = '${state}'`)
    await expect(handle.append(segmentOf(1))).rejects.toMatchObject({ code: 'storeCorrupt' })
  })

  test('a warning: done and not as it should be is unknown, and done when it is looked for', async () => {
    const handle = await store.log.claim(0)
    await raise('segments', "raise warning 'the wait for the standby was cancelled'")
    const unknown = { code: 'storeUnavailable', message: expect.stringMatching(/wait for the standby/) }
    await expect(handle.append(segmentOf(1))).rejects.toMatchObject(unknown)
    expect(await handle.append(segmentOf(1))).toBe('done')
    // As that wait is: when everything else is done.
    await client.query(`create constraint trigger fail after insert on live deferrable initially deferred
      for each row execute function fail()`)
    const checkpoint = checkpointOf(1, rowOf('default/a', 1))
    await expect(store.images.checkpoint(handle, checkpoint)).rejects.toMatchObject(unknown)
    await heal('live')
    expect(await store.images.checkpoint(handle, checkpoint)).toBe('done')
  })

  test('a checkpoint that fails in the middle leaves nothing, and may be repeated', async () => {
    const handle = await store.log.claim(0)
    await appendAll(handle, 1, 1)
    const rows = [rowOf('default/a', 1), rowOf('default/b', 1, { finishedAtMs: NOON_MS })]
    await raise('logs', "raise exception using errcode = '53100'")
    const failed = store.images.checkpoint(handle, checkpointOf(1, ...rows))
    await expect(failed).rejects.toMatchObject({ code: 'storeUnavailable', details: { cause: '53100' } })
    expect(await store.images.load([key('default/a'), key('default/b')])).toEqual([undefined, undefined])
    await heal('logs')
    expect(await store.images.checkpoint(handle, checkpointOf(1, ...rows))).toBe('done')
  })

  test('goodbye, to every connection at once: the next calls connect again', async () => {
    const handle = await store.log.claim(0)
    await appendAll(handle, 1, 1)
    await store.images.checkpoint(handle, checkpointOf(1, rowOf('default/a', 1)))
    await store.images.load([key('default/a')])
    const { rowCount } = await client.query(
      `select pg_terminate_backend(pid, 5000) from pg_stat_activity
        where application_name = 'escrow' and datname = current_database()`,
    )
    expect(rowCount).toBeGreaterThan(3)
    // Whoever had a connection may learn of it only now; nobody does twice.
    await handle.append(segmentOf(2)).catch(() => {})
    expect(await handle.append(segmentOf(2))).toBe('done')
    await store.images.load([key('default/a')]).catch(() => {})
    expect(await store.images.load([key('default/a')])).toMatchObject([{ sequence: 1 }])
  })
})

describe('appends of several logs in one statement', () => {
  /** Makes what is raised concern log 1 alone. */
  const raiseForOne = (what: string): Promise<void> =>
    raise('segments', `if new.log = 1 then ${what}; end if`)
  const claimThree = () => Promise.all([0, 1, 2].map((log) => store.log.claim(log)))
  /** Which logs' segments of a sequence are there, those of one transaction together. */
  async function transactionsOf(sequence: number): Promise<number[][]> {
    const { rows } = await client.query<{ logs: number[] }>(
      'select array_agg(log order by log) as logs from segments where sequence = $1 group by xmin::text order by 1',
      [sequence],
    )
    return rows.map(({ logs }) => logs)
  }

  test.each(['22001', '23505', '23514', '40001', '40P01', '54000', '55P03', 'P0001', 'XX000'])(
    '%s for one of them: that one is unknown, as it would be alone, and the others are done',
    async (state) => {
      const handles = await claimThree()
      await raiseForOne(`raise exception using errcode = '${state}', message = 'not this one'`)
      const [first, second, third] = await Promise.allSettled(
        handles.map((handle) => handle.append(segmentOf(1))),
      )
      const done = { status: 'fulfilled', value: 'done' }
      expect([first, third]).toEqual([done, done])
      expect(second).toMatchObject({
        reason: {
          code: 'storeUnavailable',
          message: expect.stringMatching(/^appending to log 1: not this one/),
          details: { cause: state },
        },
      })
      expect(await transactionsOf(1)).toEqual([[0], [2]])
      await heal('segments')
      expect(await handles[1]?.append(segmentOf(1))).toBe('done')
    },
  )

  test('damage that one of them meets is damage for that one alone', async () => {
    const handles = await claimThree()
    await raiseForOne("raise exception using errcode = 'XX001'")
    const ends = await Promise.allSettled(handles.map((handle) => handle.append(segmentOf(1))))
    expect(ends).toMatchObject([{ value: 'done' }, { reason: { code: 'storeCorrupt' } }, { value: 'done' }])
  })

  test.each(['08006', '25006', '42P01', '53100', '57014', '57P01', '58030', '40003'])(
    '%s: all are unknown, none is tried alone, and the same bytes again are done together',
    async (state) => {
      const handles = await claimThree()
      await raiseForOne(`raise exception using errcode = '${state}'`)
      const appends = handles.map((handle) => handle.append(segmentOf(1)))
      const unknown = {
        code: 'storeUnavailable',
        message: expect.stringMatching(/^appending to log 0, 1, 2: /),
        details: { cause: state },
      }
      await Promise.all(appends.map((append) => expect(append).rejects.toMatchObject(unknown)))
      expect(await transactionsOf(1)).toEqual([])
      await heal('segments')
      const again = await Promise.all(handles.map((handle) => handle.append(segmentOf(1))))
      expect(again).toEqual(['done', 'done', 'done'])
      expect(await transactionsOf(1)).toEqual([[0, 1, 2]])
    },
  )

  test('one that was refused stays away from the others until it is through', async () => {
    const handles = await claimThree()
    const appendAgain = (sequences: readonly number[]) =>
      Promise.allSettled(handles.map((handle, i) => handle.append(segmentOf(sequences[i] as number))))
    await raiseForOne("raise exception 'not this one'")
    await appendAgain([1, 1, 1])
    expect(await appendAgain([2, 1, 2])).toMatchObject([
      { value: 'done' },
      { status: 'rejected' },
      { value: 'done' },
    ])
    expect(await transactionsOf(2)).toEqual([[0, 2]])
    await heal('segments')
    expect(await handles[1]?.append(segmentOf(1))).toBe('done')
    expect(await handles[1]?.append(segmentOf(2))).toBe('done')
    await appendAgain([3, 3, 3])
    expect(await transactionsOf(3)).toEqual([[0, 1, 2]])
  })
})

describe('a network that swallows everything', () => {
  test('is given up within the lease, by every call, and done again when it is back', async () => {
    const proxy = await world.proxy()
    const far = await world.store({ url: proxy.through(world.url), leaseMs: 800 })
    const handle = await far.log.claim(0)
    await appendAll(handle, 1, 1)
    await far.images.load([key('default/a')])
    proxy.blackhole()
    const begunMs = performance.now()
    const silent = { code: 'storeUnavailable', message: expect.stringMatching(/no answer for 800 ms/) }
    const calls = [
      handle.append(segmentOf(2)),
      handle.verify(),
      far.images.load([key('default/a')]),
      far.images.checkpoint(handle, checkpointOf(1, rowOf('default/a', 1))),
      far.images.query({ namespace: 'default', statuses: [], after: '', limit: 1 }),
      far.directory.get('a'),
      far.log.claim(1),
    ]
    await Promise.all(calls.map((call) => expect(call).rejects.toMatchObject(silent)))
    expect(performance.now() - begunMs).toBeLessThan(3_000)
    proxy.reset()
    proxy.heal()
    expect(await handle.append(segmentOf(2))).toBe('done')
    expect(await far.images.checkpoint(handle, checkpointOf(1, rowOf('default/a', 1)))).toBe('done')
    proxy.blackhole()
    const closingMs = performance.now()
    await far.close()
    expect(performance.now() - closingMs).toBeLessThan(3_000)
  })

  test('while the store opens is storeUnavailable', async () => {
    const proxy = await world.proxy()
    proxy.blackhole()
    const opening = world.store({ url: proxy.through(world.url), leaseMs: 500 })
    await expect(opening).rejects.toMatchObject({ code: 'storeUnavailable' })
  })
})

describe('a line that is slow', () => {
  const MIB = 1 << 20
  const LARGE = 24

  function largeSegment(sequence: number): Segment {
    const { bytes } = segmentOf(sequence)
    const large = Buffer.concat([bytes.subarray(0, -4), Buffer.alloc(MIB + 4)])
    large.writeUInt32BE(crc32(large.subarray(0, -4)), large.length - 4)
    return { sequence, bytes: large }
  }

  test('lets a checkpoint of many statements take longer than the lease', async () => {
    const proxy = await world.proxy()
    const far = await world.store({ url: proxy.through(world.url), leaseMs: 1_000 })
    const handle = await far.log.claim(0)
    await appendAll(handle, 1, 1)
    // With a connection that is there already: to open one takes several answers within one lease.
    await far.images.checkpoint(handle, checkpointOf(0, rowOf('default/a', 1)))
    proxy.latency(100)
    const begunMs = performance.now()
    const rows = Array.from({ length: 3_001 }, (_, i) => rowOf(`default/${i}`, 1))
    expect(await far.images.checkpoint(handle, checkpointOf(1, ...rows))).toBe('done')
    expect(performance.now() - begunMs).toBeGreaterThan(1_000)
  })

  test('brings images and segments in parts, each within the lease', async () => {
    const handle = await store.log.claim(0)
    await appendAll(handle, 1, 1)
    const rows = Array.from({ length: LARGE }, (_, i) =>
      rowOf(`default/${i + 10}`, 1, { bytes: Buffer.alloc(MIB, i), finishedAtMs: i % 2 === 0 ? NOON_MS : 0 }),
    )
    await store.images.checkpoint(handle, checkpointOf(0, ...rows))
    for (let sequence = 2; sequence <= LARGE; sequence++) await handle.append(largeSegment(sequence))
    const proxy = await world.proxy()
    const far = await world.store({ url: proxy.through(world.url), leaseMs: 3_000 })
    const mine = await far.log.claim(0)
    const list = (limit: number) =>
      far.images.query({ namespace: 'default', statuses: ['prepared', 'delivered'], after: '', limit })
    await Promise.all([far.images.load([key('default/10')]), list(1), sequencesOf(mine, LARGE)])
    // It holds a mebibyte: so much passes in that time.
    proxy.latency(80)
    const begunMs = performance.now()
    const keys = ['default/none', ...rows.map((row) => row.key), 'default/nobody'].map(key)
    const [loaded, listed, sequences] = await Promise.all([
      far.images.load(keys),
      list(LARGE - 1),
      sequencesOf(mine, 0),
    ])
    expect(performance.now() - begunMs).toBeGreaterThan(3_000)
    expect(loaded.map((each) => each?.bytes[0])).toEqual([undefined, ...rows.keys(), undefined])
    expect(sequences).toEqual(Array.from({ length: LARGE }, (_, i) => i + 1))
    expect(listed.map((each) => each.key)).toEqual(rows.slice(0, -1).map((row) => row.key))
    expect(listed.map(({ stored }) => stored.bytes[MIB - 1])).toEqual([...rows.keys()].slice(0, -1))
  })
})

describe('transactions, for whoever speaks SQL', () => {
  test('has what people read, of those that live and those that finished', async () => {
    const handle = await store.log.claim(0)
    const facts = () => ({
      kind: 'saga' as const,
      name: 'place-order',
      version: 3,
      beganAtMs: NOON_MS,
      settledAtMs: 0,
      traceId: '0AF7651916cd43dd8448eb211c80319c',
      error: 'no\0 stock \ud800',
    })
    const attributes = { businessKey: 'order\0-1', tags: { region: 'e\0u', customer: 'c-1\ud800' } }
    const rows = [
      rowOf('default/a/b', 1, {
        status: 'parked',
        facts,
        attributes,
        dueLogMs: 500,
        dueWallMs: NOON_MS + 9_000,
      }),
      rowOf('default/b', 1, { finishedAtMs: NOON_MS + 1_000 }),
    ]
    await store.images.checkpoint(handle, {
      ...checkpointOf(0, ...rows),
      clock: { wallMs: NOON_MS, logMs: 100 },
    })
    const noon = (ms: number): Date => new Date(NOON_MS + ms)
    const { rows: seen } = await client.query('select * from transactions order by key')
    expect(seen).toMatchObject([
      {
        namespace: 'default',
        id: 'a/b',
        kind: 'saga',
        name: 'place-order',
        version: 3,
        status: 'parked',
        business_key: 'order\ufffd-1',
        tags: { region: 'e\ufffdu', customer: 'c-1\ufffd' },
        began_at: noon(0),
        settled_at: null,
        finished_at: null,
        due_at: noon(400),
        updated_at: noon(0),
        trace_id: '0af7651916cd43dd8448eb211c80319c',
        error: 'no\ufffd stock \ufffd',
      },
      {
        id: 'b',
        kind: 'message',
        name: 'orders',
        version: 0,
        status: 'delivered',
        business_key: null,
        tags: null,
        settled_at: noon(1_000),
        finished_at: noon(1_000),
        due_at: null,
        trace_id: null,
        error: null,
      },
    ])
    const { rows: found } = await client.query(
      `select id from transactions where business_key = $1 and tags @> '{"customer": "c-1\ufffd"}' and status = 'parked'`,
      ['order\ufffd-1'],
    )
    expect(found).toEqual([{ id: 'a/b' }])
    const query = { namespace: 'default', after: '', limit: 10, statuses: [], attributes }
    expect(await store.images.query(query)).toMatchObject([{ key: 'default/a/b' }])
  })

  test('are found by business key and tags, exactly, among the living and the finished', async () => {
    const handle = await store.log.claim(0)
    const rows = Array.from({ length: 60 }, (_, i) => {
      const n = String(i).padStart(2, '0')
      const tags = { region: i % 2 === 0 ? 'eu' : 'us', shop: `s${i % 3}` }
      return rowOf(`default/${n}`, 1, {
        status: i % 4 < 2 ? 'completed' : 'running',
        finishedAtMs: i % 4 < 2 ? NOON_MS : 0,
        attributes: i === 0 ? undefined : { businessKey: `order-${i % 5}`, tags },
      })
    })
    await store.images.checkpoint(handle, checkpointOf(0, ...rows))
    const find = async (
      businessKey: string,
      tags: Record<string, string>,
      statuses = ['running', 'completed'],
    ) => {
      const found: string[] = []
      for (let after = ''; ; after = found.at(-1)!) {
        const query = { namespace: 'default', statuses, attributes: { businessKey, tags }, after, limit: 4 }
        const page = await store.images.query(query as Parameters<typeof store.images.query>[0])
        found.push(...page.map((each) => each.key))
        if (page.length < 4) return found
      }
    }
    const expected = (is: (i: number) => boolean): string[] =>
      rows.filter((_, i) => i > 0 && is(i)).map((row) => row.key)
    expect(await find('order-3', {})).toEqual(expected((i) => i % 5 === 3))
    expect(await find('', { shop: 's1' })).toEqual(expected((i) => i % 3 === 1))
    expect(await find('', { shop: 's1', region: 'us' })).toEqual(expected((i) => i % 3 === 1 && i % 2 === 1))
    expect(await find('order-3', { shop: 's1' }, ['completed'])).toEqual(
      expected((i) => i % 5 === 3 && i % 3 === 1 && i % 4 < 2),
    )
    expect(await find('order-9', {})).toEqual([])
    expect(await find('', {})).toEqual(rows.map((row) => row.key))
    expect(await store.images.query({ namespace: "o'neil", statuses: [], after: "'\0", limit: 1 })).toEqual(
      [],
    )
  })
})
