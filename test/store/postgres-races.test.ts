import type { Client } from 'pg'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Store } from '../../src/store/store.ts'
import { service } from '../services/require.ts'
import { appendAll, sequencesOf } from './contract-bench.ts'
import { checkpointOf, key, NOON_MS, rowOf, segmentOf } from './contract-fixtures.ts'
import { PostgresWorld } from './postgres-world.ts'

const postgres = await service('postgres')
const world = new PostgresWorld(postgres)
const DAY_MS = 86_400_000
const unavailable = (cause?: string): object => ({
  code: 'storeUnavailable',
  ...(cause !== undefined && { details: { cause } }),
})

let store: Store
let client: Client

beforeEach(async () => {
  await world.begin()
  store = await world.store()
  client = await world.client()
})
afterEach(() => world.end())

/** Holds a log's row, as a transaction that was left open does. */
async function holdLog(holder: Client): Promise<void> {
  await holder.query('begin')
  await holder.query('select from logs where log = 0 for update')
}

describe('an append whose client is cut while it waits on the server', () => {
  test('goes through after all: the same bytes again are done, and there once', async () => {
    const proxy = await world.proxy()
    const handle = await (await world.store({ url: proxy.through(world.url) })).log.claim(0)
    await holdLog(client)
    const first = handle.append(segmentOf(1))
    const cut = expect(first).rejects.toMatchObject(unavailable())
    await world.locked(1)
    proxy.reset()
    await cut
    const again = handle.append(segmentOf(1))
    await world.locked(2)
    await client.query('commit')
    expect(await again).toBe('done')
    expect(await sequencesOf(handle, 0)).toEqual([1])
    expect(await handle.append(segmentOf(1))).toBe('done')
  })

  test('is lost: the same bytes again are done', async () => {
    const proxy = await world.proxy()
    const handle = await (await world.store({ url: proxy.through(world.url) })).log.claim(0)
    await holdLog(client)
    const cut = expect(handle.append(segmentOf(1))).rejects.toMatchObject(unavailable())
    const [pid] = await world.locked(1)
    proxy.reset()
    await cut
    await client.query('select pg_terminate_backend($1)', [pid])
    const again = handle.append(segmentOf(1))
    await client.query('commit')
    expect(await again).toBe('done')
    expect(await sequencesOf(handle, 0)).toEqual([1])
  })

  test('goes through before a takeover that waited behind it: done, and fenced from then on', async () => {
    const proxy = await world.proxy()
    const zombie = await (await world.store({ url: proxy.through(world.url) })).log.claim(0)
    await holdLog(client)
    const cut = expect(zombie.append(segmentOf(1))).rejects.toMatchObject(unavailable())
    await world.locked(1)
    proxy.reset()
    await cut
    const claim = store.log.claim(0)
    await world.locked(2)
    await client.query('commit')
    const owner = await claim
    expect(owner.claimed.head).toBe(1)
    expect(await zombie.append(segmentOf(1))).toBe('done')
    expect(await zombie.append(segmentOf(2))).toBe('fenced')
    await store.images.checkpoint(owner, checkpointOf(1))
    await owner.trim(1)
    expect(await zombie.append(segmentOf(1))).toBe('fenced')
    await appendAll(owner, 2, 2)
  })

  test('is overtaken by a takeover: fenced, and never there', async () => {
    const proxy = await world.proxy()
    const zombie = await (await world.store({ url: proxy.through(world.url) })).log.claim(0)
    proxy.blackhole()
    const held = expect(zombie.append(segmentOf(1))).rejects.toMatchObject(unavailable())
    const owner = await store.log.claim(0)
    proxy.reset()
    await held
    proxy.heal()
    expect(await zombie.append(segmentOf(1))).toBe('fenced')
    expect(await zombie.verify()).toBe(false)
    expect(await sequencesOf(owner, 0)).toEqual([])
  })
})

