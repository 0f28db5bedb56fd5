import { expect, test } from 'vitest'
import { messageTo, openWorld, type World } from './world.ts'

const retry = { delayMs: 100, delayMsMax: 1_000, attemptsMax: 3, attemptTimeoutMs: 500 }
const to = (body: string, ...destinations: string[]) =>
  destinations.map((destination) => messageTo(destination, body))
/** The bodies in the order in which each was first seen. */
const firsts = (world: World, destination = 'shop/receive') => [
  ...new Set(world.participants.bodies(destination)),
]

test('same key: what was committed first is published first at every destination that two share, through retries', async () => {
  const world = await openWorld()
  let left = 60
  world.participants.deliver = () => {
    left -= 1
    if (left > 0 && world.clock.random() < 0.5)
      return world.clock.random() < 0.5 ? 'silence' : { outcome: 'failed', error: '' }
    return { outcome: 'delivered', error: '' }
  }
  const bodies = Array.from({ length: 12 }, (_, at) => `m${at}`)
  for (const body of bodies) {
    await world.commit({
      orderingKey: 'k',
      messages: to(body, 'shop/receive', 'memory:topic'),
      retry: { ...retry, attemptsMax: 100 },
    })
  }
  await world.clock.advance(120_000)
  expect(firsts(world)).toEqual(bodies)
  expect(firsts(world, 'memory:topic')).toEqual(bodies)
})

test('the order is that of the commits, not that of the prepares', async () => {
  const world = await openWorld()
  world.participants.handlers.clear()
  const one = await world.prepare({ orderingKey: 'k', messages: to('one', 'shop/receive') })
  const two = await world.prepare({ orderingKey: 'k', messages: to('two', 'shop/receive') })
  await world.call('commit', { id: two.id })
  await world.call('commit', { id: one.id })
  world.participants.comes('shop/receive')
  await world.clock.advance(1_000)
  expect(firsts(world)).toEqual(['two', 'one'])
})

test('commits of one key that are decided in one batch keep their order', async () => {
  const world = await openWorld()
  const ids = []
  for (const body of ['a', 'b', 'c'])
    ids.push((await world.prepare({ orderingKey: 'k', messages: to(body, 'shop/receive') })).id)
  for (const id of ids) world.ask('commit', { id })
  await world.clock.advance(1_000)
  expect(world.participants.bodies('shop/receive')).toEqual(['a', 'b', 'c'])
})

test('a parked message holds its key back at its destination, and only there, until it is retried or skipped', async () => {
  for (const way of ['retry', 'skip'] as const) {
    const world = await openWorld()
    world.participants.deliver = (_, destination) =>
      destination === 'shop/receive'
        ? { outcome: 'refused', error: 'no' }
        : { outcome: 'delivered', error: '' }
    const first = await world.commit({
      orderingKey: 'k',
      messages: to('first', 'shop/receive', 'shop/audit'),
    })
    await world.clock.advance(500)
    await world.commit({ orderingKey: 'k', messages: to('second', 'shop/receive', 'shop/audit') })
    await world.commit({ orderingKey: 'other', messages: to('beside', 'shop/receive') })
    await world.clock.advance(5_000)
    expect(firsts(world)).toEqual(['first', 'beside'])
    expect(firsts(world, 'shop/audit')).toEqual(['first', 'second'])
    // Also after a restart: what holds a key back is brought in before anything is sent.
    await world.restart(5_000)
    await world.clock.advance(5_000)
    expect(firsts(world)).toEqual(['first', 'beside'])
    world.participants.deliver = () => ({ outcome: 'delivered', error: '' })
    const { executionId } = (await world.call('get', { id: first })).deliveries[0]!
    await world.call(way, { id: first, executionId })
    await world.clock.advance(1_000)
    const seen = world.participants.bodies('shop/receive').filter((body) => body !== 'beside')
    expect(seen).toEqual(way === 'retry' ? ['first', 'first', 'second'] : ['first', 'second'])
  }
})

