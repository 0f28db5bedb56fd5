import { expect, test } from 'vitest'
import { DEFAULT_LIMITS } from '../../src/core/envelope.ts'
import { EscrowError } from '../../src/core/errors.ts'
import { DEFAULT_SAGA_LIMITS } from '../../src/core/saga/decision.ts'
import { DEFAULT_BOUNDS } from '../../src/engine/bounds.ts'
import { ParticipantGates } from '../../src/engine/gates.ts'
import { LogDriver } from '../../src/engine/log-driver.ts'
import { Programs } from '../../src/engine/programs.ts'
import { recover } from '../../src/engine/recovery.ts'
import type { LogHandle } from '../../src/store/log.ts'
import { openMemoryStore } from '../../src/store/memory.ts'
import type { Store } from '../../src/store/store.ts'
import { FakeOutlet } from './fake-outlet.ts'
import { FakeStepOutlet } from './fake-step-outlet.ts'
import { failing, messageTo, openWorld, prepareOf, type World } from './world.ts'

const says = (resolution: 'commit' | 'unknown') => ({ resolution, bodies: [], error: '' })

/** What a log that takes over now has in memory after `ms`. */
async function entriesOfTaker(world: World, ms: number): Promise<number> {
  world.coordinator.kill()
  const { runtime, isKilled, kill } = world.clock.process()
  const store = openMemoryStore(world.disk)
  const handle: LogHandle = await store.log.claim(0)
  const driver = new LogDriver({
    store,
    handle,
    recovered: await recover(store, handle),
    runtime,
    outlet: new FakeOutlet(world.participants, runtime, isKilled),
    stepOutlet: new FakeStepOutlet(world.steps, runtime, isKilled),
    programs: new Programs({ programs: [], compileSlip: () => expect.unreachable(), missing: () => {} }),
    participantGates: new ParticipantGates([], () => runtime.monotonic()),
    sagaLimits: DEFAULT_SAGA_LIMITS,
    bounds: DEFAULT_BOUNDS,
    limits: DEFAULT_LIMITS,
    tooLarge: () => undefined,
    notFound: () => new EscrowError('notFound', 'no such transaction'),
    onStopped: () => {},
    onDegraded: () => {},
  })
  await driver.start()
  await world.clock.advance(ms)
  const { entries } = driver
  kill()
  return entries
}

test('what waits leaves memory after a checkpoint, and comes back when it is due, also across restarts', async () => {
  const world = await openWorld()
  for (const restarts of [0, 1, 3]) {
    const seen = world.participants.checkBacks.length
    const { id } = await world.prepare({ checkBack: { delayMs: 60_000, checksMax: 1 } })
    for (let at = 0; at < restarts; at++) {
      await world.clock.advance(4_000)
      await world.restart()
    }
    await world.clock.advance(58_000 - restarts * 4_000)
    expect(world.participants.checkBacks.length).toBe(seen)
    // Log time stands still from the last heartbeat, up to 5 s before each kill.
    await world.clock.advance(5_000 + restarts * 5_000)
    expect(world.participants.checkBacks.slice(seen).map(({ request }) => request.transactionId)).toEqual([
      id,
    ])
  }
})

test('a waiting transaction costs no memory, nor does one that has ended; one that holds its key back does', async () => {
  const world = await openWorld()
  for (let at = 0; at < 50; at++) await world.prepare({ checkBack: { delayMs: 3_600_000 } })
  for (let at = 0; at < 50; at++) await world.commit()
  for (let at = 0; at < 50; at++) await world.call('rollback', { id: (await world.prepare()).id })
  await world.clock.advance(10)
  world.participants.handlers.delete('shop/receive')
  for (let at = 0; at < 3; at++) await world.commit({ orderingKey: 'k' })
  expect(await entriesOfTaker(world, 2_500)).toBe(3)
  await world.restart()
  world.participants.comes('shop/receive')
  await world.clock.advance(2_500)
  expect(world.participants.deliveries.length).toBe(53)
  expect(await entriesOfTaker(world, 0)).toBe(0)
})

test('what has a retry far ahead leaves memory and comes back', async () => {
  const world = await openWorld()
  world.participants.deliver = () => ({ outcome: 'failed', error: '' })
  const id = await world.commit({ retry: { delayMs: 3_600_000, delayMsMax: 3_600_000, attemptsMax: 2 } })
  await world.clock.advance(3_000)
  expect(await entriesOfTaker(world, 2_500)).toBe(0)
  await world.restart()
  await world.clock.advance(3_600_000)
  expect(world.participants.deliveries.length).toBe(2)
  expect(await world.status(id)).toBe('parked')
})

