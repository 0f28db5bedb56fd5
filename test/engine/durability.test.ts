import { expect, test } from 'vitest'
import { EscrowError } from '../../src/core/errors.ts'
import { readSegment } from '../../src/store/segment.ts'
import { failing, gate, messageTo, openWorld, prepareOf, type World } from './world.ts'

const failingOnce = (method: string, code: 'storeCorrupt'): World['hook'] => {
  let isDone = false
  return (call) => {
    if (isDone || call.method !== method) return
    isDone = true
    throw new EscrowError(code, `${method} failed`)
  }
}

/** How many records the disk's log holds of a transaction. */
function recordsOf(world: World, id: string): number {
  let count = 0
  for (const log of world.disk.logs) {
    for (const bytes of log.segments.values()) {
      for (const record of readSegment(bytes).records()) if (record.key === `default/${id}`) count += 1
    }
  }
  return count
}

test('I1: no answer to a prepare leaves before its append is durable', async () => {
  const world = await openWorld()
  const append = gate('append')
  world.hook = append.hook
  const answer = world.ask('prepare', prepareOf())
  await world.clock.advance(5_000)
  expect(append.waiting.length).toBe(1)
  expect(answer.count).toBe(0)
  append.open()
  await world.clock.settle()
  expect(answer).toMatchObject({ count: 1, response: { status: 'prepared' } })
})

test('I1: no message and no answer leave before the commit is durable', async () => {
  const world = await openWorld()
  const { id } = await world.prepare()
  // It is on the disk, but nobody has said so.
  const append = gate('append', 'after')
  world.hook = append.hook
  const answer = world.ask('commit', { id })
  await world.clock.advance(5_000)
  expect(append.waiting.length).toBe(1)
  expect(world.participants.deliveries).toEqual([])
  expect(answer.count).toBe(0)
  append.open()
  await world.clock.advance(100)
  expect(answer.response).toEqual({ status: 'committed' })
  expect(world.participants.bodies('shop/receive')).toEqual(['hello'])
})

test('I1: no check-back leaves before the prepare that it is about is durable', async () => {
  const world = await openWorld()
  const append = gate('append')
  world.hook = append.hook
  world.ask('prepare', prepareOf({ checkBack: { delayMs: 100 } }))
  await world.clock.advance(5_000)
  expect(world.participants.checkBacks).toEqual([])
  append.open()
  await world.clock.advance(1_000)
  expect(world.participants.checkBacks.length).toBeGreaterThan(0)
})

test('I1: duplicates, reads and refusals wait for what they were decided on', async () => {
  const world = await openWorld()
  const request = prepareOf({ id: 'once' })
  const append = gate('append')
  world.hook = append.hook
  world.ask('prepare', request)
  await world.clock.settle()
  const later = [
    world.ask('prepare', request),
    world.ask('prepare', { ...request, messages: [messageTo('shop/receive', 'other')] }),
    world.ask('get', { id: 'once' }),
    world.ask('skip', { id: 'once', executionId: 'x' }),
    world.ask('commit', { id: 'once' }),
    world.ask('rollback', { id: 'once' }),
  ]
  await world.clock.advance(3_000)
  expect(later.map(({ count }) => count)).toEqual([0, 0, 0, 0, 0, 0])
  append.open()
  await world.clock.advance(100)
  expect(later.map(({ error, response }) => error?.code ?? (response as { status: string }).status)).toEqual([
    'prepared',
    'idReused',
    'prepared',
    'notParked',
    'committed',
    'resolutionConflict',
  ])
})

test('one append is in flight at a time, and what collected meanwhile is the next one', async () => {
  const world = await openWorld()
  let inFlight = 0
  let most = 0
  let appends = 0
  world.hook = async ({ method, moment }) => {
    if (method !== 'append') return
    if (moment === 'after') {
      inFlight -= 1
      return
    }
    inFlight += 1
    appends += 1
    most = Math.max(most, inFlight)
    await new Promise<void>((resolve) => world.clock.setTimer(resolve, 10))
  }
  const answers = Array.from({ length: 50 }, () => world.ask('prepare', prepareOf()))
  await world.clock.advance(5)
  answers.push(...Array.from({ length: 50 }, () => world.ask('prepare', prepareOf())))
  await world.clock.advance(100)
  expect(answers.every(({ response }) => response?.status === 'prepared')).toBe(true)
  expect({ most, appends }).toEqual({ most: 1, appends: 2 })
})

