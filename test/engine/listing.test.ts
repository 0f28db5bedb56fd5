import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { ListRequest } from '../../src/core/api.ts'
import type { Namespace } from '../../src/core/ids.ts'
import { list } from '../../src/engine/listing.ts'
import { openEmbeddedStore } from '../../src/store/embedded/store.ts'
import type { Store } from '../../src/store/store.ts'
import { checkpointOf, NOON_MS } from '../store/contract-fixtures.ts'
import { sagaRowOf } from '../store/older-store.ts'

const COUNT = 100_000
const nameOf = (at: number): string => `s${String(at).padStart(6, '0')}`

let path: string
let store: Store

/** What a list gives, and how often it looked at the store, and at how many rows. */
async function listed(request: ListRequest) {
  let looks = 0
  let rows = 0
  const images: Store['images'] = {
    ...store.images,
    query: async (query) => {
      const found = await store.images.query(query)
      looks += 1
      rows += found.length
      return found
    },
  }
  const logs = { asOfMs: 0, outagesMsOf: () => 0 }
  const page = await list({ ...store, images }, 'default' as Namespace, request, logs)
  return { ids: page.transactions.map(({ id }) => id), looks, rows, nextPageToken: page.nextPageToken }
}

beforeAll(async () => {
  path = join(mkdtempSync(join(tmpdir(), 'escrow-store-')), 'store')
  store = await openEmbeddedStore({ path, now: () => NOON_MS, random: (bytes) => randomBytes(bytes) })
  const rows = Array.from({ length: COUNT }, (_, at) =>
    sagaRowOf(
      nameOf(at),
      { businessKey: `o-${at}`, tags: { region: 'eu', shelf: String(at % 1_000) } },
      at % 2 === 0 ? {} : { finishedAtMs: NOON_MS },
    ),
  )
  const many = { a: '1', b: '2', c: '3', d: '4', e: '5' }
  for (const f of ['6', '7']) rows.push(sagaRowOf(`many-${f}`, { businessKey: '', tags: { ...many, f } }))
  await store.images.checkpoint(await store.log.claim(0), checkpointOf(0, ...rows))
})

afterAll(async () => {
  await store.close()
  rmSync(join(path, '..'), { recursive: true, force: true })
})

test.each<[string, ListRequest, number[]]>([
  ['a business key', { businessKey: 'o-77778' }, [77_778]],
  ['that of one that ended', { businessKey: 'o-77777', statuses: ['completed'] }, [77_777]],
  ['a business key and tags', { businessKey: 'o-7778', tags: { region: 'eu', shelf: '778' } }, [7_778]],
  ['a business key that nothing has', { businessKey: 'o-x', tags: { region: 'eu' } }, []],
  ['a rare tag and one that all have', { tags: { region: 'eu', shelf: '998' }, limit: 2 }, [998, 1_998]],
])('of 100,000 rows a list by %s looks at those that it gives', async (_, request, expected) => {
  const { ids, rows } = await listed(request)
  expect(ids).toEqual(expected.map(nameOf))
  expect(rows).toBe(expected.length)
})

test('of many tags the last ones are held against what the first ones find', async () => {
  const tags = { a: '1', b: '2', c: '3', d: '4', e: '5', f: '7' }
  expect(await listed({ tags })).toMatchObject({ ids: ['many-7'], rows: 2 })
  expect(await listed({ tags: { ...tags, a: '2' } })).toMatchObject({ ids: [], rows: 0 })
})

test('a tag that all of 100,000 have is listed by the page, and each page looks at its own rows alone', async () => {
  const request = { tags: { region: 'eu' }, statuses: ['running', 'completed'], limit: 7 } as const
  let pageToken = ''
  for (let page = 0; page < 3; page++) {
    const found = await listed({ ...request, pageToken })
    expect(found.ids).toEqual(Array.from({ length: 7 }, (_, at) => nameOf(page * 7 + at)))
    expect(found.rows).toBe(7)
    pageToken = found.nextPageToken
  }
})

test('what another filter leaves of a page is filled up by larger looks, up to a bound', async () => {
  const request = { tags: { region: 'eu' }, saga: 'another', limit: 10 }
  const first = await listed(request)
  expect(first).toMatchObject({
    ids: [],
    looks: 11,
    rows: 10_000,
    nextPageToken: `default/${nameOf(19_998)}`,
  })
})
