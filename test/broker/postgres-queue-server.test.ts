/** What a queue in PostgreSQL makes of options, servers, settings and lost answers, and what it deletes. */
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import { afterEach, describe, expect, test } from 'vitest'
import type { Broker, BrokerMessage, PublishOutcome } from '../../src/broker/broker.ts'
import { Connections } from '../../src/broker/postgres-queue/connections.ts'
import { Sweep } from '../../src/broker/postgres-queue/sweep.ts'
import { type PostgresQueueOptions, postgresQueue } from '../../src/broker/postgres-queue.ts'
import type { EscrowError } from '../../src/core/errors.ts'
import { PostgresUrl } from '../../src/core/postgres-url.ts'
import { until } from '../harness/until.ts'
import { startPostgresQueue } from '../services/postgres-queue.ts'
import { service } from '../services/require.ts'

const postgres = await service('postgres-queue')

const open: { close(): unknown }[] = []
let databases = 0

afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each.close()
  postgres.proxy.heal()
})

const newDatabase = async (): Promise<string> => {
  databases += 1
  return postgres.proxy.through(await postgres.server.database(`own-${databases}`))
}

function connect(options: PostgresQueueOptions): Broker {
  const broker = postgresQueue(options)
  open.push(broker)
  return broker
}

async function withTopic(options: Partial<PostgresQueueOptions> = {}) {
  const url = await newDatabase()
  const broker = connect({ url, missingTopics: 'create', pollMs: 50, ...options })
  await register(broker)
  return { url, broker, admin: await client(url) }
}

/** Past the proxy. */
async function client(url: string): Promise<pg.Client> {
  const direct = new URL(url)
  direct.port = String(postgres.server.port)
  const one = new pg.Client({ connectionString: direct.href })
  one.on('error', () => {})
  await one.connect()
  open.push({ close: () => one.end() })
  return one
}

const register = (broker: Broker, topic = 'orders') => broker.register(topic, AbortSignal.timeout(10_000))

const message = (id: string): BrokerMessage => ({
  topic: 'orders',
  id,
  key: 'k',
  body: Buffer.from(id),
  headers: {},
  contentType: 'text/plain',
})

const publish = async (broker: Broker, ...ids: string[]) =>
  (await broker.publish(ids.map(message), AbortSignal.timeout(10_000))).map(({ outcome }) => outcome)

async function rejected(promise: Promise<unknown>): Promise<EscrowError> {
  return await promise.then(
    () => Promise.reject(new Error('it was not rejected')),
    (error: EscrowError) => error,
  )
}

describe('options', () => {
  const url = 'postgres://shop:secret@127.0.0.1:1/shop'

  test.each([
    [{ uri: url }, 'uri'],
    [{}, 'url'],
    [{ url: 7 }, 'url'],
    [{ url, schema: 'Queue' }, 'schema'],
    [{ url, schema: 'pg_queue' }, 'schema'],
    [{ url, leaseMs: 999 }, 'leaseMs'],
    [{ url, leaseMs: 1_000.5 }, 'leaseMs'],
    [{ url, pollMs: '50' }, 'pollMs'],
    [{ url, connectionsMax: 1 }, 'connectionsMax'],
    [{ url, deduplicationMs: 1 }, 'deduplicationMs'],
    [{ url, retentionMs: 120_000, deduplicationMs: 180_000 }, 'retentionMs'],
    [{ url, durability: 'some' }, 'durability'],
    [{ url, missingTopics: true }, 'missingTopics'],
    [{ url, migrate: 'yes' }, 'migrate'],
  ])('%j is refused by name', (options, name) => {
    const make = () => postgresQueue(options as unknown as PostgresQueueOptions)
    expect(make).toThrow(
      expect.objectContaining({
        code: 'invalidArgument',
        message: expect.stringContaining(name),
        details: { option: name },
      }),
    )
    expect(make).not.toThrow(/secret/)
  })

  test('a URL that is none is refused without its text', () => {
    for (const wrong of ['https://shop:secret@host/shop', 'postgres://shop:secret@a,b/shop', 'secret']) {
      expect(() => postgresQueue({ url: wrong })).toThrow(
        expect.objectContaining({ code: 'invalidArgument' }),
      )
      expect(() => postgresQueue({ url: wrong })).not.toThrow(/secret/)
    }
  })
})

