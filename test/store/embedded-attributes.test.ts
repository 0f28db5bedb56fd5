/** What the embedded store promises of search attributes beyond the contract: its bounds, and stores of older versions. */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type EmbeddedStoreOptions, openEmbeddedStore } from '../../src/store/embedded/store.ts'
import { compareKeys, type ImageQuery, type ImageRow } from '../../src/store/images.ts'
import type { Store } from '../../src/store/store.ts'
import { until } from '../harness/until.ts'
import { checkpointOf, NOON_MS, rowOf } from './contract-fixtures.ts'
import { sagaRowOf, writeOlderStore } from './older-store.ts'
import { tamper } from './tampering.ts'

const DAY_MS = 86_400_000
const tagged = (tags: Record<string, string>) => ({ businessKey: '', tags })

let path: string
let logged: string[]

const openStore = (options: Partial<EmbeddedStoreOptions> = {}): Promise<Store> =>
  openEmbeddedStore({
    path,
    now: () => NOON_MS,
    random: (bytes) => randomBytes(bytes),
    log: (level, message) => logged.push(`${level} ${message}`),
    ...options,
  })

const keysOf = async (store: Store, query: Partial<ImageQuery>): Promise<string[]> => {
  const rows = await store.images.query({
    namespace: 'default',
    statuses: [],
    after: '',
    limit: 100_000,
    ...query,
  })
  return rows.map(({ key }) => key)
}

beforeEach(() => {
  path = join(mkdtempSync(join(tmpdir(), 'escrow-store-')), 'store')
  logged = []
})

afterEach(() => rmSync(join(path, '..'), { recursive: true, force: true }))

test('the search for what two terms share ends, and gives what one of them has from there on', async () => {
  const store = await openStore()
  const handle = await store.log.claim(0)
  const rows = Array.from({ length: 6_000 }, (_, at) =>
    rowOf(`default/${String(at).padStart(5, '0')}`, 1, {
      attributes: tagged({ [at % 2 === 0 ? 'x' : 'y']: '1' }),
    }),
  )
  await store.images.checkpoint(handle, checkpointOf(0, ...rows))
  const query = { attributes: tagged({ x: '1', y: '1' }), limit: 100 }
  const first = await keysOf(store, query)
  // So far came what the search may do for each of the five statuses.
  expect(first).toHaveLength(100)
  expect(first[0]).toMatch(/^default\/004/)
  expect(await keysOf(store, { ...query, after: 'default/05700' })).toEqual([])
  await store.close()
})

test('texts with NUL, halves of surrogate pairs, and what looks like a longer one are told apart', async () => {
  const store = await openStore()
  const handle = await store.log.claim(0)
  const texts = [
    'a',
    'a\0b',
    'a b',
    'a\0',
    '\0',
    '\ud83d',
    'x'.repeat(76),
    'x'.repeat(77),
    `${'x'.repeat(76)}\0`,
    // The first text, how a key of the index would go on behind it for one that is parked, and another's key.
    'a\0\x04default/9',
    'a \x04default/9',
  ]
  const write = async (sequence: number, shift: number): Promise<void> => {
    const rows = texts.map((_, at) => {
      const businessKey = texts[(at + shift) % texts.length] as string
      return rowOf(`default/${at}`, sequence, {
        attributes: { businessKey, tags: { [businessKey]: businessKey } },
      })
    })
    await store.images.checkpoint(handle, checkpointOf(0, ...rows))
    for (const { key, attributes } of rows) {
      expect(await keysOf(store, { attributes })).toEqual([key])
      expect(
        await keysOf(store, { attributes: { businessKey: attributes?.businessKey ?? '', tags: {} } }),
      ).toEqual([key])
    }
  }
  await write(1, 0)
  await write(2, 4)
  await store.close()
})

