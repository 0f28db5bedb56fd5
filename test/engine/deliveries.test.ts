import { expect, test } from 'vitest'
import type { DeliveryOutcome } from '../../src/engine/outlet.ts'
import { messageTo, openWorld } from './world.ts'

const retry = { delayMs: 100, delayMsMax: 2_000, attemptsMax: 5, attemptTimeoutMs: 1_000 }
const fails: DeliveryOutcome = { outcome: 'failed', error: 'no room at the inn' }

test('a delivery that fails is repeated under the same id with growing pauses, then parked after its budget', async () => {
  const world = await openWorld()
  world.participants.deliver = () => fails
  const id = await world.commit({ retry })
  await world.clock.advance(60_000)
  const seen = world.participants.deliveries
  expect(seen.map(({ request }) => request.attempt)).toEqual([1, 2, 3, 4, 5])
  expect(new Set(seen.map(({ request }) => request.executionId)).size).toBe(1)
  seen.slice(1).forEach(({ atMs }, at) => {
    expect(atMs - (seen[at]?.atMs ?? 0)).toBeLessThanOrEqual(100 * 2 ** at + 50)
  })
  const view = await world.call('get', { id })
  expect(view.status).toBe('parked')
  expect(view.deliveries[0]).toMatchObject({
    status: 'parked',
    attempts: 5,
    error: expect.stringContaining('inn'),
  })
})

test('silence and a lost answer are unknown: the message comes again', async () => {
  const world = await openWorld()
  let count = 0
  world.participants.deliver = () => (++count < 3 ? 'silence' : { outcome: 'delivered', error: '' })
  const id = await world.commit({ retry })
  await world.clock.advance(10_000)
  expect(world.participants.deliveries.length).toBe(3)
  expect(await world.status(id)).toBe('delivered')
})

test('a refusal parks at once; retry sends it again, skip gives it up', async () => {
  const world = await openWorld()
  world.participants.deliver = () => ({ outcome: 'refused', error: 'never' })
  const id = await world.commit({ messages: [messageTo('shop/receive', 'a'), messageTo('shop/audit', 'b')] })
  await world.clock.advance(5_000)
  expect(world.participants.deliveries.length).toBe(2)
  const { deliveries, status } = await world.call('get', { id })
  expect(status).toBe('parked')
  const [one, two] = deliveries.map(({ executionId }) => ({ id, executionId }))
  world.participants.deliver = () => ({ outcome: 'delivered', error: '' })
  expect(await world.call('retry', one!)).toEqual({ status: 'parked' })
  await world.clock.advance(100)
  expect(world.participants.deliveries.length).toBe(3)
  expect(await world.codeOf('retry', one!)).toBe('notParked')
  expect(await world.codeOf('compensate', two!)).toBe('unsupported')
  expect(await world.codeOf('skip', { id, executionId: 'other' })).toBe('unknownExecution')
  expect(await world.call('skip', two!)).toEqual({ status: 'delivered' })
  await world.clock.advance(5_000)
  expect(world.participants.deliveries.length).toBe(3)
  expect((await world.call('get', { id })).deliveries.map((each) => each.status)).toEqual([
    'delivered',
    'skipped',
  ])
})

test('past the last-dispatch deadline a delivery parks, and retry must accept a possible duplicate', async () => {
  const lastDispatchMsMax = 20_000
  const world = await openWorld({
    defaults: {
      checkBack: {
        delayMs: 10_000,
        delayMsMax: 10_000,
        checksMax: 5,
        onExhausted: 'park',
        unresolvedMsMax: 1e9,
      },
      retry: { ...retry, attemptsMax: 1_000, delayMsMax: 1_000, lastDispatchMsMax },
    },
  })
  world.participants.deliver = () => fails
  const id = await world.commit()
  const start = world.clock.now()
  await world.clock.advance(60_000)
  expect(Math.max(...world.participants.deliveries.map(({ atMs }) => atMs)) - start).toBeLessThan(
    lastDispatchMsMax,
  )
  const { executionId } = (await world.call('get', { id })).deliveries[0]!
  expect(await world.codeOf('retry', { id, executionId })).toBe('possibleDuplicate')
  world.participants.deliver = () => ({ outcome: 'delivered', error: '' })
  await world.call('retry', { id, executionId, acceptPossibleDuplicate: true })
  await world.clock.advance(100)
  expect(await world.status(id)).toBe('delivered')
})

