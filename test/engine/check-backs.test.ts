import { expect, test } from 'vitest'
import type { CheckBackPolicy } from '../../src/core/message.ts'
import type { CheckBackOutcome } from '../../src/engine/outlet.ts'
import { messageTo, openWorld, prepareOf, type World } from './world.ts'

const policy: CheckBackPolicy = {
  delayMs: 1_000,
  delayMsMax: 60_000,
  checksMax: 4,
  onExhausted: 'park',
  unresolvedMsMax: 86_400_000,
}
const says = (resolution: 'commit' | 'rollback' | 'unknown'): CheckBackOutcome => ({
  resolution,
  bodies: [],
  error: 'because',
})
const asked = (world: World): number => world.participants.checkBacks.length

test('the first check-back comes after its delay, the pauses grow, and the budget ends in parked', async () => {
  const world = await openWorld()
  const start = world.clock.now()
  const { id } = await world.prepare({ checkBack: policy })
  await world.clock.advance(120_000)
  const times = world.participants.checkBacks.map(({ atMs }) => atMs - start)
  expect(times.length).toBe(4)
  expect(times[0]).toBeGreaterThanOrEqual(1_000)
  expect(times[0]).toBeLessThan(1_100)
  times.slice(1).forEach((time, at) => {
    const pause = time - (times[at] as number)
    expect(pause).toBeGreaterThanOrEqual(500 * 2 ** at)
    expect(pause).toBeLessThanOrEqual(1_000 * 2 ** at + 100)
  })
  expect(world.participants.checkBacks.map(({ request }) => request.attempt)).toEqual([1, 2, 3, 4])
  const view = await world.call('get', { id })
  expect(view).toMatchObject({ status: 'parked', checks: 4, reason: expect.stringContaining('exhausted') })
  await world.clock.advance(600_000)
  expect(asked(world)).toBe(4)
})

test.each([
  ['park', 'parked', 0],
  ['commit', 'delivered', 1],
  ['rollback', 'rolledBack', 0],
] as const)(
  'I5: exhausted check-backs end as the caller chose: %s',
  async (onExhausted, status, delivered) => {
    const world = await openWorld()
    const { id } = await world.prepare({ checkBack: { ...policy, onExhausted } })
    await world.clock.advance(60_000)
    expect(await world.call('get', { id })).toMatchObject({
      status,
      settledBy: onExhausted === 'park' ? '' : 'policy',
    })
    expect(world.participants.deliveries.length).toBe(delivered)
  },
)

test.each(['commit', 'rollback'] as const)('a checker that says %s settles it', async (resolution) => {
  const world = await openWorld()
  world.participants.check = () => says(resolution)
  const { id } = await world.prepare({ checkBack: policy })
  await world.clock.advance(3_000)
  const status = resolution === 'commit' ? 'delivered' : 'rolledBack'
  expect(await world.call('get', { id })).toMatchObject({ status, settledBy: 'checkBack', checks: 1 })
  await world.clock.advance(120_000)
  expect(asked(world)).toBe(1)
})

test('a checker that says nothing counts as asked after the time-out', async () => {
  const world = await openWorld()
  world.participants.check = () => 'silence'
  const { id } = await world.prepare({ checkBack: policy })
  await world.clock.advance(10_000)
  expect(await world.call('get', { id })).toMatchObject({ checks: 0 })
  await world.clock.advance(2_000)
  expect(await world.call('get', { id })).toMatchObject({ checks: 1, status: 'prepared' })
})

test('I5: nobody there is no check; unresolvedMsMax parks what no checker ever came for', async () => {
  const world = await openWorld()
  world.participants.checkers.clear()
  const { id } = await world.prepare({
    checkBack: { ...policy, unresolvedMsMax: 600_000, onExhausted: 'rollback' },
  })
  await world.clock.advance(599_000)
  expect(await world.call('get', { id })).toMatchObject({ status: 'prepared', checks: 0 })
  await world.clock.advance(2_000)
  expect(await world.call('get', { id })).toMatchObject({ status: 'parked', checks: 0 })
})

test('a checker that comes is asked at once about all that wait for it', async () => {
  const world = await openWorld()
  world.participants.checkers.clear()
  const ids: string[] = []
  for (let at = 0; at < 600; at++) ids.push((await world.prepare({ checkBack: policy })).id)
  await world.clock.advance(5_000)
  expect(asked(world)).toBe(0)
  world.participants.check = () => says('commit')
  world.participants.checkerComes('orders')
  await world.clock.advance(200)
  expect(asked(world)).toBe(600)
  await world.clock.advance(200)
  expect(new Set(world.participants.deliveries.map(({ request }) => request.transactionId))).toEqual(
    new Set(ids),
  )
})