test('I2: an answer without an append of its own waits for one look at the store that began after it was asked', async () => {
  const world = await openWorld()
  const { id } = await world.prepare()
  const verify = gate('verify')
  world.hook = verify.hook
  const first = world.ask('get', { id })
  await world.clock.settle()
  expect(verify.waiting.length).toBe(1)
  const second = [
    world.ask('get', { id }),
    world.ask('skip', { id, executionId: 'x' }),
    world.ask('get', { id: 'none' }),
  ]
  await world.clock.advance(1_000)
  expect([first.count, ...second.map(({ count }) => count)]).toEqual([0, 0, 0, 0])
  let verifies = 0
  world.hook = ({ method, moment }) => {
    if (method === 'verify' && moment === 'before') verifies += 1
  }
  verify.open()
  await world.clock.settle()
  expect([first.count, ...second.map(({ count }) => count)]).toEqual([1, 1, 1, 1])
  // The second look began after the other three were asked, and there was one for all of them.
  expect(verifies).toBe(1)
  expect(second[2]?.error?.code).toBe('notFound')
})

test('I2: a log that another writer took over answers nothing as its own, and delivers nothing more', async () => {
  const world = await openWorld()
  const old = world.coordinator
  const { id } = await world.prepare()
  const settled = await world.prepare()
  world.participants.deliver = () => ({ outcome: 'failed', error: 'not yet' })
  await world.call('commit', { id: settled.id })
  const taker = await world.start()
  await world.clock.advance(5)
  const seen = world.participants.deliveries.length
  const asked = [
    world.ask('get', { id }, { of: old }),
    world.ask('commit', { id }, { of: old }),
    world.ask('prepare', prepareOf(), { of: old }),
    world.ask('rollback', { id: settled.id }, { of: old }),
    world.ask('get', { id: 'none' }, { of: old }),
  ]
  await world.clock.settle()
  expect(asked.map(({ error }) => error?.code)).toEqual([
    'uncertain',
    'uncertain',
    'uncertain',
    'uncertain',
    'notOwner',
  ])
  expect((await world.call('get', { id })).status).toBe('prepared')
  expect(asked.every(({ count }) => count === 1)).toBe(true)
  expect(world.participants.deliveries.length).toBe(seen)
  const after = world.ask('get', { id }, { of: old })
  await world.clock.settle()
  expect(after.error?.code).toBe('notOwner')
  expect(old.engine.health().state).toBe('degraded')
  expect(taker.engine.health().state).toBe('ready')
})

test.each([
  ['before', 'it did not happen'],
  ['after', 'it happened and nobody said so'],
] as const)(
  'an append that fails %s (%s) is made again with the same bytes, and recorded once',
  async (moment, _meaning) => {
    const world = await openWorld()
    let failures = 3
    const sizes: number[] = []
    world.hook = (call) => {
      if (call.method === 'append' && call.moment === 'before') sizes.push(0)
      failing('append', moment, () => failures-- > 0)(call)
    }
    const { id } = await world.prepare()
    expect(world.coordinator.engine.health().state).toBe('ready')
    expect(sizes.length).toBe(4)
    expect(recordsOf(world, id)).toBe(1)
    await world.call('commit', { id })
    await world.clock.advance(100)
    expect(world.participants.bodies('shop/receive')).toEqual(['hello'])
  },
)

