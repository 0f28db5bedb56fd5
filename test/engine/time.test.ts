import { expect, test } from 'vitest'
import { EscrowError } from '../../src/core/errors.ts'
import { LogTime } from '../../src/engine/moments.ts'
import { FakeRuntime } from './fake-runtime.ts'
import { gate, messageTo, openWorld, prepareOf } from './world.ts'

const HOUR_MS = 3_600_000

test('an outage makes no check-back late: its delay, its pauses and unresolvedMsMax count log time', async () => {
  const world = await openWorld()
  world.participants.checkers.clear()
  const checkBack = { delayMs: 30_000, delayMsMax: 60_000, unresolvedMsMax: HOUR_MS }
  const { id } = await world.prepare({ checkBack })
  await world.clock.advance(10_000)
  await world.restart(2 * HOUR_MS)
  world.participants.checkerComes('orders')
  await world.clock.advance(15_000)
  expect(world.participants.checkBacks.length).toBe(0)
  await world.clock.advance(15_000)
  expect(world.participants.checkBacks.length).toBe(1)
  expect(await world.status(id)).toBe('prepared')
})

test('an outage of two hours uses up no budget of a delivery, which is tried at once', async () => {
  const world = await openWorld()
  world.participants.deliver = () => ({ outcome: 'failed', error: '' })
  const id = await world.commit({ retry: { delayMs: 10_000, delayMsMax: 10_000, attemptsMax: 3 } })
  await world.clock.advance(100)
  world.participants.deliver = () => ({ outcome: 'delivered', error: '' })
  await world.restart(2 * HOUR_MS)
  await world.clock.advance(16_000)
  expect((await world.call('get', { id })).deliveries[0]).toMatchObject({ status: 'delivered', attempts: 1 })
})

test('an attempt that was under way when the coordinator died is made again, uncounted', async () => {
  const world = await openWorld()
  world.participants.deliver = () => 'silence'
  const id = await world.commit()
  await world.clock.advance(1_000)
  world.participants.deliver = () => ({ outcome: 'delivered', error: '' })
  await world.restart()
  await world.clock.advance(1_000)
  expect(world.participants.deliveries.map(({ request }) => request.attempt)).toEqual([1, 1])
  expect(await world.status(id)).toBe('delivered')
})

test('a wall clock that is set back stops nothing, and tells nobody that his deadline has passed', async () => {
  const world = await openWorld()
  const checkBack = { delayMs: 10_000, checksMax: 1 }
  const { id } = await world.prepare({ checkBack })
  const preparedAtMs = (await world.call('get', { id })).preparedAtMs
  await world.clock.advance(1_000)
  world.clock.wallMs -= HOUR_MS
  world.hook = ({ method, moment }) =>
    method === 'append' && moment === 'before'
      ? new Promise<void>((resolve) => world.clock.setTimer(resolve, 1_000))
      : undefined
  const slow = world.ask('prepare', prepareOf())
  const waiting = world.ask('wait', { id })
  await world.clock.advance(5_000)
  expect(slow.response?.status).toBe('prepared')
  await world.clock.advance(7_000)
  expect(world.participants.checkBacks.filter(({ request }) => request.transactionId === id).length).toBe(1)
  expect(waiting.response?.status).toBe('parked')
  const next = await world.prepare()
  expect((await world.call('get', { id: next.id })).preparedAtMs).toBeGreaterThan(preparedAtMs)
})

test('a log’s wall clock never goes back, across a restart on a machine whose clock is behind', async () => {
  const world = await openWorld()
  const one = await world.prepare()
  const { preparedAtMs } = await world.call('get', { id: one.id })
  world.clock.wallMs -= HOUR_MS
  await world.restart(5_000)
  const two = await world.prepare({ messages: [messageTo('shop/receive', 'x')] })
  expect((await world.call('get', { id: two.id })).preparedAtMs).toBeGreaterThanOrEqual(preparedAtMs)
})