describe('what it says of a server', () => {
  test('a database that is not there, a role that may not create, a host that does not answer: what to do, and no password', async () => {
    const url = new URL(await newDatabase())
    const admin = await client(url.href)
    await admin.query("create role guest login password 'secret'")
    const guest = new URL(url)
    guest.username = 'guest'
    guest.password = 'secret'
    const nowhere = new URL(url)
    nowhere.pathname = '/nowhere'
    const away = new URL('postgres://guest:secret@127.0.0.1:1/shop')
    for (const [where, code, remedy] of [
      [guest, 'brokerRefused', /grant the role/],
      [nowhere, 'brokerRefused', /create the database/],
      [away, 'brokerUnavailable', /ECONNREFUSED/],
    ] as const) {
      const broker = connect({ url: where.href })
      const error = await rejected(register(broker))
      expect(error).toMatchObject({ code, message: expect.stringMatching(remedy) })
      expect(error.message).not.toContain(where.password)
      expect(await publish(broker, 'a')).toEqual(['unreachable'])
      expect(await rejected(broker.lag('orders', 'g'))).toMatchObject({ code })
    }
  })

  test("a schema that is somebody else's, or of a newer version, is left alone; without migrate nothing is made", async () => {
    const url = await newDatabase()
    const admin = await client(url)
    expect(await rejected(register(connect({ url, migrate: false })))).toMatchObject({
      code: 'brokerRefused',
    })
    await admin.query('create schema theirs; create table theirs.orders (id int)')
    const theirs = await rejected(register(connect({ url, schema: 'theirs' })))
    expect(theirs).toMatchObject({ code: 'brokerRefused', message: expect.stringContaining('theirs') })
    await register(connect({ url, missingTopics: 'create' }))
    await admin.query('update escrow_queue.queue set format = 99')
    const newer = await rejected(register(connect({ url })))
    expect(newer).toMatchObject({ code: 'brokerRefused', message: expect.stringContaining('99') })
  })

  test('its tables are made once by many that come at once', async () => {
    const url = await newDatabase()
    const brokers = Array.from({ length: 8 }, () => connect({ url, missingTopics: 'create' }))
    await Promise.all(brokers.map((broker) => register(broker)))
    expect(
      new Set((await Promise.all(brokers.map((broker, at) => publish(broker, `m${at}`)))).flat()),
    ).toEqual(new Set(['published']))
  })

  test('tables that were dropped are made again', async () => {
    const { broker, admin } = await withTopic()
    expect(await publish(broker, 'before')).toEqual(['published'])
    await admin.query('drop schema escrow_queue cascade')
    await until('it publishes again', async () => (await publish(broker, 'after'))[0] === 'published')
  })

  test('a standby is refused, and taken once it is the primary', async () => {
    const own = await startPostgresQueue()
    open.push({ close: () => own.stop() })
    const before = connect({ url: own.url, missingTopics: 'create' })
    await register(before)
    // A server that waits for a primary's log is a standby, if one without a primary.
    const signal = join(own.server.dataDir, 'standby.signal')
    await own.kill()
    writeFileSync(signal, '')
    await own.start()
    const broker = connect({ url: own.url })
    const error = await rejected(register(broker))
    expect(error).toMatchObject({
      code: 'brokerUnavailable',
      message: expect.stringContaining('name the primary'),
    })
    expect(await publish(broker, 'a')).toEqual(['unreachable'])
    await own.kill()
    rmSync(signal)
    await own.start()
    await register(broker)
    expect(await publish(broker, 'a')).toEqual(['published'])
  })
})

describe('durability', () => {
  test('each setting by which it may lose what it confirmed is told, and refused on request', async () => {
    const settings = { fsync: 'off', full_page_writes: 'off', synchronous_commit: 'off' }
    const own = await startPostgresQueue({ settings })
    open.push({ close: () => own.stop() })
    const broker = connect({ url: own.url, missingTopics: 'create' })
    const { shortfalls } = await register(broker)
    for (const name of [...Object.keys(settings), 'synchronous_standby_names'])
      expect(shortfalls.filter((each) => each.startsWith(`${name} is `))).toHaveLength(1)
    const error = await rejected(register(connect({ url: own.url, durability: 'replicated' })))
    expect(error).toMatchObject({ code: 'notDurable', message: expect.stringContaining('fsync') })
  })

  test('with a synchronous standby it is replicated, and what no standby confirms is not published', async () => {
    const { url, broker, admin } = await withTopic({ leaseMs: 1_000 })
    const reload = async (names: string) => {
      await admin.query(`alter system set synchronous_standby_names = '${names}'`)
      await admin.query('select pg_reload_conf()')
      const value = async () => (await admin.query('show synchronous_standby_names')).rows[0]
      await until('it is reloaded', async () => (await value()).synchronous_standby_names === names)
    }
    const ids = ['cancelled', 'more']
    await reload('somewhere')
    try {
      const strict = connect({ url, durability: 'replicated' })
      expect((await register(strict)).shortfalls).toEqual([])
      // Who commits learns of the new setting a little after who asks for it.
      const alone: string[] = []
      await until('a commit waits for the standby', async () => {
        alone.push(`alone-${alone.length}`)
        const [outcome] = await strict.publish([message(alone.at(-1) as string)], AbortSignal.timeout(1_000))
        return outcome?.outcome === 'failed'
      })
      ids.push(...alone)
      let cancelled: readonly PublishOutcome[] | undefined
      void strict.publish([message('cancelled')], AbortSignal.timeout(20_000)).then((outcomes) => {
        cancelled = outcomes
      })
      await until('it waits, and is cancelled', async () => {
        await admin.query(
          "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep' and query like '%insert into%'",
        )
        return cancelled
      })
      expect(cancelled).toMatchObject([
        { outcome: 'failed', error: expect.stringContaining('synchronous replication') },
      ])
    } finally {
      await reload('')
    }
    expect(new Set(await publish(broker, ...ids))).toEqual(new Set(['published']))
    const { rows } = await admin.query('select id from escrow_queue.messages')
    expect(rows.map(({ id }) => id).sort()).toEqual(ids.sort())
  })
})

