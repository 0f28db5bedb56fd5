/** Nodes that share a PostgreSQL are killed, stopped past their leases, and cut off from it, under load: the books balance. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { seeded } from '../harness/seed.ts'
import { service } from '../services/require.ts'
import { disturb, LEASE_MS, openCluster, readyNode, sagasBalance } from './cluster.ts'
import { balances } from './shop.ts'

const postgres = await service('postgres')
/** Of each kind; `CLUSTER_COUNT` asks for more. */
const count = Number(process.env.CLUSTER_COUNT ?? 4_000)

test(`killed at random during ${count} messages and as many sagas: each has one outcome, each effect once`, async () => {
  const { random, between } = seeded('cluster killed')
  const cluster = await openCluster(postgres, { name: 'killed_nodes' })
  onTestFinished(() => cluster.close())
  const kills = await disturb(cluster, { count }, async () => {
    await sleep(between(200, 3_000))
    const node = cluster.nodes[Math.floor(random() * cluster.nodes.length)]!
    await node.kill()
    // Often it is back before its lease is over; otherwise the others take over what it had.
    if (random() < 0.5) await sleep(between(0, 2 * LEASE_MS))
    node.launch()
    if (random() < 0.7) await node.ready()
  })
  for (const node of cluster.nodes) if (node.program.ending === undefined) await node.ready()
  console.log(`${kills} kills`)
  expect(kills).toBeGreaterThanOrEqual(3)
  await balances(cluster.shop, readyNode(cluster), count)
  await sagasBalance(cluster, count)
})

test('stopped past their leases (SIGSTOP), and going on as zombies: nothing is done twice', async () => {
  const { random, between } = seeded('cluster stopped')
  const cluster = await openCluster(postgres, { name: 'stopped_nodes' })
  onTestFinished(() => cluster.close())
  const stops = await disturb(cluster, { count }, async () => {
    await sleep(between(200, 2_000))
    const { program } = cluster.nodes[Math.floor(random() * cluster.nodes.length)]!
    program.pause()
    await sleep(LEASE_MS + between(500, 3_000))
    program.resume()
  })
  console.log(`${stops} stops`)
  expect(stops).toBeGreaterThanOrEqual(3)
  await balances(cluster.shop, readyNode(cluster), count)
  await sagasBalance(cluster, count)
})