test('what nobody takes before its last-dispatch deadline is parked, and was never sent', async () => {
  const world = await openWorld({
    defaults: {
      checkBack: {
        delayMs: 10_000,
        delayMsMax: 10_000,
        checksMax: 5,
        onExhausted: 'park',
        unresolvedMsMax: 1e9,
      },
      retry: { ...retry, lastDispatchMsMax: 20_000 },
    },
  })
  world.participants.handlers.clear()
  const id = await world.commit()
  await world.clock.advance(19_000)
  expect(await world.status(id)).toBe('committed')
  await world.clock.advance(2_000)
  const { executionId, status } = (await world.call('get', { id })).deliveries[0]!
  expect(status).toBe('parked')
  world.participants.comes('shop/receive')
  await world.clock.advance(1_000)
  expect(world.participants.deliveries.length).toBe(0)
  // It was never dispatched: no duplicate is possible.
  expect(await world.call('retry', { id, executionId })).toEqual({ status: 'committed' })
  await world.clock.advance(100)
  expect(await world.status(id)).toBe('delivered')
})

test.each([500, 10_000, 120_000])(
  'a message delayed by %d ms is delivered then, and not before',
  async (delayMs) => {
    const world = await openWorld()
    const deliverAtMs = world.clock.now() + delayMs
    const id = await world.commit({ messages: [messageTo('shop/receive', 'later', { deliverAtMs })] })
    await world.clock.advance(delayMs + 5_000)
    const [seen] = world.participants.deliveries
    expect(seen?.atMs).toBeGreaterThanOrEqual(deliverAtMs)
    expect(seen?.atMs).toBeLessThan(deliverAtMs + 200)
    expect(await world.status(id)).toBe('delivered')
  },
)

test('a delayed message waits in the store, is delivered after a restart, and late if nobody ran at its time', async () => {
  const world = await openWorld()
  const start = world.clock.now()
  for (const [delayMs, body] of [
    [60_000, 'early'],
    [300_000, 'late'],
  ] as const) {
    await world.commit({ messages: [messageTo('shop/receive', body, { deliverAtMs: start + delayMs })] })
  }
  await world.clock.advance(10_000)
  await world.restart(120_000)
  await world.clock.advance(1_000)
  expect(world.participants.bodies('shop/receive')).toEqual(['early'])
  await world.clock.advance(start + 299_000 - world.clock.now())
  expect(world.participants.bodies('shop/receive')).toEqual(['early'])
  await world.clock.advance(2_000)
  expect(world.participants.bodies('shop/receive')).toEqual(['early', 'late'])
})

test('nobody there is no attempt: it is held, and goes as soon as somebody comes', async () => {
  const world = await openWorld()
  world.participants.handlers.clear()
  const id = await world.commit({ retry })
  await world.clock.advance(60_000)
  expect((await world.call('get', { id })).deliveries[0]).toMatchObject({ status: 'waiting', attempts: 0 })
  world.participants.comes('shop/receive')
  await world.clock.advance(20)
  expect(world.participants.bodies('shop/receive')).toEqual(['hello'])
})

test('I10: a destination is never given more than its window, and everything arrives', async () => {
  const world = await openWorld()
  world.participants.window = 3
  world.participants.deliver = () =>
    new Promise((resolve) => world.clock.setTimer(() => resolve({ outcome: 'delivered', error: '' }), 5))
  const ids = []
  for (let at = 0; at < 50; at++) {
    ids.push((await world.prepare({ messages: [messageTo('shop/receive', String(at))] })).id)
  }
  for (const id of ids) world.ask('commit', { id })
  await world.clock.advance(5_000)
  expect(world.participants.unansweredMax).toBeLessThanOrEqual(3)
  expect(new Set(world.participants.bodies('shop/receive')).size).toBe(50)
  for (const id of ids) expect(await world.status(id)).toBe('delivered')
})