test('a read brings it in and lets it go again', async () => {
  const world = await openWorld()
  let loads = 0
  const { id } = await world.prepare()
  await world.clock.advance(3_000)
  world.hook = ({ method, moment }) => {
    if (method === 'load' && moment === 'before') loads += 1
  }
  for (let at = 0; at < 3; at++) {
    expect(await world.status(id)).toBe('prepared')
    await world.clock.advance(3_000)
  }
  expect(loads).toBe(3)
})

test('many that are asked for while one load is under way are loaded once', async () => {
  const world = await openWorld()
  const { id } = await world.prepare()
  await world.clock.advance(3_000)
  let loads = 0
  world.hook = async ({ method, moment }) => {
    if (method !== 'load' || moment !== 'before') return
    loads += 1
    await new Promise<void>((resolve) => world.clock.setTimer(resolve, 50))
  }
  const asked = [world.ask('get', { id }), world.ask('commit', { id }), world.ask('rollback', { id })]
  await world.clock.advance(20)
  asked.push(world.ask('get', { id }))
  await world.clock.advance(100)
  expect(loads).toBe(1)
  expect(asked.map(({ error, response }) => error?.code ?? (response as { status: string }).status)).toEqual([
    'prepared',
    'committed',
    'resolutionConflict',
    'committed',
  ])
})

test.each(['due', 'load', 'checkpoint', 'trim'] as const)(
  'while %s fails nothing is forgotten, and afterwards all goes on',
  async (method) => {
    const world = await openWorld()
    let isAway = false
    world.hook = (call) => {
      failing(method, 'before', () => isAway)(call)
      failing(method, 'after', () => isAway)(call)
    }
    world.participants.check = () => says('commit')
    const ids: string[] = []
    for (let at = 0; at < 20; at++) {
      isAway = at % 4 !== 3
      ids.push((await world.prepare({ checkBack: { delayMs: 5_000 } })).id)
      await world.clock.advance(1_000)
    }
    const { engine } = world.coordinator
    isAway = true
    await world.clock.advance(10_000)
    isAway = false
    await world.clock.advance(15_000)
    expect(engine.health()).toEqual({ state: 'ready', reason: '' })
    for (const id of ids) expect(await world.status(id)).toBe('delivered')
    expect(world.participants.deliveries.length).toBe(20)
    await world.clock.advance(6_000)
    expect(world.disk.logs[0]?.segments.size).toBe(0)
    expect(world.disk.live.size).toBe(0)
  },
)

test('a trim that fails leaves no ghost of what left memory: each check-back is asked once', async () => {
  const world = await openWorld()
  world.hook = failing('trim', 'before')
  const { id } = await world.prepare({ checkBack: { delayMs: 10_000, delayMsMax: 10_000, checksMax: 3 } })
  await world.clock.advance(60_000)
  expect(world.participants.checkBacks.map(({ request }) => request.attempt)).toEqual([1, 2, 3])
  expect(await world.status(id)).toBe('parked')
})

test('a checkpoint writes only what is durable', async () => {
  const world = await openWorld()
  const { id } = await world.prepare()
  let isAway = true
  world.hook = failing('append', 'before', () => isAway)
  world.ask('commit', { id })
  await world.clock.advance(5_000)
  world.coordinator.kill()
  isAway = false
  await world.restart()
  expect(await world.status(id)).toBe('prepared')
  await world.clock.advance(1_500)
  expect(await world.status(id)).toBe('prepared')
  expect(world.participants.deliveries).toEqual([])
})

