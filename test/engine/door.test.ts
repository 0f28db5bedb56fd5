import { expect, test } from 'vitest'
import type { Namespace } from '../../src/core/ids.ts'
import { messageTo, openWorld, prepareOf } from './world.ts'

test('a checker, handler, broker or namespace that was never registered is refused at the door', async () => {
  const world = await openWorld()
  const to = (destination: string) => prepareOf({ messages: [messageTo(destination, 'x')] })
  expect(await world.codeOf('prepare', prepareOf({ checker: 'nobody' }))).toBe('unknownChecker')
  expect(await world.codeOf('prepare', to('shop/nothing'))).toBe('unknownDestination')
  expect(await world.codeOf('prepare', to('nobody/receive'))).toBe('unknownDestination')
  expect(await world.codeOf('prepare', to('kafka:topic'))).toBe('unknownDestination')
  expect(await world.codeOf('prepare', prepareOf({ namespace: 'nowhere' }))).toBe('unknownNamespace')
  expect(await world.codeOf('get', { namespace: 'nowhere', id: 'x' })).toBe('unknownNamespace')
  // Names belong to their namespace.
  expect(await world.codeOf('prepare', prepareOf({ namespace: 'other' }))).toBe('unknownChecker')
  const other = { checkers: ['orders'], handlers: [], databaseId: '' }
  await world.coordinator.engine.register('other' as Namespace, 'shop', other)
  expect(await world.codeOf('prepare', prepareOf({ namespace: 'other' }))).toBe('unknownDestination')
  const request = { ...to('memory:topic'), namespace: 'other' }
  expect(await world.codeOf('prepare', request)).toBe('none')
})

test('a name that was registered once is known for ever, whoever is there', async () => {
  const world = await openWorld()
  world.participants.handlers.clear()
  world.participants.checkers.clear()
  await world.restart(60_000)
  expect((await world.prepare()).status).toBe('prepared')
})

test.each([
  ['no message', { messages: [] }, 'invalidArgument'],
  ['an id with a blank', { id: 'a b' }, 'invalidArgument'],
  ['a checker that is no name', { checker: 'A!' }, 'invalidArgument'],
  ['a budget of no check-back', { checkBack: { checksMax: -1 } }, 'invalidArgument'],
  ['half a millisecond', { retry: { delayMs: 0.5 } }, 'invalidArgument'],
  ['a policy that is none', { checkBack: { onExhausted: 'explode' as never } }, 'invalidArgument'],
  ['a database id with a blank', { databaseId: 'a b' }, 'invalidArgument'],
  [
    'a body over its limit',
    { messages: [{ destination: 'shop/receive', body: Buffer.alloc((1 << 20) + 1) }] },
    'tooLarge',
  ],
  [
    'bodies over the limit together',
    { messages: Array(3).fill({ destination: 'shop/receive', body: Buffer.alloc(1 << 20) }) },
    'tooLarge',
  ],
] as const)('%s is refused, and nothing of it is kept', async (_, request, code) => {
  const world = await openWorld()
  const head = world.disk.logs[0]?.row.head
  expect(await world.codeOf('prepare', prepareOf(request))).toBe(code)
  expect(world.disk.logs[0]?.row.head).toBe(head)
})

test('bodies that are fixed at commit are held to the same limits', async () => {
  const world = await openWorld()
  const messages = Array(3).fill({ destination: 'shop/receive', bodyAtCommit: true })
  const { id } = await world.prepare({ messages })
  const of = (size: number) => [0, 1, 2].map((index) => ({ index, body: Buffer.alloc(size) }))
  expect(await world.codeOf('commit', { id })).toBe('bodiesMissing')
  expect(await world.codeOf('commit', { id, bodies: of((1 << 20) + 1) })).toBe('tooLarge')
  expect(await world.codeOf('commit', { id, bodies: of(1 << 20) })).toBe('tooLarge')
  expect(await world.codeOf('commit', { id, bodies: [...of(1), { index: 3, body: Buffer.alloc(1) }] })).toBe(
    'invalidArgument',
  )
  expect(await world.codeOf('commit', { id, bodies: of(1_000) })).toBe('none')
  await world.clock.advance(100)
  expect(world.participants.deliveries.map(({ request }) => request.body.length)).toEqual([
    1_000, 1_000, 1_000,
  ])
})

test('a deadline in the past is refused before anything is done', async () => {
  const world = await openWorld()
  const answer = world.ask('prepare', prepareOf({ id: 'late' }), { timeoutMs: 0 })
  await world.clock.settle()
  expect(answer.error?.code).toBe('deadlineExceeded')
  expect(await world.codeOf('get', { id: 'late' })).toBe('notFound')
})

test('before it has started a coordinator says so', async () => {
  const world = await openWorld()
  const early = world.assemble()
  expect(early.engine.health().state).toBe('starting')
  const answer = world.ask('get', { id: 'x' }, { of: early })
  await world.clock.settle()
  expect(answer.error?.code).toBe('storeUnavailable')
})

