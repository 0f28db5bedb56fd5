import { expect, test } from 'vitest'
import { NO_TRACE } from '../../src/core/envelope.ts'
import { mintTransactionId } from '../../src/core/ids.ts'
import { messageTo, openWorld, prepareOf } from './world.ts'

const DAY_MS = 86_400_000

test('the same client id gets the same answer: in memory, after eviction, after the end, after a restart', async () => {
  const world = await openWorld()
  const request = prepareOf({ id: 'order-7' })
  const first = await world.call('prepare', request)
  expect(await world.call('prepare', request)).toEqual(first)
  await world.clock.advance(3_000)
  expect(await world.call('prepare', request)).toEqual(first)
  await world.restart(1_000)
  expect(await world.call('prepare', request)).toEqual(first)
  await world.call('commit', { id: 'order-7' })
  await world.clock.advance(3_000)
  const ended = { ...first, status: 'delivered' }
  expect(await world.call('prepare', request)).toEqual(ended)
  await world.restart(1_000)
  expect(await world.call('prepare', request)).toEqual(ended)
  expect(world.participants.deliveries.length).toBe(1)
})

test('two that come together under one id are one transaction', async () => {
  const world = await openWorld()
  const answers = Array.from({ length: 5 }, () => world.ask('prepare', prepareOf({ id: 'twin' })))
  await world.clock.advance(100)
  expect(new Set(answers.map(({ response }) => response?.executionId)).size).toBe(1)
})

test('the same id with other content is refused, whatever differs and however long ago', async () => {
  const world = await openWorld()
  const request = prepareOf({ id: 'order-8', databaseId: 'db' })
  await world.call('prepare', request)
  const others = [
    { ...request, messages: [messageTo('shop/receive', 'other')] },
    { ...request, messages: [messageTo('bank/receive', 'hello')] },
    { ...request, messages: [messageTo('shop/receive', 'hello', { headers: { a: 'b' } })] },
    { ...request, messages: [messageTo('shop/receive', 'hello', { deliverAtMs: 5 })] },
    { ...request, messages: [...request.messages, ...request.messages] },
    { ...request, databaseId: 'db2' },
    { ...request, checkBack: { checksMax: 3 } },
  ]
  for (const afterMs of [0, 3_000]) {
    await world.clock.advance(afterMs)
    for (const other of others) expect(await world.codeOf('prepare', other)).toBe('idReused')
  }
  // What says nothing, or is another trace of the same, is the same content.
  const same = {
    ...request,
    trace: { ...NO_TRACE, baggage: 'k=v' },
    checkBack: { checksMax: undefined } as never,
  }
  expect(await world.codeOf('prepare', same)).toBe('none')
})

test('an id of another namespace is another transaction', async () => {
  const world = await openWorld()
  await world.prepare({ id: 'x', messages: [messageTo('memory:topic', 'a')] })
  expect(await world.codeOf('get', { id: 'x', namespace: 'other' })).toBe('notFound')
})

test('commit and rollback may be repeated for the window of the id; the other one is refused', async () => {
  const world = await openWorld()
  const one = await world.commit()
  const two = (await world.prepare()).id
  await world.call('rollback', { id: two, reason: 'no stock' })
  for (const outageMs of [0, 5_000]) {
    await world.clock.advance(3_000)
    expect((await world.call('commit', { id: one })).status).toBe('delivered')
    expect((await world.call('rollback', { id: two })).status).toBe('rolledBack')
    expect(await world.codeOf('rollback', { id: one })).toBe('resolutionConflict')
    expect(await world.codeOf('commit', { id: two })).toBe('resolutionConflict')
    await world.restart(outageMs)
  }
  expect((await world.call('get', { id: two })).reason).toBe('no stock')
  expect(world.participants.deliveries.length).toBe(1)
})

test('after its retention an ended transaction is `expired` under a minted id, `notFound` under a chosen one', async () => {
  const world = await openWorld({ retentionMs: 3_600_000 })
  const minted = await world.commit()
  const chosen = await world.commit({ id: 'chosen' })
  await world.clock.advance(5_000)
  world.coordinator.kill()
  await world.clock.advance(2 * DAY_MS)
  await world.start({ retentionMs: 3_600_000 })
  await world.clock.advance(120_000)
  expect(await world.codeOf('get', { id: minted })).toBe('expired')
  expect(await world.codeOf('commit', { id: minted })).toBe('expired')
  expect(await world.codeOf('get', { id: chosen })).toBe('notFound')
  const unheard = mintTransactionId('a', `${world.clock.now().toString(36)}-z`, 1)
  expect(await world.codeOf('get', { id: unheard })).toBe('notFound')
})

test('a session’s next id needs no look-up, and is recognised when it comes again without that promise', async () => {
  const world = await openWorld()
  const { session, routings } = world.coordinator.engine.openSession()
  const request = prepareOf({ id: mintTransactionId(routings[0] ?? '', session, 1) })
  let loads = 0
  world.hook = ({ method, moment }) => {
    if (method === 'load' && moment === 'before') loads += 1
  }
  const first = world.ask('prepare', request, { fresh: true })
  const again = world.ask('prepare', request)
  await world.clock.settle()
  expect(loads).toBe(0)
  await world.clock.advance(3_000)
  const later = await world.call('prepare', request)
  expect(loads).toBe(1)
  expect(first.response).toEqual(again.response)
  expect(later).toEqual(first.response)
})

test('execution ids are unique for ever: over transactions, restarts, and the same id after its window', async () => {
  const world = await openWorld({ logs: 3 })
  const seen = new Set<string>()
  for (let round = 0; round < 4; round++) {
    for (let at = 0; at < 20; at++) seen.add((await world.prepare()).executionId)
    await world.restart()
  }
  expect(seen.size).toBe(80)
})