test('a checker that comes while the word of its absence is under way is asked all the same', async () => {
  const world = await openWorld()
  world.participants.checkers.clear()
  const { id } = await world.prepare({ checkBack: policy })
  world.participants.check = () => says('commit')
  world.participants.missed = () => {
    world.participants.missed = () => {}
    world.participants.checkerComes('orders')
  }
  await world.clock.advance(5_000)
  expect(await world.status(id)).toBe('delivered')
})

test('beyond missedMax those that nobody can be asked about wait in the store, and are asked about later', async () => {
  const world = await openWorld({ bounds: { missedMax: 2 } })
  world.participants.checkers.clear()
  const ids: string[] = []
  for (let at = 0; at < 5; at++) ids.push((await world.prepare({ checkBack: policy })).id)
  await world.clock.advance(10_000)
  world.participants.check = () => says('commit')
  world.participants.checkerComes('orders')
  await world.clock.advance(100)
  expect(asked(world)).toBe(2)
  await world.clock.advance(120_000)
  for (const id of ids) expect(await world.status(id)).toBe('delivered')
})

test('requestCheckBack asks at once, and one question about a transaction is open at a time', async () => {
  const world = await openWorld()
  world.participants.check = () => 'silence'
  const { id } = await world.prepare({ checkBack: policy })
  expect(await world.call('requestCheckBack', { id })).toEqual({ status: 'prepared' })
  await world.clock.advance(100)
  expect(asked(world)).toBe(1)
  await Promise.all([world.call('requestCheckBack', { id }), world.call('requestCheckBack', { id })])
  await world.clock.advance(5_000)
  expect(asked(world)).toBe(1)
})

test('I3: an answer that comes after the caller has settled it changes nothing, whatever it says', async () => {
  for (const [op, resolution, status] of [
    ['commit', 'rollback', 'delivered'],
    ['rollback', 'commit', 'rolledBack'],
  ] as const) {
    const world = await openWorld()
    let answer = (_: CheckBackOutcome): void => {}
    world.participants.check = () => new Promise((resolve) => (answer = resolve))
    const { id } = await world.prepare({ checkBack: policy })
    await world.clock.advance(1_500)
    expect(asked(world)).toBe(1)
    await world.call(op, { id })
    answer(says(resolution))
    await world.clock.advance(1_000)
    expect(await world.call('get', { id })).toMatchObject({ status, settledBy: 'caller' })
    expect(world.participants.deliveries.length).toBe(op === 'commit' ? 1 : 0)
    expect(world.coordinator.engine.health().state).toBe('ready')
  }
})

test('I3: commit and check-back race: one outcome, and the other one is told of it', async () => {
  const world = await openWorld()
  let answer = (_: CheckBackOutcome): void => {}
  world.participants.check = () => new Promise((resolve) => (answer = resolve))
  const { id } = await world.prepare({ checkBack: policy })
  await world.clock.advance(1_500)
  answer(says('rollback'))
  const commit = world.ask('commit', { id })
  await world.clock.advance(100)
  const status = await world.status(id)
  expect(commit.error?.code ?? 'none').toBe(status === 'rolledBack' ? 'resolutionConflict' : 'none')
  expect(world.participants.deliveries.length).toBe(status === 'delivered' ? 1 : 0)
})

test('only a checker of the database where the work was prepared is asked', async () => {
  const world = await openWorld()
  world.participants.checkers.set('orders', 'db-two')
  world.participants.check = () => says('commit')
  const { id } = await world.prepare({ checkBack: policy, databaseId: 'db-one' })
  await world.clock.advance(10_000)
  expect(asked(world)).toBe(0)
  world.participants.checkerComes('orders', 'db-one')
  await world.clock.advance(100)
  expect(await world.status(id)).toBe('delivered')
})

test('a parked half message leaves by commit, by rollback, or by retry, which asks again', async () => {
  const world = await openWorld()
  const park = async () => {
    const { id, executionId } = await world.prepare({ checkBack: { ...policy, checksMax: 1 } })
    await world.clock.until(() =>
      world.participants.checkBacks.some(({ request }) => request.transactionId === id),
    )
    await world.clock.advance(50)
    expect(await world.status(id)).toBe('parked')
    return { id, executionId }
  }
  const [one, two, three] = [await park(), await park(), await park()]
  expect(await world.call('commit', { id: one.id })).toEqual({ status: 'committed' })
  expect(await world.call('rollback', { id: two.id })).toEqual({ status: 'rolledBack' })
  expect(await world.codeOf('retry', { id: three.id, executionId: 'other' })).toBe('unknownExecution')
  expect(await world.codeOf('skip', three)).toBe('unsupported')
  world.participants.check = () => says('commit')
  const before = asked(world)
  expect(await world.call('retry', three)).toEqual({ status: 'prepared' })
  await world.clock.advance(100)
  expect(asked(world)).toBe(before + 1)
  expect(await world.status(three.id)).toBe('delivered')
})

