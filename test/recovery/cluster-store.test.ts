/** The PostgreSQL that nodes share is killed, stands still, is cut off and black-holed, under load: the books balance. */
import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'pg'
import { expect, onTestFinished, test } from 'vitest'
import { seeded } from '../harness/seed.ts'
import { until } from '../harness/until.ts'
import { startFaultProxy } from '../services/fault-proxy.ts'
import type { PostgresService } from '../services/postgres.ts'
import { service } from '../services/require.ts'
import { type Cluster, disturb, LEASE_MS, openCluster, readyNode, sagasBalance } from './cluster.ts'
import { balances } from './shop.ts'

/** The services' own databases. */
const postgres = await service('postgres')
/** The one that the nodes share, which is killed. */
const shared = await service('postgres')
const count = Number(process.env.CLUSTER_COUNT ?? 3_000)

/** The databases of the services on one server, the store on another. */
const apart = (url: string, name: string): string => {
  const to = new URL(url)
  to.pathname = name
  return to.href
}

async function open(name: string, through: (url: string) => string = (url) => url): Promise<Cluster> {
  const storeUrl = await shared.database(`${name}_store`)
  const beside: PostgresService = Object.create(postgres, {
    database: {
      value: async (database: string) =>
        database === `${name}_store` ? storeUrl : await postgres.database(database),
    },
  })
  const cluster = await openCluster(beside, { name, nodes: 2, through })
  onTestFinished(() => cluster.close())
  return cluster
}

async function balance(cluster: Cluster): Promise<void> {
  await until('a node is ready', async () => (await fetch(`${readyNode(cluster).http}/readyz`)).ok, 30_000)
  await balances(cluster.shop, readyNode(cluster), count)
  await sagasBalance(cluster, count)
  for (const { program } of cluster.nodes) expect(program.ending).toBeUndefined()
}

test('killed and started again, and stopped in its tracks: nothing is lost, nothing done twice', async () => {
  const { random, between } = seeded('store killed')
  const cluster = await open('dead_store')
  const times = await disturb(cluster, { count }, async () => {
    await sleep(between(300, 2_500))
    if (random() < 0.6) {
      await shared.kill()
      await sleep(between(0, 2 * LEASE_MS))
      await shared.start()
    } else {
      await shared.pause()
      await sleep(between(100, 2 * LEASE_MS))
      await shared.resume()
    }
  })
  console.log(`${times} times`)
  expect(times).toBeGreaterThanOrEqual(3)
  await balance(cluster)
})

test('connections to it that are cut, reset and black-holed: what is unknown is found out', async () => {
  const { random, between } = seeded('store cut off')
  const proxy = await startFaultProxy({ target: { host: '127.0.0.1', port: shared.port } })
  onTestFinished(() => proxy.close())
  const cluster = await open('cut_store', (url) => proxy.through(url))
  const times = await disturb(cluster, { count }, async () => {
    await sleep(between(100, 1_000))
    const fault = (['cutUp', 'cutDown', 'reset', 'blackhole'] as const)[Math.floor(random() * 4)]
    if (fault === 'reset') proxy.reset()
    else if (fault === 'blackhole') {
      proxy.blackhole()
      await sleep(between(100, 2 * LEASE_MS))
      // Half of them come back to life with all that was under way, the others never do.
      if (random() < 0.5) proxy.reset()
      proxy.heal()
    } else {
      const cut = proxy.cutAfter(Math.floor(between(1, 50_000)), fault === 'cutUp' ? 'up' : 'down')
      await Promise.race([cut, sleep(1_000)])
      proxy.heal()
    }
  })
  console.log(`${times} times`)
  expect(times).toBeGreaterThanOrEqual(5)
  await balance(cluster)
})

/**
 * Where a node is stopped while a statement of it waits on the server: a lock that the test has. What is waited for then goes
 * through, or doesn't, while another node has taken over.
 */
const moments = {
  'an append': 'select 1 from escrow.logs where log = any ($1::int[]) for update',
  'a checkpoint': 'lock table escrow.live in access exclusive mode',
  'a trim': 'select 1 from escrow.segments where log = any ($1::int[]) for update',
} as const

for (const [moment, lock] of Object.entries(moments)) {
  test(`a node that is stopped (SIGSTOP) in the middle of ${moment}, and returns as a zombie, or never`, async () => {
    const name = `in_${moment.split(' ')[1]}`
    const cluster = await open(name)
    const url = apart(await shared.database('postgres'), `${name}_store`)
    const times = await disturb(cluster, { count, timesMax: 4 }, async () => {
      await sleep(300)
      const [node] = cluster.nodes
      const view = await node!.ask('ListNodes', {})
      const mine = view.nodes.find((each: { node: string }) => each.node === node!.grpc)?.logs ?? []
      const logs = mine.map((each: { log?: number }) => each.log ?? 0)
      const client = new Client({ connectionString: url })
      client.on('error', () => {})
      await client.connect()
      await client.query('begin')
      await client.query("set local lock_timeout = '1s'")
      await client.query(lock, lock.includes('$1') ? [logs] : []).catch(() => {})
      // Whatever the node sends now waits behind the lock.
      await sleep(150)
      node!.program.pause()
      await client.end()
      await sleep(LEASE_MS + 1_500)
      node!.program.resume()
    })
    console.log(`${times} times`)
    expect(times).toBeGreaterThanOrEqual(1)
    await balance(cluster)
  })
}