test('a row is new only until a checkpoint may have written it: whatever became of that one, and after a restart', async () => {
  const world = await openWorld()
  const rows: string[] = []
  const openStore = async () => {
    const store = openMemoryStore(world.disk, (call) => world.hook(call))
    const checkpoint: typeof store.images.checkpoint = (handle, given) => {
      for (const { key, isNew } of given.rows) rows.push(`${key.slice('default/'.length)} ${isNew}`)
      return store.images.checkpoint(handle, given)
    }
    return { ...store, images: { ...store.images, checkpoint } }
  }
  await world.restart(0, { openStore })
  const passed = async (): Promise<string[]> => {
    await world.clock.advance(2_500)
    return rows.splice(0)
  }
  const requestOf = (id: string) => prepareOf({ id, checkBack: { delayMs: 3_600_000 } })
  await passed()
  await world.call('prepare', requestOf('a'))
  expect(await passed()).toEqual(['a true'])
  // It has left memory, and comes back from its row.
  await world.call('commit', { id: 'a' })
  expect(new Set(await passed())).toEqual(new Set(['a false']))

  // A checkpoint of which nobody knows whether it wrote anything.
  for (const moment of ['before', 'after'] as const) {
    let isAway = true
    world.hook = failing('checkpoint', moment, () => isAway)
    await world.call('prepare', requestOf(moment))
    await world.clock.until(() => rows.length > 0)
    isAway = false
    const [first, ...later] = await passed()
    expect([first, new Set(later)]).toEqual([`${moment} true`, new Set([`${moment} false`])])
  }

  // One that stands in the log only, as far as this process can know, may have a row by the process before.
  world.hook = failing('checkpoint', 'before')
  await world.call('prepare', requestOf('b'))
  rows.length = 0
  await world.restart(0, { openStore })
  world.hook = () => {}
  expect(new Set(await passed())).toEqual(new Set(['b false']))
})

test('list tells the time that it is true for: what was acknowledged before it is in it', async () => {
  const world = await openWorld()
  const { id } = await world.prepare({ messages: [messageTo('shop/receive', 'x')] })
  const preparedAtMs = world.clock.now()
  let isAway = true
  // The commit is decided and not durable when the checkpoint comes: no row may tell of the transaction yet.
  world.hook = failing('append', 'before', () => isAway)
  const commit = world.ask('commit', { id })
  await world.clock.advance(5_000)
  const early = await world.call('list', {})
  if (early.asOfMs >= preparedAtMs) expect(early.transactions.map((view) => view.id)).toContain(id)
  isAway = false
  await world.clock.advance(5_000)
  expect(commit.response?.status).toBe('committed')
  const late = await world.call('list', { statuses: ['delivered'] })
  expect(late.asOfMs).toBeGreaterThan(preparedAtMs)
  expect(late.transactions.map((view) => view.id)).toEqual([id])
})

test('a log that lost a segment is not run: it says so', async () => {
  const world = await openWorld()
  await world.prepare()
  world.hook = failing('checkpoint', 'before')
  const two = await world.prepare()
  const three = await world.prepare()
  expect(two.id).not.toBe(three.id)
  const [log] = world.disk.logs
  log?.segments.delete(log.row.head - 1)
  world.coordinator.kill()
  const refused = await world.start().catch((error) => EscrowError.from(error))
  expect(refused).toMatchObject({ code: 'storeCorrupt' })
})

test('a part of a checkpoint, and a look at the store, are bounded in bytes as well', async () => {
  const parts: number[] = []
  const loads: number[] = []
  const world = await openWorld()
  const openStore = async (): Promise<Store> => {
    const store = openMemoryStore(world.disk)
    const { checkpoint, load } = store.images
    const bytesOf = (all: readonly ({ readonly bytes: Uint8Array } | undefined)[]): number =>
      all.reduce((sum, each) => sum + (each?.bytes.length ?? 0), 0)
    store.images.checkpoint = (handle, what) => {
      parts.push(bytesOf(what.rows))
      return checkpoint.call(store.images, handle, what)
    }
    store.images.load = async (keys) => {
      const found = await load.call(store.images, keys)
      loads.push(bytesOf(found))
      return found
    }
    return store
  }
  const overrides = { openStore, bounds: { ...DEFAULT_BOUNDS, checkpointIntervalMs: 5_000 } }
  await world.restart(0, overrides)
  const body = 'x'.repeat(1 << 20)
  const messages = [messageTo('shop/receive', body)]
  for (let count = 0; count < 300; count++)
    await world.prepare({ messages, checkBack: { delayMs: 60_000, checksMax: 1 } })
  await world.clock.advance(10_000)
  const bound = 16 << 20
  expect(parts.reduce((sum, bytes) => sum + bytes, 0)).toBeGreaterThanOrEqual(300 * body.length)
  expect(Math.max(...parts)).toBeLessThanOrEqual(bound + 2 * body.length)
  // All are due in the same second: the first look is a guess, and those that follow know better.
  const before = loads.length
  await world.clock.advance(70_000)
  const [first = 0, ...others] = loads.slice(before).filter((bytes) => bytes > 0)
  expect(first).toBeGreaterThan(bound)
  expect(others.length).toBeGreaterThan(5)
  expect(Math.max(...others)).toBeLessThanOrEqual(bound + 2 * body.length)
}, 60_000)