test('while the store keeps silent, callers are told `uncertain` at their deadline; then it recovers', async () => {
  const world = await openWorld()
  const { id } = await world.prepare()
  let isAway = true
  world.hook = failing('append', 'after', () => isAway)
  const asked = [
    world.ask('commit', { id }, { timeoutMs: 1_000 }),
    world.ask('get', { id }, { timeoutMs: 3_000 }),
    world.ask('prepare', prepareOf({ orderingKey: 'k' }), { timeoutMs: 60_000 }),
  ]
  await world.clock.advance(990)
  expect(asked.map(({ count }) => count)).toEqual([0, 0, 0])
  expect(world.coordinator.engine.health()).toMatchObject({ state: 'degraded' })
  await world.clock.advance(50)
  expect(asked[0]?.error?.code).toBe('uncertain')
  await world.clock.advance(3_000)
  expect(asked.map(({ error }) => error?.code)).toEqual(['uncertain', 'uncertain', undefined])
  expect(world.participants.deliveries).toEqual([])
  isAway = false
  await world.clock.advance(2_000)
  expect(asked.map(({ count }) => count)).toEqual([1, 1, 1])
  expect(asked[2]?.response).toMatchObject({ status: 'prepared' })
  expect(world.participants.bodies('shop/receive')).toEqual(['hello'])
  expect(world.coordinator.engine.health().state).toBe('ready')
})

test('what waits for a load when the store keeps silent is told so at its deadline, and not done later', async () => {
  const world = await openWorld()
  const load = gate('load')
  world.hook = load.hook
  const asked = [
    world.ask('get', { id: 'x' }, { timeoutMs: 1_000 }),
    world.ask('prepare', prepareOf({ id: 'y' }), { timeoutMs: 500 }),
  ]
  await world.clock.advance(1_100)
  expect(asked.map(({ error }) => error?.code)).toEqual(['deadlineExceeded', 'deadlineExceeded'])
  load.open()
  await world.clock.advance(100)
  expect(asked.map(({ count }) => count)).toEqual([1, 1])
  expect(await world.codeOf('get', { id: 'y' })).toBe('notFound')
})

test('I10: while the store is away new work is refused with `overloaded` at a bound, and what was taken is kept', async () => {
  const world = await openWorld()
  let isAway = true
  world.hook = failing('append', 'before', () => isAway)
  const body = Buffer.alloc(1 << 20)
  const answers = Array.from({ length: 100 }, () =>
    world.ask('prepare', prepareOf({ messages: [{ destination: 'shop/receive', body }] }), {
      timeoutMs: 600_000,
    }),
  )
  await world.clock.settle()
  const refused = answers.filter(({ error }) => error?.code === 'overloaded')
  expect(refused.length).toBeGreaterThan(10)
  expect(refused[0]?.error).toMatchObject({ retryable: true, details: { limit: 'WAITING_BYTES_MAX' } })
  isAway = false
  await world.clock.advance(5_000)
  expect(answers.filter(({ response }) => response?.status === 'prepared').length).toBe(100 - refused.length)
  expect((await world.prepare()).status).toBe('prepared')
})

test('I10: questions that wait for a silent store are bounded as well', async () => {
  const world = await openWorld()
  const load = gate('load')
  world.hook = load.hook
  const answers = Array.from({ length: 100_010 }, (_, at) => world.ask('get', { id: `x${at % 7}` }))
  await world.clock.settle()
  expect(answers.filter(({ error }) => error?.code === 'overloaded').length).toBe(10)
  load.open()
  await world.clock.settle()
  expect(answers.every(({ count }) => count === 1)).toBe(true)
})

test('I10: too many transactions in memory, or queued behind their key, or waiters: refused by name', async () => {
  const world = await openWorld({ bounds: { entriesMax: 5, queuedMax: 2, waitersMax: 1 } })
  const { id } = await world.prepare()
  const first = world.ask('wait', { id }, { timeoutMs: 60_000 })
  await expect(world.call('wait', { id })).rejects.toMatchObject({
    code: 'overloaded',
    details: { limit: 'waitersMax' },
  })
  world.participants.handlers.delete('shop/receive')
  for (const orderingKey of ['a', 'b']) await world.commit({ orderingKey })
  await expect(world.prepare({ orderingKey: 'c' })).rejects.toMatchObject({ details: { limit: 'queuedMax' } })
  await world.prepare()
  await world.prepare()
  await expect(world.prepare()).rejects.toMatchObject({
    code: 'overloaded',
    details: { limit: 'entriesMax' },
  })
  await world.call('commit', { id })
  world.participants.comes('shop/receive')
  await world.clock.advance(100)
  expect(first.response?.status).toBe('delivered')
})