describe('a checkpoint', () => {
  const row = (sequence: number, change = {}) => rowOf('default/a', sequence, change)

  /** A checkpoint that is stuck in the middle: somebody holds a row that it must write. */
  async function stuck(handle: Awaited<ReturnType<Store['log']['claim']>>): Promise<Promise<unknown>> {
    await store.images.checkpoint(handle, checkpointOf(0, row(1)))
    await client.query('begin')
    await client.query("select from live where key = 'default/a' for update")
    const checkpoint = store.images.checkpoint(
      handle,
      checkpointOf(1, row(2), rowOf('default/0', 2), rowOf('default/z', 2, { finishedAtMs: NOON_MS })),
    )
    await world.locked(1)
    return checkpoint
  }

  test('holds up no append while it writes rows, and no other log', async () => {
    const handle = await store.log.claim(0)
    await appendAll(handle, 1, 1)
    const checkpoint = stuck(handle)
    await world.locked(1)
    await appendAll(handle, 2, 5)
    expect(await handle.verify()).toBe(true)
    const other = await store.log.claim(1)
    expect(await store.images.checkpoint(other, checkpointOf(0, rowOf('default/b', 1)))).toBe('done')
    await client.query('commit')
    expect(await checkpoint).toBe('done')
    const { rows } = await client.query('select head::int, checkpointed::int from logs where log = 0')
    expect(rows).toEqual([{ head: 5, checkpointed: 1 }])
  })

  test('that is under way when the log is taken over leaves nothing', async () => {
    const zombie = await store.log.claim(0)
    await appendAll(zombie, 1, 1)
    const checkpoint = stuck(zombie)
    await world.locked(1)
    const owner = await (await world.store()).log.claim(0)
    expect(owner.claimed).toMatchObject({ head: 1, checkpointed: 0 })
    await client.query('commit')
    expect(await checkpoint).toBe('fenced')
    const rows = await store.images.load([key('default/a'), key('default/0'), key('default/z')])
    expect(rows).toMatchObject([{ sequence: 1 }, undefined, undefined])
    expect(await store.images.checkpoint(owner, checkpointOf(1, row(2)))).toBe('done')
  })

  test('whose COMMIT is answered into the void is there, and may be repeated', async () => {
    const proxy = await world.proxy()
    const cutStore = await world.store({ url: proxy.through(world.url) })
    const handle = await cutStore.log.claim(0)
    await appendAll(handle, 1, 2)
    // Its connection is open, and its partitions are made: what follows are its own statements alone.
    const first = checkpointOf(
      1,
      row(1, { isNew: true }),
      rowOf('default/b', 1, { finishedAtMs: NOON_MS }),
      rowOf('default/d', 1, { finishedAtMs: NOON_MS + DAY_MS }),
    )
    expect(await cutStore.images.checkpoint(handle, first)).toBe('done')
    const finished = { finishedAtMs: NOON_MS }
    const second = checkpointOf(2, row(2, finished), rowOf('default/c', 2, { ...finished, isNew: true }))
    // Each cut spares a little more of what the server answers, from the connection's first byte to the last one of COMMIT.
    const outcomes: string[] = []
    for (let bytes = 1; outcomes.at(-1) !== 'done'; bytes += 40) {
      const cut = proxy.cutAfter(bytes, 'down')
      outcomes.push(
        await cutStore.images.checkpoint(handle, second).catch((error) => {
          expect(error).toMatchObject(unavailable())
          return 'unknown'
        }),
      )
      proxy.heal()
      await cut
    }
    expect(outcomes.length).toBeGreaterThan(4)
    const names = ['a', 'b', 'c', 'd'].map((name) => key(`default/${name}`))
    const loaded = await store.images.load(names)
    expect(loaded.map((each) => each?.sequence)).toEqual([2, 1, 2, 1])
    const { rows } = await client.query('select key from transactions order by key')
    expect(rows.map((each) => each.key)).toEqual(names)
  })

  test('that ends a transaction as of before what stands there changes nothing', async () => {
    const handle = await store.log.claim(0)
    await appendAll(handle, 1, 3)
    await store.images.checkpoint(handle, checkpointOf(0, row(3)))
    await store.images.checkpoint(handle, checkpointOf(0, row(2, { finishedAtMs: NOON_MS })))
    const { rows } = await client.query('select sequence::int, status from transactions')
    expect(rows).toEqual([{ sequence: 3, status: 'prepared' }])
  })

  test('waits for the one before it, so that a transaction never stands in two tables', async () => {
    const handle = await store.log.claim(0)
    await appendAll(handle, 1, 3)
    const first = stuck(handle)
    await world.locked(1)
    const second = store.images.checkpoint(
      handle,
      checkpointOf(3, rowOf('default/0', 3, { finishedAtMs: NOON_MS })),
    )
    await world.locked(2)
    await client.query('commit')
    expect(await first).toBe('done')
    expect(await second).toBe('done')
    const { rows } = await client.query("select sequence::int from transactions where key = 'default/0'")
    expect(rows).toEqual([{ sequence: 3 }])
  })
})