test('what is decided while an append is in flight shares a time, which is never older than a tick of 20 ms', async () => {
  const world = await openWorld()
  const append = gate('append')
  world.hook = append.hook
  // The first one is on its way; the others collect.
  world.ask('prepare', prepareOf())
  await world.clock.settle()
  const asked = new Map<string, number>()
  for (let at = 0; at < 100; at++) {
    asked.set(`id-${at}`, world.clock.now())
    world.ask('prepare', prepareOf({ id: `id-${at}` }), { fresh: true })
    await world.clock.advance(1)
  }
  append.open()
  await world.clock.settle()
  const times: number[] = []
  for (const [id, askedAtMs] of asked) {
    const { preparedAtMs } = await world.call('get', { id })
    times.push(preparedAtMs)
    expect(preparedAtMs).toBeLessThanOrEqual(askedAtMs)
    expect(askedAtMs - preparedAtMs).toBeLessThanOrEqual(20)
  }
  expect(times).toEqual(times.toSorted((one, other) => one - other))
  expect(new Set(times).size).toBeLessThan(8)
  expect(new Set(times).size).toBeGreaterThan(4)
})

test('log time stands still while nobody runs the log, and never goes back', async () => {
  const clock = new FakeRuntime(1)
  const first = new LogTime(clock, { wallMs: 0, logMs: 0 })
  const stored = first.read()
  expect(stored.logMs).toBe(stored.wallMs)
  await clock.advance(2 * HOUR_MS)
  const second = new LogTime(clock, stored)
  expect(second.read()).toEqual({ wallMs: stored.wallMs + 2 * HOUR_MS, logMs: stored.logMs })
  clock.wallMs -= HOUR_MS
  let before = second.read()
  for (let at = 0; at < 10; at++) {
    await clock.advance(333.3)
    const now = second.read()
    expect(now.logMs - before.logMs).toBeGreaterThanOrEqual(333)
    expect(now.wallMs - before.wallMs).toBe(now.logMs - before.logMs)
    before = now
  }
})

test('the last heartbeat is the later of the checkpoint’s and the log’s', async () => {
  const world = await openWorld()
  const { id } = await world.prepare()
  let open = (): void => {}
  let isHeld = true
  // A commit is under way all the time: segments keep their older clock behind the checkpoint's.
  world.hook = ({ method, moment }) =>
    method === 'append' && moment === 'after' && isHeld
      ? new Promise<void>((resolve) => (open = resolve))
      : undefined
  world.ask('commit', { id })
  await world.clock.advance(20_000)
  const [log] = world.disk.logs
  const heartbeat = log?.row.clock.logMs ?? 0
  world.coordinator.kill()
  isHeld = false
  open()
  await world.start()
  await world.clock.advance(100)
  expect(world.disk.logs[0]?.row.clock.logMs).toBeGreaterThanOrEqual(heartbeat)
})

test('a store that is away for two hours makes nothing late: log time stands still while nothing is stored', async () => {
  const world = await openWorld()
  const checkBack = { delayMs: 60_000, unresolvedMsMax: HOUR_MS }
  const { id } = await world.prepare({ checkBack })
  await world.clock.advance(1_000)
  world.hook = ({ moment }) => {
    if (moment === 'before') throw new EscrowError('storeUnavailable', 'the store is away')
  }
  await world.clock.advance(2 * HOUR_MS)
  world.hook = () => {}
  await world.clock.advance(30_000)
  expect(await world.status(id)).toBe('prepared')
  expect(world.participants.checkBacks.length).toBe(0)
  await world.clock.advance(20_000)
  expect(world.participants.checkBacks.length).toBe(1)
})

test('a clock that jumps ahead, or a machine that slept, makes nothing late', async () => {
  const world = await openWorld()
  const { id } = await world.prepare({ checkBack: { delayMs: 60_000, unresolvedMsMax: HOUR_MS } })
  await world.clock.advance(1_000)
  world.clock.wallMs += 2 * HOUR_MS
  await world.clock.advance(10_000)
  expect(await world.status(id)).toBe('prepared')
  expect(world.participants.checkBacks.length).toBe(0)
})