test('bodies that a checker gives are delivered; bodies over their limit, or none, are no answer', async () => {
  const world = await openWorld()
  const messages = [{ destination: 'shop/receive', bodyAtCommit: true }]
  const answers: CheckBackOutcome[] = [
    says('commit'),
    { resolution: 'commit', bodies: [{ index: 0, body: Buffer.alloc((1 << 20) + 1) }], error: '' },
    { resolution: 'commit', bodies: [{ index: 0, body: Buffer.from('fixed') }], error: '' },
  ]
  world.participants.check = () => answers.shift() ?? says('unknown')
  const { id } = await world.prepare({ messages, checkBack: policy })
  await world.clock.advance(30_000)
  expect(await world.call('get', { id })).toMatchObject({ status: 'delivered', checks: 3 })
  expect(world.participants.bodies('shop/receive')).toEqual(['fixed'])
})

test('I3: a commit that can not be taken is never rolled back for that: parked, with the reason, until it can', async () => {
  const world = await openWorld()
  const messages = [{ destination: 'shop/receive', bodyAtCommit: true }]
  let body = Buffer.alloc((1 << 20) + 1)
  world.participants.check = () => ({ resolution: 'commit', bodies: [{ index: 0, body }], error: '' })
  const { id, executionId } = await world.prepare({
    messages,
    checkBack: { ...policy, onExhausted: 'rollback' },
  })
  await world.clock.advance(60_000)
  expect(asked(world)).toBe(4)
  expect(await world.call('get', { id })).toMatchObject({
    status: 'parked',
    settledBy: '',
    reason: 'check-backs exhausted: body is 1048577, over the limit bodyBytesMax of 1048576',
  })
  body = Buffer.from('fixed')
  await world.call('retry', { id, executionId })
  await world.clock.advance(1_000)
  expect(await world.status(id)).toBe('delivered')
})

test('an answer that no segment has room for counts as unknown, and the checker is asked again', async () => {
  const limits = {
    bodyBytesMax: 8 << 20,
    headerBytesMax: 100,
    messagesMax: 4,
    transactionBytesMax: 8 << 20,
    frameBytesMax: 8 << 20,
  }
  const world = await openWorld({ limits })
  const messages = [{ destination: 'shop/receive', bodyAtCommit: true }]
  const bodies = [{ index: 0, body: Buffer.alloc(5 << 20) }]
  world.participants.check = () => ({ resolution: 'commit', bodies, error: '' })
  const { id } = await world.prepare({ messages, checkBack: policy })
  expect(await world.codeOf('commit', { id, bodies })).toBe('tooLarge')
  await world.clock.advance(60_000)
  expect(asked(world)).toBe(4)
  expect(await world.status(id)).toBe('parked')
})

test('I6: what is waited for is still asked about: a waiter holds it in memory, and its alarm comes', async () => {
  const world = await openWorld()
  const { id } = await world.prepare({ checkBack: { ...policy, delayMs: 30_000 } })
  const waiter = world.ask('wait', { id }, { timeoutMs: 300_000 })
  world.participants.check = () => says('commit')
  await world.clock.advance(32_000)
  expect(asked(world)).toBe(1)
  expect(waiter.response?.status).toBe('delivered')
})

test('the check-back carries what the barrier needs to know', async () => {
  const world = await openWorld()
  const trace = { traceparent: `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01`, tracestate: '', baggage: 'k=v' }
  const { id, executionId } = await world.prepare({
    checkBack: policy,
    trace,
    messages: [messageTo('shop/receive', 'x')],
  })
  const preparedAtMs = (await world.call('get', { id })).preparedAtMs
  await world.clock.advance(2_000)
  expect(world.participants.checkBacks[0]?.request).toEqual({
    namespace: 'default',
    transactionId: id,
    executionId,
    attempt: 1,
    checker: 'orders',
    preparedAtMs,
    trace,
    timeoutMs: 10_000,
  })
  expect(prepareOf().checker).toBe('orders')
})