test('wait answers when it ends, when it is parked, at once if it has, and at the deadline', async () => {
  const world = await openWorld()
  const [one, two, three] = [await world.prepare(), await world.prepare(), await world.prepare()]
  const ended = world.ask('wait', { id: one.id })
  const late = world.ask('wait', { id: three.id }, { timeoutMs: 2_000 })
  await world.clock.advance(1_000)
  expect(ended.count).toBe(0)
  await world.call('commit', { id: one.id })
  await world.clock.advance(100)
  expect(ended.response).toMatchObject({ status: 'delivered', id: one.id })
  expect((await world.call('wait', { id: one.id })).status).toBe('delivered')
  world.participants.deliver = () => ({ outcome: 'refused', error: 'no' })
  const parked = world.ask('wait', { id: two.id })
  await world.call('commit', { id: two.id })
  await world.clock.advance(100)
  expect(parked.response?.status).toBe('parked')
  await world.clock.advance(1_000)
  expect(late.error?.code).toBe('deadlineExceeded')
  expect(await world.codeOf('wait', { id: 'unheard-of' })).toBe('notFound')
  expect([ended.count, parked.count, late.count]).toEqual([1, 1, 1])
})

test('I2: a wait answers only what is durable', async () => {
  const world = await openWorld()
  const { id } = await world.prepare()
  const waiting = world.ask('wait', { id })
  await world.clock.settle()
  let isHeld = true
  let open = (): void => {}
  world.hook = ({ method, moment }) =>
    method === 'append' && moment === 'before' && isHeld
      ? new Promise<void>((resolve) => (open = resolve))
      : undefined
  world.ask('rollback', { id })
  await world.clock.advance(1_000)
  expect(waiting.count).toBe(0)
  isHeld = false
  open()
  await world.clock.advance(100)
  expect(waiting.response?.status).toBe('rolledBack')
})

test('list pages through what lives, or has a status, in the order of keys, and ends', async () => {
  const world = await openWorld()
  const ids = Array.from({ length: 25 }, (_, at) => `id-${String(at).padStart(2, '0')}`)
  for (const id of ids) await world.prepare({ id })
  await world.call('rollback', { id: 'id-03' })
  await world.call('commit', { id: 'id-04' })
  await world.clock.advance(3_000)
  const found: string[] = []
  let pageToken = ''
  do {
    const page = await world.call('list', { limit: 10, pageToken })
    expect(page.asOfMs).toBeGreaterThan(world.clock.now() - 7_000)
    found.push(...page.transactions.map(({ id }) => id))
    pageToken = page.nextPageToken
  } while (pageToken !== '')
  expect(found).toEqual(ids.filter((id) => id !== 'id-03' && id !== 'id-04'))
  expect((await world.call('list', { statuses: ['rolledBack'] })).transactions.map(({ id }) => id)).toEqual([
    'id-03',
  ])
  expect((await world.call('list', { statuses: ['delivered', 'rolledBack'] })).transactions.length).toBe(2)
  expect((await world.call('list', { namespace: 'other' })).transactions).toEqual([])
  for (const limit of [1_001, -1, 0.5]) expect(await world.codeOf('list', { limit })).toBe('invalidArgument')
})

test('names are bounded and well formed', async () => {
  const world = await openWorld()
  const { engine } = world.coordinator
  const register = (checkers: string[], service = 'shop') =>
    engine.register('default' as Namespace, service, { checkers, handlers: [], databaseId: '' })
  await expect(register(['A'])).rejects.toMatchObject({ code: 'invalidArgument' })
  await expect(register(['a'], 'No!')).rejects.toMatchObject({ code: 'invalidArgument' })
  await expect(register(Array.from({ length: 1_001 }, (_, at) => `c${at}`))).rejects.toMatchObject({
    code: 'tooLarge',
  })
  const none = { checkers: [], handlers: [], databaseId: '' }
  for (const url of ['ftp://x:1', 'http://', 'http://a/b', 'grpc://a b']) {
    await expect(engine.registerUrl('default' as Namespace, 'shop', url, none)).rejects.toMatchObject({
      code: 'invalidArgument',
    })
  }
})

test('a service that listens is told of at each start, until it takes that back', async () => {
  const world = await openWorld()
  const registration = { checkers: [], handlers: ['called'], databaseId: 'db' }
  await world.coordinator.engine.registerUrl(
    'default' as Namespace,
    'shop',
    'http://127.0.0.1:1',
    registration,
  )
  const told: string[] = []
  await world.restart(0, { onListener: ({ service, url }) => told.push(`${service} ${url}`) })
  expect(told).toEqual(['shop http://127.0.0.1:1'])
  await world.coordinator.engine.registerUrl('default' as Namespace, 'shop', '', registration)
  expect(told.at(-1)).toBe('shop ')
  told.length = 0
  await world.restart(0, { onListener: ({ service, url }) => told.push(`${service} ${url}`) })
  expect(told).toEqual([])
})
