import { expect, test } from 'vitest'
import { recover } from '../../src/engine/recovery.ts'
import type { LogHandle, Segment } from '../../src/store/log.ts'
import { openMemoryStore, type StoreCall } from '../../src/store/memory.ts'
import { type Answer, failing, messageTo, openWorld, prepareOf, type World } from './world.ts'

interface Started {
  readonly id: string
  readonly prepared: Answer<'prepare'>
  readonly settled: Answer<'commit' | 'rollback'> | undefined
  readonly intent: 'commit' | 'rollback' | 'nothing'
}

/** A little of everything, some of it repeated, until the world stops or `ms` have passed. */
async function work(world: World, ms: number, isStopped: () => boolean): Promise<Started[]> {
  const started: Started[] = []
  const { random } = world.clock
  const until = world.clock.now() + ms
  while (world.clock.now() < until && !isStopped()) {
    const id = `{${Math.floor(random() * 5)}}-${started.length}`
    const orderingKey = random() < 0.3 ? id.slice(1, 2) : ''
    const checkBack = { delayMs: 2_000, delayMsMax: 4_000 }
    const request = prepareOf({
      id,
      orderingKey,
      checkBack,
      messages: [messageTo('shop/receive', id), messageTo('memory:topic', id)],
    })
    const prepared = world.ask('prepare', request)
    const choice = random()
    const intent = choice < 0.6 ? 'commit' : choice < 0.8 ? 'rollback' : 'nothing'
    await world.clock.advance(Math.floor(random() * 60))
    if (isStopped()) {
      started.push({ id, prepared, settled: undefined, intent: 'nothing' })
      break
    }
    const settled = intent === 'nothing' ? undefined : world.ask(intent, { id })
    started.push({ id, prepared, settled, intent })
  }
  return started
}

/** What may be asked of the world after it came back. */
async function judge(world: World, started: readonly Started[]): Promise<void> {
  world.participants.deliver = () => ({ outcome: 'delivered', error: '' })
  await world.clock.advance(20_000)
  for (const { id, prepared, settled, intent } of started) {
    const code = await world.codeOf('get', { id })
    if (prepared.response !== undefined) expect(code, `${id} was acknowledged`).toBe('none')
    if (code === 'notFound') {
      expect(world.participants.bodies('shop/receive'), id).not.toContain(id)
      continue
    }
    const status = await world.status(id)
    const seen = [
      ...world.participants.bodies('shop/receive'),
      ...world.participants.bodies('memory:topic'),
    ].filter((body) => body === id)
    if (settled?.response !== undefined) {
      expect(status, id).toBe(intent === 'commit' ? 'delivered' : 'rolledBack')
    }
    if (status === 'delivered') expect(seen.length, id).toBeGreaterThanOrEqual(2)
    else expect(seen, `${id} is ${status}`).toEqual([])
    if (status === 'prepared') {
      const asked = world.participants.checkBacks.filter(({ request }) => request.transactionId === id)
      expect(asked.length, `${id} is asked about`).toBeGreaterThan(0)
    }
  }
}

/** Stops the world at the `nth` call of a method, and looks at what the next coordinator makes of it. */
async function stopAt(
  method: StoreCall['method'],
  moment: StoreCall['moment'],
  nth: number,
): Promise<boolean> {
  const world = await openWorld({ seed: nth })
  world.participants.deliver = () =>
    world.clock.random() < 0.3 ? { outcome: 'failed', error: '' } : { outcome: 'delivered', error: '' }
  let calls = 0
  let isStopped = false
  world.hook = (call) => {
    if (call.method !== method || call.moment !== moment || ++calls !== nth) return
    isStopped = true
    world.coordinator.kill()
  }
  const started = await work(world, 4_000, () => isStopped)
  world.hook = () => {}
  await world.restart(Math.floor(world.clock.random() * 10_000))
  await judge(world, started)
  return isStopped
}

const points = [
  ['append', 'before', 60],
  ['append', 'after', 60],
  ['checkpoint', 'before', 4],
  ['checkpoint', 'after', 4],
  ['trim', 'before', 4],
  ['trim', 'after', 4],
  ['load', 'after', 20],
  ['verify', 'after', 10],
] as const

test.each(points)(
  'whatever the moment of the crash: %s, %s it took effect',
  async (method, moment, count) => {
    let stops = 0
    for (let nth = 1; nth <= count; nth++) if (await stopAt(method, moment, nth)) stops += 1
    expect(stops).toBe(count)
  },
)

test('a crash while it recovers is one like any other', async () => {
  for (const method of ['claim', 'read', 'load', 'due', 'checkpoint'] as const) {
    const world = await openWorld({ seed: 5 })
    const started = await work(world, 2_000, () => false)
    world.coordinator.kill()
    const dying = world.assemble()
    world.hook = (call) => {
      if (call.method === method && call.moment === 'after') dying.kill()
    }
    void dying.engine.start()
    await world.clock.advance(1_000)
    world.hook = () => {}
    await world.start()
    await judge(world, started)
  }
})

test('a store that ends its log early, or tells it with a gap, is not believed', async () => {
  const world = await openWorld({ seed: 3 })
  world.hook = failing('checkpoint', 'before')
  for (let at = 0; at < 5; at++) await world.prepare()
  world.coordinator.kill()
  const store = openMemoryStore(world.disk)
  const handle = await store.log.claim(0)
  const segments: Segment[] = []
  for await (const segment of handle.read(handle.claimed.checkpointed)) segments.push(segment)
  const telling = (told: readonly Segment[]): LogHandle => ({
    ...handle,
    log: 0,
    claimed: handle.claimed,
    read: async function* () {
      yield* told
    },
  })
  expect((await recover(store, telling(segments))).entries.size).toBe(5)
  for (const told of [
    segments.slice(0, -1),
    segments.slice(1),
    segments.toSpliced(2, 1),
    [...segments, ...segments],
  ]) {
    await expect(recover(store, telling(told))).rejects.toMatchObject({ code: 'storeCorrupt' })
  }
})

test('a hundred crashes in a row lose nothing', async () => {
  const world = await openWorld({ seed: 9, logs: 2 })
  const started: Started[] = []
  for (let at = 0; at < 100; at++) {
    const ms = 20 + world.clock.random() * 200
    for (const each of await work(world, ms, () => false)) started.push({ ...each, id: each.id })
    await world.restart(world.clock.random() < 0.3 ? 1_000 : 0)
  }
  await judge(world, started)
})

test('what finished just before a crash stands among the finished rows after the next checkpoint, without its bodies', async () => {
  const world = await openWorld()
  for (const id of ['a', 'b']) await world.call('prepare', prepareOf({ id }))
  await world.call('commit', { id: 'a' })
  await world.call('rollback', { id: 'b' })
  await world.clock.until(() => world.participants.bodies('shop/receive').length > 0)
  await world.clock.advance(30)
  expect([...world.disk.finished.values()], 'nothing is checkpointed yet').toEqual([])
  await world.restart()
  await world.clock.advance(3_000)
  expect([...world.disk.live.keys()]).toEqual([])
  const rows = [...world.disk.finished.values()].flatMap((day) => [...day.keys()])
  expect(rows.toSorted()).toEqual(['default/a', 'default/b'])
  expect([await world.status('a'), await world.status('b')]).toEqual(['delivered', 'rolledBack'])
})