describe('duplicates', () => {
  test('a message that is sent again after its answer was lost is there once, and stays so once it was read', async () => {
    const { broker, admin } = await withTopic()
    await publish(broker, 'first')
    await until('an answer is lost', async () => {
      // A connection that is open already, and waits for nothing.
      await publish(broker, 'first')
      await register(broker)
      const cut = postgres.proxy.cutAfter(1, 'down')
      const [outcome] = await publish(broker, 'again')
      await cut
      return outcome === 'failed'
    })
    await until('it is published', async () =>
      (await publish(broker, 'again', 'again', 'first')).every((outcome) => outcome === 'published'),
    )
    const got: string[] = []
    await broker.subscribe({ topic: 'orders', group: 'g' }, async ({ id }) => {
      got.push(id)
    })
    await until('it is read', async () => got.length >= 2 && (await broker.lag('orders', 'g')) === 0)
    expect(await publish(broker, 'again', 'last')).toEqual(['published', 'published'])
    await until('the last is read', () => got.includes('last'))
    expect(got).toEqual(['first', 'again', 'last'])
    expect((await admin.query('select count(*)::int as n from escrow_queue.messages')).rows).toEqual([
      { n: 3 },
    ])
  })

  test('an administrator who ends the connections breaks nothing', async () => {
    const { broker, admin } = await withTopic()
    const got: string[] = []
    await broker.subscribe({ topic: 'orders', group: 'g' }, async ({ id }) => {
      got.push(id)
    })
    for (let turn = 0; turn < 20; turn++) {
      await admin.query(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'escrow queue' and datname = current_database()",
      )
      await until('it is published', async () => (await publish(broker, `m${turn}`))[0] === 'published')
    }
    await until('all are read', () => new Set(got).size === 20)
  })
})

describe('sweeping', () => {
  test('what all groups have acknowledged goes once ids need not be remembered, all else with the retention', async () => {
    const { url, broker, admin } = await withTopic()
    const connections = new Connections({
      url: new PostgresUrl(url),
      connectionsMax: 2,
      prepare: async () => {},
    })
    open.push(connections)
    const sweep = new Sweep({
      connections,
      schema: 'escrow_queue',
      deduplicationMs: 60_000,
      retentionMs: 600_000,
    })
    open.push({ close: () => sweep.stop() })
    const [row] = (await admin.query('select topic from escrow_queue.topics')).rows
    sweep.add(row.topic)
    const left = async () => {
      await sweep.sweep()
      return (await admin.query('select id from escrow_queue.messages order by position')).rows.map(
        ({ id }) => id,
      )
    }
    const age = (id: string, ms: number) =>
      admin.query(
        `update escrow_queue.messages set created_at = now() - $2 * interval '1 ms' where id = $1`,
        [id, ms],
      )
    const read = async (group: string, reject: string) => {
      const subscription = await broker.subscribe({ topic: 'orders', group }, async ({ id }) => {
        if (id === reject) throw new Error('not now')
      })
      await until('it is read', async () => (await broker.lag('orders', group)) <= (reject === '' ? 0 : 1))
      await subscription.close()
    }
    await broker.publish(
      ['young', 'old', 'rejected', 'ancient'].map((id) => ({ ...message(id), key: id })),
      AbortSignal.timeout(5_000),
    )
    for (const id of ['old', 'rejected']) await age(id, 120_000)
    await age('ancient', 700_000)
    expect(await left()).toEqual(['young', 'old', 'rejected'])
    await read('one', '')
    await read('two', 'rejected')
    expect(await left()).toEqual(['young', 'rejected'])
    await age('rejected', 700_000)
    expect(await left()).toEqual(['young'])
    // The row is gone that is still to be read: that is no obstacle.
    await read('two', '')
    expect(await broker.lag('orders', 'two')).toBe(0)
    await read('late', '')
    await age('young', 120_000)
    expect(await left()).toEqual([])
    sweep.stop()
  })
})
