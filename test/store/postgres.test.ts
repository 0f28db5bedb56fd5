import { type AddressInfo, connect as connectTo, createServer } from 'node:net'
import { inspect } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { PostgresUrl } from '../../src/core/postgres-url.ts'
import { systemRuntime } from '../../src/runtime.ts'
import { migratePostgresStore, type PostgresStoreOptions } from '../../src/store/postgres/store.ts'
import { service } from '../services/require.ts'
import { storeContract } from './contract.ts'
import { appendAll } from './contract-bench.ts'
import { checkpointOf, key, NOON_MS, rowOf } from './contract-fixtures.ts'
import { PostgresWorld } from './postgres-world.ts'

const postgres = await service('postgres')
const world = new PostgresWorld(postgres)

storeContract('postgres', async () => {
  await world.begin()
  let nowMs = NOON_MS
  return {
    open: () => world.store({ now: () => nowMs }),
    setNow: (wallMs) => {
      nowMs = wallMs
    },
    dispose: () => world.end(),
  }
})

/** A URL with something else in one place. */
function changed(change: (url: URL) => void): string {
  const url = new URL(world.url)
  change(url)
  return url.href
}

describe('postgres: opening', () => {
  beforeEach(() => world.begin())
  afterEach(() => world.end())

  const refusal = (options: Partial<PostgresStoreOptions>): Promise<Error & { code: string }> =>
    world.store(options).then(
      () => expect.unreachable('it was opened'),
      (error) => error,
    )

  test('many at once make one store, with the logs that it was made with', async () => {
    const stores = await Promise.all(Array.from({ length: 6 }, (_, i) => world.store({ logs: 3 + i })))
    expect(new Set(stores.map(({ log }) => log.storeId)).size).toBe(1)
    expect(new Set(stores.map(({ log }) => log.logs)).size).toBe(1)
    const { rows } = await (await world.client()).query('select log from logs order by log')
    expect(rows.map(({ log }) => log)).toEqual(Array.from({ length: stores[0]!.log.logs }, (_, i) => i))
    const later = await world.store({ logs: 500 })
    expect(later.log.logs).toBe(stores[0]!.log.logs)
    await expect(later.log.claim(later.log.logs)).rejects.toThrow(/log \d of \d/)
  })

  test('schemas of one database are stores of their own', async () => {
    const [one, other] = [await world.store(), await world.store({ schema: 'other', logs: 1 })]
    expect(one.log.storeId).not.toBe(other.log.storeId)
    await appendAll(await one.log.claim(0), 1, 3)
    expect((await other.log.claim(0)).claimed.head).toBe(0)
  })

  test('what whoever configured it got wrong is invalidArgument, and says what to change', async () => {
    const wrong: [Partial<PostgresStoreOptions>, RegExp][] = [
      [{ url: changed((url) => (url.password = 'wrong')) }, /password.*correct the password/],
      [{ url: changed((url) => (url.pathname = '/nowhere')) }, /nowhere.*create the database/],
      [{ url: 'mysql://host/db' }, /is not postgres:/],
      [{ url: 'postgres://user:secret@one,two/db' }, /with one host/],
      [{ schema: 'Robert; drop' }, /schema "Robert; drop" is not/],
      [{ schema: 'pg_store' }, /schema "pg_store" is not/],
      [{ logs: 0 }, /logs 0 is not from 1 to 1024/],
      [{ logs: 1.5 }, /logs 1.5 is not a whole number/],
      [{ leaseMs: 1 }, /leaseMs 1 is not from 500/],
      [{ retentionMs: 1 }, /retentionMs 1 is not from 86400000/],
    ]
    for (const [options, message] of wrong) {
      const error = await refusal(options)
      expect(error).toMatchObject({ code: 'invalidArgument', message: expect.stringMatching(message) })
    }
  })

  test('a server that is not there is storeUnavailable', async () => {
    const error = await refusal({ url: changed((url) => (url.port = '1')) })
    expect(error).toMatchObject({ code: 'storeUnavailable', details: { cause: 'ECONNREFUSED' } })
  })

  test('no error has the password in it', async () => {
    const { password } = new URL(world.url)
    const url = new PostgresUrl(world.url)
    for (const text of [String(url), JSON.stringify({ url }), inspect({ url }), `${url}`])
      expect(text).not.toContain(password)
    for (const at of [1, 70_000]) {
      const broken = world.url.replace(/:\d+\//, `:${at}/`)
      expect(inspect(await refusal({ url: broken }), { depth: 9 })).not.toContain(password)
    }
  })

  test("a schema that is somebody else's is left alone", async () => {
    const client = await world.client()
    await client.query('create schema escrow; create table escrow.orders ()')
    const other = { code: 'invalidArgument', message: expect.stringMatching(/1 tables that aren't Escrow's/) }
    expect(await refusal({})).toMatchObject(other)
    await client.query('create table escrow.store (id int)')
    expect(await refusal({})).toMatchObject({ message: expect.stringMatching(/'store' that isn't Escrow's/) })
    const { rows } = await client.query(
      "select count(*)::int from pg_class where relnamespace = 'escrow'::regnamespace",
    )
    expect(rows).toEqual([{ count: 2 }])
  })

  test('a newer format is refused, and an older one where nothing may be migrated', async () => {
    expect(await refusal({ migrate: false })).toMatchObject({
      code: 'storeFormat',
      message: expect.stringMatching(/there is no store.*run 'escrow migrate'/),
    })
    expect(
      await migratePostgresStore({
        url: world.url,
        random: systemRuntime.randomBytes,
        setTimer: systemRuntime.setTimer,
      }),
    ).toEqual({ format: 1 })
    await world.store({ migrate: false })
    const client = await world.client()
    await client.query('update store set format = 2')
    for (const migrate of [true, false])
      expect(await refusal({ migrate })).toMatchObject({
        code: 'storeFormat',
        message: expect.stringMatching(/has format 2, this version knows formats up to 1/),
      })
  })

  test('a database without UTF-8, and a server without fsync, are refused', async (context) => {
    const client = await world.client()
    const name = `ascii_${process.pid}`
    await client.query(`create database ${name} encoding 'SQL_ASCII' locale 'C' template template0`)
    expect(await refusal({ url: changed((url) => (url.pathname = name)) })).toMatchObject({
      code: 'invalidArgument',
      message: expect.stringMatching(/in SQL_ASCII/),
    })
    const unsafe = await service('postgres', { settings: { fsync: 'off' } }, context)
    expect(await refusal({ url: unsafe.url })).toMatchObject({
      code: 'invalidArgument',
      message: expect.stringMatching(/fsync = off/),
    })
  })

  test('a pooler is told by the process that it pretends to be, and refused', async () => {
    const { hostname, port } = new URL(world.url)
    const pooler = createServer((client) => {
      const server = connectTo(Number(port), hostname)
      client.pipe(server)
      server.on('data', (bytes) => {
        // BackendKeyData: a pooler gives its clients keys of its own.
        const at = bytes.indexOf(Buffer.from([0x4b, 0, 0, 0, 12]))
        if (at >= 0) bytes.writeInt32BE(7, at + 5)
        client.write(bytes)
      })
      server.on('close', () => client.destroy())
      client.on('close', () => server.destroy())
      for (const socket of [client, server]) socket.on('error', () => {})
    })
    await new Promise<void>((resolve) => pooler.listen(0, '127.0.0.1', resolve))
    const url = changed((each) => (each.port = String((pooler.address() as AddressInfo).port)))
    expect(await refusal({ url })).toMatchObject({
      code: 'invalidArgument',
      message: expect.stringMatching(/behind a pooler.*URL of the server itself/),
    })
    await new Promise((resolve) => pooler.close(resolve))
  })

  test('what the store rests on is set on every session, whatever the defaults are', async () => {
    const client = await world.client()
    const { database } = client
    for (const setting of [
      'synchronous_commit = off',
      'default_transaction_read_only = on',
      "default_transaction_isolation = 'serializable'",
      "bytea_output = 'escape'",
      'extra_float_digits = -5',
    ])
      await client.query(`alter database ${database} set ${setting}`)
    const store = await world.store()
    const handle = await store.log.claim(0)
    await appendAll(handle, 1, 1)
    await store.images.checkpoint(handle, checkpointOf(1, rowOf('default/a', 1, { dueLogMs: 1 / 3 })))
    expect(await store.images.due(0, 'log', 1, undefined, 1)).toEqual([{ key: 'default/a', dueMs: 1 / 3 }])
    expect((await store.images.load([key('default/a')]))[0]?.bytes).toEqual(
      Buffer.from('image of default/a at 1'),
    )
  })
})

describe('postgres: what finished', () => {
  beforeEach(() => world.begin())
  afterEach(() => world.end())

  test('is appended: autovacuum leaves the partition of a day alone, however many rows come', async () => {
    const store = await world.store()
    const handle = await store.log.claim(0)
    await appendAll(handle, 1, 1)
    await store.images.checkpoint(handle, checkpointOf(1, rowOf('default/a', 1, { finishedAtMs: NOON_MS })))
    const { rows } = await (await world.client()).query(
      `select c.reloptions as options from pg_class c join pg_inherits i on i.inhrelid = c.oid
        where i.inhparent = 'finished'::regclass`,
    )
    expect(new Set(rows.map(({ options }) => String(options)))).toEqual(
      new Set(['autovacuum_vacuum_insert_threshold=-1']),
    )
  })
})