test('a store that has to be reopened is: callers in flight get `uncertain`, and what is durable goes on', async () => {
  const world = await openWorld()
  const kept = await world.prepare({ checkBack: { delayMs: 2_000 } })
  let isBroken = true
  world.hook = ({ method, moment }) => {
    if (method === 'append' && moment === 'after' && isBroken)
      throw new EscrowError('storeCorrupt', 'the flush failed')
  }
  const { engine } = world.coordinator
  const answer = world.ask('commit', { id: kept.id })
  const waiter = world.ask('wait', { id: kept.id }, { timeoutMs: 60_000 })
  await world.clock.settle()
  expect(answer.error?.code).toBe('uncertain')
  expect(waiter.error?.code).toBe('storeUnavailable')
  expect(engine.health().state).toBe('degraded')
  expect(await world.codeOf('get', { id: kept.id })).toBe('storeUnavailable')
  isBroken = false
  await world.clock.advance(1_000)
  expect(engine.health()).toEqual({ state: 'ready', reason: '' })
  // The append was there all the same: the answer was uncertain, not wrong.
  expect(await world.status(kept.id)).toBe('delivered')
  expect(world.participants.bodies('shop/receive')).toEqual(['hello'])
})

test('a store that cannot be opened for a while is tried again until it can', async () => {
  const world = await openWorld({ logs: 3 })
  let claims = 0
  world.hook = ({ method, moment }) => {
    if (method === 'append' && moment === 'before' && claims === 0)
      throw new EscrowError('storeCorrupt', 'broken')
    if (method === 'claim' && moment === 'after' && ++claims < 5)
      throw new EscrowError('storeUnavailable', 'not yet')
  }
  const answer = world.ask('prepare', prepareOf())
  await world.clock.advance(10_000)
  expect(answer.error?.code).toBe('uncertain')
  expect(claims).toBeGreaterThan(5)
  expect(world.coordinator.engine.health().state).toBe('ready')
  const ids = await Promise.all(Array.from({ length: 10 }, (_, at) => world.prepare({ id: `id-${at}` })))
  for (const { id } of ids) expect(await world.status(id)).toBe('prepared')
})

test('a call of the old store that ends late says nothing about the new one', async () => {
  const world = await openWorld()
  const checkpoint = gate('checkpoint')
  world.hook = checkpoint.hook
  await world.prepare()
  await world.clock.until(() => checkpoint.waiting.length > 0)
  world.hook = failingOnce('append', 'storeCorrupt')
  const answer = world.ask('prepare', prepareOf())
  await world.clock.advance(2_000)
  expect(answer.error?.code).toBe('uncertain')
  expect(world.coordinator.engine.health().state).toBe('ready')
  world.hook = failing('checkpoint', 'after')
  checkpoint.open()
  await world.clock.settle()
  world.hook = () => {}
  expect(world.coordinator.engine.health()).toEqual({ state: 'ready', reason: '' })
})

test('stopping makes durable what was taken, answers it, and takes nothing more', async () => {
  const world = await openWorld()
  const answer = world.ask('prepare', prepareOf())
  const looked = world.ask('prepare', prepareOf({ id: 'looked-up' }))
  const stopped = world.coordinator.engine.stop()
  expect(await world.codeOf('prepare', prepareOf())).toBe('shuttingDown')
  await world.clock.advance(100)
  await stopped
  expect(looked.response?.status).toBe('prepared')
  expect(answer.response?.status).toBe('prepared')
  const [log] = world.disk.logs
  expect(log?.row.checkpointed).toBe(log?.row.head)
  await world.start()
  expect(await world.status(answer.response?.id ?? '')).toBe('prepared')
})