test('a crowd that was held goes on until all of it is gone, however much one call for room sets going', async () => {
  const world = await openWorld()
  world.participants.isTellingRoom = false
  world.participants.handlers.clear()
  const answers = Array.from({ length: 1_000 }, () =>
    world.ask('prepare', { checker: 'orders', messages: [messageTo('memory:topic', 'x')] }),
  )
  await world.clock.settle()
  for (const { response } of answers) world.ask('commit', { id: response?.id ?? '' })
  await world.clock.advance(100)
  world.participants.comes('memory:topic')
  await world.clock.advance(1_000)
  expect(world.participants.deliveries.length).toBe(1_000)
})

test('one that waits for another database does not stand in the way of the others', async () => {
  const world = await openWorld()
  world.participants.comes('shop/receive', 'db-one')
  world.participants.deliver = () => fails
  const stuck = []
  for (let at = 0; at < 300; at++) stuck.push(await world.commit({ retry: { ...retry, attemptsMax: 50 } }))
  world.participants.comes('shop/receive', 'db-two')
  world.participants.deliver = () => ({ outcome: 'delivered', error: '' })
  await world.clock.advance(3_000)
  const before = world.participants.deliveries.length
  world.participants.handlers.delete('shop/receive')
  const id = await world.commit()
  world.participants.comes('shop/receive', 'db-two')
  await world.clock.advance(100)
  expect(await world.status(id)).toBe('delivered')
  expect(world.participants.deliveries.length).toBe(before + 1)
  world.participants.comes('shop/receive', 'db-one')
  await world.clock.advance(1_000)
  for (const each of stuck) expect(await world.status(each)).toBe('delivered')
})

test('beyond heldMax what nobody takes is postponed in the store, leaves memory, and comes back', async () => {
  const world = await openWorld({ bounds: { heldMax: 2 } })
  world.participants.handlers.clear()
  const soon = world.clock.now() + 1_000
  const ids = []
  for (let at = 0; at < 6; at++) {
    // The last two are delayed: their time comes while there is no room.
    const deliverAtMs = at < 4 ? 0 : soon
    ids.push(
      await world.commit({ retry, messages: [messageTo('shop/receive', String(at), { deliverAtMs })] }),
    )
  }
  await world.clock.advance(10_000)
  for (const id of ids)
    expect((await world.call('get', { id })).deliveries[0]).toMatchObject({ status: 'waiting', attempts: 0 })
  world.participants.comes('shop/receive')
  await world.clock.advance(10_000)
  expect([...world.participants.bodies('shop/receive')].sort()).toEqual(['0', '1', '2', '3', '4', '5'])
})

test('a message has what its consumer needs, and the stable id to deduplicate by', async () => {
  const world = await openWorld()
  const trace = {
    traceparent: `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01`,
    tracestate: 'v=1',
    baggage: 'k=v',
  }
  const message = messageTo('shop/receive', 'body', {
    headers: { a: 'b' },
    key: 'k',
    contentType: 'text/plain',
  })
  const { id, executionId } = await world.prepare({
    messages: [message, messageTo('memory:topic', 'two')],
    trace,
  })
  await world.call('commit', { id })
  await world.clock.advance(100)
  expect(world.participants.deliveries.map(({ request }) => request)).toMatchObject([
    {
      namespace: 'default',
      transactionId: id,
      executionId: `${executionId}.0`,
      attempt: 1,
      service: 'shop',
      handler: 'receive',
      headers: { a: 'b' },
      key: 'k',
      contentType: 'text/plain',
      trace,
      timeoutMs: 30_000,
    },
    { executionId: `${executionId}.1`, service: 'memory', handler: 'topic' },
  ])
})

test('a repeated attempt goes only to the database that the first one went to', async () => {
  const world = await openWorld()
  world.participants.comes('shop/receive', 'db-one')
  world.participants.deliver = () => fails
  const id = await world.commit({ retry: { ...retry, attemptsMax: 50 } })
  world.participants.comes('shop/receive', 'db-two')
  world.participants.deliver = () => ({ outcome: 'delivered', error: '' })
  await world.restart()
  await world.clock.advance(10_000)
  expect(await world.status(id)).toBe('committed')
  world.participants.comes('shop/receive', 'db-one')
  await world.clock.advance(1_000)
  expect(await world.status(id)).toBe('delivered')
})
