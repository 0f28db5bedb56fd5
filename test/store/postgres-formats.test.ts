/** What earlier formats wrote is migrated and read: each file below `formats` makes a store as a release left it. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { TransactionKey } from '../../src/core/ids.ts'
import { viewOf } from '../../src/engine/views.ts'
import { MIGRATIONS } from '../../src/store/postgres/schema.ts'
import { decodeTransactionImage } from '../../src/store/transaction-record.ts'
import { service } from '../services/require.ts'
import { appendAll, sequencesOf } from './contract-bench.ts'
import { checkpointOf, NOON_MS, rowOf } from './contract-fixtures.ts'
import { PostgresWorld } from './postgres-world.ts'

const postgres = await service('postgres')
const world = new PostgresWorld(postgres)
beforeEach(() => world.begin())
afterEach(() => world.end())

const folder = join(import.meta.dirname, 'formats')
const files = readdirSync(folder).flatMap((name) => {
  const [, format, release] = /^postgres-(\d+)-(.+)\.sql$/.exec(name) ?? []
  return release === undefined ? [] : [{ name, format: Number(format), release }]
})

interface Stored {
  readonly transactions: readonly { readonly view: ReturnType<typeof viewOf>; readonly row: string }[]
}

test('every format has left a store here', () => {
  expect(files.map(({ format }) => format)).toEqual(MIGRATIONS.map((_, at) => at + 1))
})

describe.each(files)('$name', ({ name, release }) => {
  const stored: Stored = JSON.parse(readFileSync(join(folder, `${release}.json`), 'utf8'))
  const ends = ['delivered', 'rolledBack', 'completed', 'compensated']
  const isEnd = ({ view }: Stored['transactions'][number]): boolean => ends.includes(view.status)

  beforeEach(async () => {
    const client = await world.client()
    await client.query(readFileSync(join(folder, name), 'utf8'))
  })

  test('is migrated to the format that this version has, once, whoever opens it', async () => {
    const stores = await Promise.all([world.store(), world.store(), world.store()])
    expect(new Set(stores.map(({ log }) => log.storeId)).size).toBe(1)
    const client = await world.client()
    const { rows } = await client.query('select format, store_id, logs from store')
    expect(rows).toEqual([{ format: MIGRATIONS.length, store_id: stores[0]!.log.storeId, logs: 2 }])
  })

  test('is read: its logs, its transactions, what is due, and its names', async () => {
    const { log, images, directory } = await world.store()
    const handle = await log.claim(0)
    expect(handle.claimed).toEqual({
      epoch: 2,
      head: 2,
      checkpointed: 1,
      clock: { wallMs: NOON_MS, logMs: 1 },
    })
    expect(await sequencesOf(handle, 1)).toEqual([2])
    expect(await sequencesOf(handle, 0)).toEqual([1, 2])
    const keys = stored.transactions.map(({ view }) => `${view.namespace}/${view.id}` as TransactionKey)
    const rows = await images.load(keys)
    const views = rows.map((row) => JSON.parse(JSON.stringify(viewOf(decodeTransactionImage(row!.bytes), 0))))
    expect(views).toEqual(stored.transactions.map(({ view }) => view))
    expect(rows.map((row) => row!.finishedAtMs > 0)).toEqual(stored.transactions.map(isEnd))
    const due = await images.due(0, 'log', NOON_MS, undefined, 100)
    expect(due.map(({ key }) => key)).toEqual(
      keys.filter((_, i) => i % 2 === 0 && !isEnd(stored.transactions[i]!)),
    )
    expect((await directory.get('checker/orders'))?.version).toBe(1)
  })

  test('goes on: appends, checkpoints, and ends what lives', async () => {
    const { log, images } = await world.store({ now: () => NOON_MS })
    const handle = await log.claim(0)
    await appendAll(handle, 3, 3)
    const query = { namespace: 'default', after: '', limit: 100 }
    const living = await images.query({ ...query, statuses: [] })
    const rows = living.map(({ key }) => rowOf(key, 3, { finishedAtMs: NOON_MS }))
    expect(await images.checkpoint(handle, checkpointOf(3, ...rows))).toBe('done')
    await handle.trim(3)
    expect(await images.query({ ...query, statuses: [] })).toEqual([])
    const finished = await images.query({
      ...query,
      statuses: ['delivered', 'rolledBack', 'completed', 'compensated'],
    })
    expect(finished).toHaveLength(stored.transactions.length)
  })
})