test.each([0, 500, 1_500, 5_000])(
  'the order holds across a restart %d ms after the commits',
  async (afterMs) => {
    for (let round = 0; round < 5; round++) {
      const world = await openWorld({ seed: round + 1 })
      world.participants.handlers.delete('shop/receive')
      const bodies = Array.from({ length: 20 }, (_, at) => `m${at}`)
      for (const [at, body] of bodies.entries()) {
        await world.commit({
          orderingKey: 'k',
          id: `{k}-${(at * 7) % 20}`,
          messages: to(body, 'shop/receive'),
        })
        if (at === 10) await world.clock.advance(2_000)
      }
      await world.clock.advance(afterMs)
      world.participants.handlers.set('shop/receive', '')
      const late = (await world.prepare({ orderingKey: 'k', messages: to('late', 'shop/receive') })).id
      await world.restart(100)
      await world.call('commit', { id: late })
      await world.clock.advance(5_000)
      expect(firsts(world)).toEqual([...bodies, 'late'])
    }
  },
)

test('a commit that comes while the log recovers goes behind what was committed before', async () => {
  const world = await openWorld()
  world.participants.handlers.delete('shop/receive')
  await world.commit({ orderingKey: 'k', messages: to('first', 'shop/receive') })
  const second = await world.prepare({ orderingKey: 'k', messages: to('second', 'shop/receive') })
  await world.clock.advance(3_000)
  world.participants.handlers.set('shop/receive', '')
  // The store breaks; while it is read again, the caller commits.
  let isBroken = true
  world.hook = ({ method }) => {
    if (method === 'append' && isBroken) throw new Error('broken')
    return method === 'due' ? new Promise<void>((resolve) => world.clock.setTimer(resolve, 300)) : undefined
  }
  world.ask('prepare', { checker: 'orders', messages: to('x', 'shop/audit') })
  await world.clock.settle()
  isBroken = false
  for (let at = 0; at < 100; at++) {
    world.ask('commit', { id: second.id })
    await world.clock.advance(20)
  }
  expect(firsts(world)).toEqual(['first', 'second'])
})

test('messages of one transaction to one destination keep their order', async () => {
  const world = await openWorld()
  let failures = 4
  world.participants.deliver = () =>
    failures-- > 0 ? { outcome: 'failed', error: '' } : { outcome: 'delivered', error: '' }
  await world.commit({
    orderingKey: 'k',
    messages: ['a', 'b', 'c'].flatMap((body) => to(body, 'shop/receive', 'shop/audit')),
    retry: { ...retry, attemptsMax: 10 },
  })
  await world.clock.advance(20_000)
  expect(firsts(world)).toEqual(['a', 'b', 'c'])
  expect(firsts(world, 'shop/audit')).toEqual(['a', 'b', 'c'])
  // The next one waits until the one before it is delivered, not only until it was tried.
  for (const destination of ['shop/receive', 'shop/audit']) {
    const seen = world.participants.bodies(destination)
    expect(seen).toEqual(seen.toSorted())
  }
})

test('a delayed message leaves the order: it holds nobody back', async () => {
  const world = await openWorld()
  const deliverAtMs = world.clock.now() + 10_000
  await world.commit({ orderingKey: 'k', messages: [messageTo('shop/receive', 'delayed', { deliverAtMs })] })
  await world.commit({ orderingKey: 'k', messages: to('at once', 'shop/receive') })
  await world.clock.advance(1_000)
  expect(firsts(world)).toEqual(['at once'])
  await world.clock.advance(10_000)
  expect(firsts(world)).toEqual(['at once', 'delayed'])
})

test('an ordering key that is not the id’s, or not a message’s, is refused', async () => {
  const world = await openWorld()
  expect(
    await world.codeOf('prepare', {
      checker: 'orders',
      orderingKey: 'k',
      id: '{other}-1',
      messages: to('x', 'shop/receive'),
    }),
  ).toBe('orderingKeyMismatch')
  expect(
    await world.codeOf('prepare', {
      checker: 'orders',
      orderingKey: 'k',
      id: '{k}-1',
      messages: [messageTo('shop/receive', 'x', { key: 'z' })],
    }),
  ).toBe('orderingKeyMismatch')
  const { id } = await world.prepare({ orderingKey: 'a{b}~c', messages: to('x', 'shop/receive') })
  expect(id).toMatch(/^\{a%7Bb%7D%7Ec\}~/)
  await world.call('commit', { id })
  await world.clock.advance(100)
  expect(world.participants.deliveries[0]?.request.key).toBe('a{b}~c')
})