describe('a takeover', () => {
  test('ends a process that stopped in the middle of its checkpoint', async () => {
    const handle = await store.log.claim(0)
    await appendAll(handle, 1, 1)
    const stopped = await world.client()
    await holdLog(stopped)
    const before = performance.now()
    const owner = await store.log.claim(0)
    expect(performance.now() - before).toBeLessThan(4_000)
    await expect(stopped.query('commit')).rejects.toThrow()
    await appendAll(owner, 2, 2)
  })

  test('by a role that may not end it fails as unavailable, and succeeds once it is gone', async () => {
    await client.query("create role weak login password 'weak'")
    await client.query(
      'grant usage on schema escrow to weak; grant all on all tables in schema escrow to weak',
    )
    const url = new URL(world.url)
    url.username = 'weak'
    url.password = 'weak'
    const weak = await world.store({ url: url.href, leaseMs: 1_000 })
    await holdLog(client)
    // Of two that wait, the second one could end the first, which is of its own role: it must not.
    const claims = [weak.log.claim(0), weak.log.claim(0)]
    const cause = expect.stringMatching(/^(55P03|57014)$/)
    const refused = { code: 'storeUnavailable', details: { cause } }
    await Promise.all(claims.map((claim) => expect(claim).rejects.toMatchObject(refused)))
    await client.query('rollback')
    expect((await weak.log.claim(0)).claimed.epoch).toBe(1)
    await weak.close()
    await client.query('drop owned by weak; drop role weak')
  })

  test("of a log that a third one takes and trims meanwhile is no gap in the second one's eyes", async () => {
    const handle = await store.log.claim(0)
    await appendAll(handle, 1, 3)
    const second = await store.log.claim(0)
    const third = await store.log.claim(0)
    await store.images.checkpoint(third, checkpointOf(3))
    await third.trim(3)
    await expect(sequencesOf(second, 0)).rejects.toMatchObject({ code: 'notOwner' })
    await expect(sequencesOf(third, 0)).rejects.toMatchObject({ code: 'storeCorrupt' })
  })

  test('leaves a migration alone, which has the whole table', async () => {
    const migration = await world.client()
    await migration.query('begin')
    await migration.query('lock table logs in access exclusive mode')
    const hasty = await world.store({ leaseMs: 2_000, migrate: false })
    await expect(hasty.log.claim(0)).rejects.toMatchObject(unavailable('55P03'))
    await migration.query('commit')
    expect((await hasty.log.claim(0)).claimed.epoch).toBe(1)
  })

  test('of all logs at once, each held by a stopped process, gets them all', async () => {
    const held = await world.client()
    await held.query('begin')
    await held.query('select from logs for update')
    const handles = await Promise.all(Array.from({ length: 16 }, (_, log) => store.log.claim(log)))
    expect(handles.map(({ claimed }) => claimed.epoch)).toEqual(handles.map(() => 1))
  })
})

describe('dropping days', () => {
  const old = (name: string, days: number) => rowOf(name, 1, { finishedAtMs: NOON_MS - days * DAY_MS })

  test('goes on beside checkpoints, loads and lists', async () => {
    const handles = await Promise.all([0, 1, 2].map((log) => store.log.claim(log)))
    const other = await world.store()
    const done = [0, 0, 0]
    let dropped = 0
    // However seldom one of them has its turn on a busy machine.
    const isOver = (): boolean => done.every((count) => count > 10) && dropped > 3
    const writers = handles.map(async (handle, log) => {
      for (let i = 0; !isOver(); i++) {
        const finished = [old(`default/${log}-${i}-0`, 0), old(`default/${log}-${i}-9`, 9 + (i % 3))]
        const checkpoint = checkpointOf(0, rowOf(`default/${log}-${i}`, 1), ...finished)
        // Another node drops a day that this one has just made: unknown, and repeated.
        const outcome = await store.images.checkpoint(handle, checkpoint).catch((error) => {
          expect(error).toMatchObject(unavailable('42P01'))
          return 'unknown'
        })
        if (outcome === 'done') done[log]! += 1
      }
    })
    const readers = [0, 1].map(async () => {
      while (!isOver()) {
        await store.images.load([key('default/0-0'), key('default/1-1-9')])
        await store.images.query({ namespace: 'default', statuses: ['delivered'], after: '', limit: 10 })
      }
    })
    while (!isOver()) dropped += await other.images.dropFinishedBefore(NOON_MS - 3 * DAY_MS)
    await Promise.all([...writers, ...readers])
    await other.images.dropFinishedBefore(NOON_MS - 3 * DAY_MS)
    const { rows } = await client.query("select count(*)::int from finished where key like '%-9'")
    expect(rows).toEqual([{ count: 0 }])
  })

  test('waits for a long report, holds nobody up, and is finished by the next one', async () => {
    const handle = await store.log.claim(0)
    await store.images.checkpoint(handle, checkpointOf(0, old('default/a', 5), old('default/b', 1)))
    const reporter = await world.client()
    await reporter.query('begin isolation level repeatable read')
    await reporter.query('select count(*) from transactions')
    let isWaiting = true
    const dropping = expect(
      store.images.dropFinishedBefore(NOON_MS).finally(() => {
        isWaiting = false
      }),
    ).rejects.toMatchObject(unavailable())
    await world.locked(1)
    const checkpoint = checkpointOf(0, old('default/c', 1), rowOf('default/live', 1))
    expect(await store.images.checkpoint(handle, checkpoint)).toBe('done')
    const keys = [key('default/b'), key('default/c')]
    expect(await store.images.load(keys)).toMatchObject([{ sequence: 1 }, { sequence: 1 }])
    const query = { namespace: 'default', statuses: ['delivered'] as const, after: '', limit: 10 }
    expect((await store.images.query(query)).length).toBeGreaterThan(1)
    expect(isWaiting).toBe(true)
    await dropping
    await reporter.query('commit')
    expect(await store.images.dropFinishedBefore(NOON_MS)).toBe(1)
    expect(
      (await store.images.load([key('default/a'), key('default/b')])).map((each) => each?.sequence),
    ).toEqual([undefined, 1])
  })
})
