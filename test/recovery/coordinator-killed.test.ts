/** The coordinator is killed at random moments under load, and its connections are broken: the databases balance. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { connect } from '../../src/index.ts'
import { CoordinatorProcess } from '../harness/coordinator-process.ts'
import { seeded } from '../harness/seed.ts'
import { until } from '../harness/until.ts'
import { startFaultProxy } from '../services/fault-proxy.ts'
import { service } from '../services/require.ts'
import { balances, openShop } from './shop.ts'

const postgres = await service('postgres')
const doneMsMax = 240_000
/** After so many the load is left to itself, so that it ends on a machine on which each start takes long. */
const killsMax = 30
const faultsMax = 150

test('killed at random moments of a load of 3,000: each has one outcome, and its effect once', async () => {
  const count = 3_000
  const { random, between } = seeded('coordinator killed')
  const shop = await openShop(postgres, 'killed')
  onTestFinished(() => shop.close())
  await using coordinator = await CoordinatorProcess.start()
  const inventory = shop.run('inventory', coordinator.grpc)
  onTestFinished(() => void inventory.kill())
  await inventory.said(/ready/)
  const desk = shop.run('order-desk', coordinator.grpc, [String(count)])
  onTestFinished(() => void desk.kill())
  await desk.said(/ready/)

  let kills = 0
  let isDone = false
  const done = desk.said(/done/, doneMsMax).finally(() => {
    isDone = true
  })
  while (!isDone && kills < killsMax) {
    // Sometimes before it is up again, so that a recovery is killed too; else a busy machine would never get anywhere.
    if (random() < 0.6) await Promise.race([coordinator.ready(), done])
    // Soon enough that even the fastest machine is killed many times before its load is over.
    await sleep(between(20, 400))
    if (isDone) break
    await coordinator.kill()
    kills += 1
    coordinator.launch()
  }
  await done
  // Once more, with nothing but check-backs and deliveries under way.
  await coordinator.kill()
  await coordinator.start()
  console.log(`${kills + 1} kills`)
  expect(kills).toBeGreaterThanOrEqual(4)
  await balances(shop, coordinator, count)
  expect(desk.output).not.toMatch(/ended as/)
})

test('connections that are cut, reset and black-holed under load: nothing is lost, nothing doubled', async () => {
  const count = 3_000
  const { random, between } = seeded('connections broken')
  const shop = await openShop(postgres, 'broken')
  onTestFinished(() => shop.close())
  await using coordinator = await CoordinatorProcess.start()
  const target = { host: '127.0.0.1', port: coordinator.grpcPort }
  const proxies = await Promise.all([startFaultProxy({ target }), startFaultProxy({ target })])
  onTestFinished(async () => {
    await Promise.all(proxies.map((proxy) => proxy.close()))
  })
  const [toInventory, toDesk] = proxies.map(({ port }) => `127.0.0.1:${port}`) as [string, string]
  const inventory = shop.run('inventory', toInventory)
  onTestFinished(() => void inventory.kill())
  await inventory.said(/ready/)
  const desk = shop.run('order-desk', toDesk, [String(count)])
  onTestFinished(() => void desk.kill())
  await desk.said(/ready/)

  const faults = { cutUp: 0, cutDown: 0, reset: 0, blackhole: 0 }
  let isDone = false
  const done = desk.said(/done/, doneMsMax).finally(() => {
    isDone = true
  })
  while (!isDone && Object.values(faults).reduce((sum, each) => sum + each) < faultsMax) {
    await sleep(between(20, 250))
    const proxy = random() < 0.5 ? proxies[0] : proxies[1]
    const fault = (['cutUp', 'cutDown', 'reset', 'blackhole'] as const)[Math.floor(random() * 4)]
    if (proxy === undefined || fault === undefined) continue
    faults[fault] += 1
    // A request arrives and its answer is lost, or only part of either.
    if (fault === 'cutUp' || fault === 'cutDown') {
      const cut = proxy.cutAfter(Math.floor(between(1, 20_000)), fault === 'cutUp' ? 'up' : 'down')
      await Promise.race([cut, sleep(500)])
      proxy.heal()
    } else if (fault === 'reset') proxy.reset()
    else {
      proxy.blackhole()
      await sleep(between(50, 800))
      // Half of them come back to life with all that was under way, the others never do.
      if (random() < 0.5) proxy.reset()
      proxy.heal()
    }
  }
  await done
  console.log('faults', faults)
  expect(faults.cutUp + faults.cutDown + faults.reset + faults.blackhole).toBeGreaterThanOrEqual(4)
  await balances(shop, coordinator, count)
  expect(desk.output).not.toMatch(/ended as/)
})

test('a connection that is black-holed for good is noticed, and what it left unanswered goes over a new one', async () => {
  await using coordinator = await CoordinatorProcess.start()
  const proxy = await startFaultProxy({ target: { host: '127.0.0.1', port: coordinator.grpcPort } })
  onTestFinished(() => proxy.close())
  const states: string[] = []
  const session = await connect(`127.0.0.1:${proxy.port}`, {
    service: 'shop',
    closeTimeoutMs: 0,
    connectTimeoutMs: 5_000,
    onConnection: ({ state }) => states.push(state),
  })
  onTestFinished(() => session.close())
  await session.registerChecker('orders', () => 'unknown')
  await session.registerHandlers({ take: () => {} })
  proxy.blackhole()
  const messages = [{ destination: 'shop/take' }]
  const prepared = session.prepare({ id: 'lost', checker: 'orders', messages }, { timeoutMs: 60_000 })
  // A ping every 10 s, and 10 s for its answer.
  await until('the silence is noticed', () => states.includes('waiting'))
  // What is held on its way is thrown away, as a cable that is pulled does; the next connection is a good one.
  proxy.reset()
  proxy.heal()
  expect(await prepared).toMatchObject({ id: 'lost', status: 'prepared' })
  await session.commit({ id: 'lost' })
  expect(await session.wait({ id: 'lost' })).toMatchObject({ status: 'delivered' })
})