describe('a store of format 1', () => {
  const nameOf = (at: number): string => `s${String(at).padStart(5, '0')}`
  const attributesAt = (at: number) => ({ businessKey: `o-${at}`, tags: { half: String(at % 2) } })
  const rowAt = (at: number): ImageRow => {
    const days = (at % 4) - 1
    const change = days < 0 ? {} : { finishedAtMs: NOON_MS - days * DAY_MS }
    return sagaRowOf(nameOf(at), attributesAt(at), change)
  }
  /** Three writes of live ones, and one for each day. */
  const rows = Array.from({ length: 3_200 }, (_, at) => rowAt(at))
  const message = rowOf('default/m', 1)
  const statuses = ['running', 'completed'] as const
  const isIndexed = (): boolean => logged.some((line) => /^info indexed the search attributes/.test(line))

  const expectIndexed = async (store: Store, stored: readonly ImageRow[]): Promise<void> => {
    for (const at of [0, 1, 2, 3, 3_198, 3_199])
      expect(await keysOf(store, { statuses, attributes: { businessKey: `o-${at}`, tags: {} } })).toEqual([
        rows[at]?.key,
      ])
    for (const half of ['0', '1']) {
      const expected = stored.filter(({ attributes }) => attributes?.tags.half === half).map(({ key }) => key)
      expect(await keysOf(store, { statuses, attributes: tagged({ half }) })).toEqual(
        expected.sort(compareKeys),
      )
    }
  }

  beforeEach(() => writeOlderStore(path, [...rows, message]))

  test('is indexed in the background; until then a list by attributes is given all, and loses none', async () => {
    const store = await openStore()
    const before = await keysOf(store, { statuses, attributes: { businessKey: 'o-7', tags: {} } })
    expect(before).toEqual(rows.map(({ key }) => key))
    await until('it is indexed', isIndexed)
    expect(logged).toEqual([
      expect.stringMatching(
        /^info indexing the search attributes of up to 3201 transactions of an older version; until/,
      ),
      'info indexed the search attributes of 3201 transactions',
    ])
    await expectIndexed(store, rows)
    await store.close()
    logged = []
    const reopened = await openStore()
    await expectIndexed(reopened, rows)
    expect(logged).toEqual([])
    await reopened.close()
  })

  test('is of format 2 from then on, which older versions refuse', async () => {
    await (await openStore()).close()
    let meta = ''
    await tamper(path, 'log', 'meta', false, (table) => {
      meta = String(table.get(Buffer.from('store')))
    })
    expect(JSON.parse(meta)).toMatchObject({ format: 2, logs: 1 })
  })

  test('is looked through by the mebibyte, however large the bodies of its half messages are', async () => {
    const large = Array.from({ length: 8 }, (_, at) =>
      rowOf(`default/large-${at}`, 1, { bytes: Buffer.alloc(1 << 20) }),
    )
    const another = join(path, '..', 'another')
    await writeOlderStore(another, large)
    let writes = 0
    const store = await openStore({
      path: another,
      afterWrite: () => {
        writes += 1
      },
    })
    await until('it is indexed', isIndexed)
    // One for each, and the one that finds no more.
    expect(writes).toBe(large.length + 1)
    await store.close()
  })

  test('tells how far it got, by the clock', async () => {
    let nowMs = NOON_MS
    const store = await openStore({ now: () => (nowMs += 6_000) })
    await until('it is indexed', isIndexed)
    expect(logged.length).toBeGreaterThan(3)
    expect(logged[1]).toMatch(/^info indexing search attributes: looked at \d+ of up to 3201 transactions$/)
    await store.close()
  })

  test('goes on where it was stopped, whatever is written meanwhile', async () => {
    const stored = new Map(rows.map((row) => [row.key, row]))
    const write = async (store: Store, ...changed: ImageRow[]): Promise<void> => {
      await store.images.checkpoint(await store.log.claim(0), checkpointOf(0, ...changed))
      for (const row of changed) stored.set(row.key, row)
    }
    const isAtRest = (): boolean => isIndexed() || logged.at(-1)?.startsWith('warn') === true
    for (let opened = 0; ; opened++) {
      expect(opened).toBeLessThan(30)
      logged = []
      let hook = (): void => {
        throw new Error('stopped')
      }
      const store = await openStore({
        afterWrite: () => hook(),
      })
      // Nothing was left to do: the write that it was stopped after was the last.
      if (logged.length === 0) {
        expect(opened).toBeGreaterThan(6)
        await expectIndexed(store, [...stored.values()])
        await store.close()
        return
      }
      await until('it stopped', isAtRest)
      expect(logged.at(-1)).toMatch(/not indexed: .*stopped; it goes on when the store is next opened/)
      // What a checkpoint writes before the mark, and behind it, and what ends.
      const change = { sequence: opened + 2, isNew: false }
      const ends = sagaRowOf(nameOf(1_600 + opened * 8), tagged({ half: '1' }), {
        ...change,
        finishedAtMs: NOON_MS,
      })
      const first = sagaRowOf(
        nameOf(4),
        { businessKey: 'o-4', tags: { half: String((opened + 1) % 2) } },
        change,
      )
      const last = sagaRowOf(nameOf(3_196), { businessKey: 'o-3196', tags: {} }, change)
      hook = () => {}
      await write(store, first, last, ends)
      await store.close()
    }
  })
})
