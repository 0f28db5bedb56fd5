import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { EscrowError } from '../../src/core/errors.ts'
import { slotOf } from '../../src/core/ids.ts'
import { type ConnectOptions, connect } from '../../src/participant/connect.ts'
import { REQUESTS_MAX } from '../../src/participant/requests.ts'
import type { Session } from '../../src/participant/session.ts'
import { systemRuntime } from '../../src/runtime.ts'
import { failure, until } from './barrier-world.ts'
import { agreeable, FakeCoordinator, type Reach, reachByGrpc, reachLocally } from './fake-coordinator.ts'

const message = { destination: 'inventory/order-placed', body: Buffer.from('{}') }
const prepare = { checker: 'orders', messages: [message] }

describe.each([
  ['in the same process', reachLocally],
  ['over gRPC', reachByGrpc],
])('a session %s', (_, reachBy) => {
  let coordinator: FakeCoordinator
  let reach: Reach
  const sessions: Session[] = []
  const states: string[] = []

  beforeEach(async () => {
    coordinator = new FakeCoordinator()
    reach = await reachBy(coordinator)
    states.length = 0
  })

  afterEach(async () => {
    await Promise.all(sessions.splice(0).map((session) => session.close()))
    await reach.close()
  })

  async function open(options: Partial<ConnectOptions> = {}): Promise<Session> {
    const session = await connect(reach.open, {
      service: 'orders',
      closeTimeoutMs: 0,
      onConnection: ({ state }) => {
        states.push(state)
        throw new Error('a logger that fails')
      },
      ...options,
    })
    sessions.push(session)
    return session
  }

  const received = async (count: number) => {
    await until(() => coordinator.last.commands.length >= count)
    return coordinator.last.commands
  }
  const ids = () => coordinator.last.commands.map(({ commandId }) => commandId)

  test('says hello and resolves at the welcome', async () => {
    await open({ namespace: 'shop', deliveriesMax: 7, checkBacksMax: 3 })
    expect(coordinator.last.hello).toMatchObject({
      namespace: 'shop',
      service: 'orders',
      deliveriesMax: 7,
      checkBacksMax: 3,
      previousSession: '',
    })
    expect(states).toEqual(['connecting', 'open'])
  })

  test('rejects when no welcome comes in time, and at once when it is refused', async () => {
    coordinator.welcomes = false
    expect((await failure(open({ connectTimeoutMs: 100 }))).code).toBe('disconnected')
    coordinator.refusal = new EscrowError('unknownNamespace', 'no such namespace')
    expect((await failure(open({ connectTimeoutMs: 60_000 }))).code).toBe('unknownNamespace')
  })

  test('mints ids from the routings, the session and a counter, and from the ordering key', async () => {
    coordinator.answer = agreeable
    const session = await open()
    const answered = await Promise.all([
      session.prepare(prepare),
      session.prepare(prepare),
      session.prepare({ ...prepare, orderingKey: 'customer {~} 1' }),
      session.prepare({ ...prepare, id: 'order-7' }),
      session.prepare(prepare),
    ])
    expect(answered.map(({ id }) => id)).toEqual([
      '{a}~s1-x.1',
      '{b}~s1-x.2',
      '{customer%20%7B%7E%7D%201}~s1-x.3',
      'order-7',
      '{b}~s1-x.4',
    ])
    expect(slotOf('{a}~s1-x.1')).toBe(slotOf('{a}'))
    expect((await failure(session.prepare({ ...prepare, orderingKey: 'x'.repeat(129) }))).code).toBe(
      'invalidArgument',
    )
  })

  test('gives requests the namespace of the session, unless they name one', async () => {
    coordinator.answer = agreeable
    const session = await open({ namespace: 'shop' })
    await Promise.all([session.commit({ id: 'a' }), session.commit({ id: 'a', namespace: 'other' })])
    expect(coordinator.last.commands.map(({ request }) => request.namespace)).toEqual(['shop', 'other'])
  })

  test('sends no more than the window; a wait takes no place in it', async () => {
    coordinator.commandsMax = 2
    const session = await open()
    for (const id of ['a', 'b', 'c', 'd']) session.commit({ id }).catch(() => {})
    session.wait({ id: 'w' }).catch(() => {})
    await received(2)
    coordinator.reply((await received(2))[0]!, { status: 'committed' })
    await received(3)
    coordinator.reply(coordinator.last.commands[1]!, { status: 'committed' })
    coordinator.reply(coordinator.last.commands[2]!, { status: 'committed' })
    await received(5)
    expect(ids()).toEqual([1, 2, 3, 4, 5])
    expect(coordinator.last.commands[4]?.op).toBe('wait')
    session.commit({ id: 'e' }).catch(() => {})
    await received(6)
  })

  test('sends again what was unanswered when the connection was lost: same ids, same order, before anything new', async () => {
    const session = await open()
    const first = [session.prepare(prepare), session.commit({ id: 'b' }), session.prepare(prepare)]
    const [one, two] = await received(3)
    coordinator.reply(two!, { status: 'committed' })
    await first[1]
    const before = coordinator.last
    // Before it is lost: the next connection may be there, and its commands with it, a moment later.
    coordinator.answer = agreeable
    before.stream.close(new EscrowError('shuttingDown', 'killed'))
    await until(() => states.includes('waiting'))
    const later = session.commit({ id: 'later' })
    await Promise.all([...first, later])
    expect(coordinator.sessions.length).toBe(2)
    expect(coordinator.last.hello.previousSession).toBe(before.id)
    expect(ids()).toEqual([1, 3, 4])
    expect(coordinator.last.commands[0]?.request).toEqual(one?.request)
    expect(coordinator.last.commands[1]?.request).toMatchObject({ id: '{b}~s1-x.2' })
    expect(await session.prepare(prepare)).toMatchObject({ id: '{a}~s2-x.1' })
    expect(states.filter((state) => state === 'open').length).toBe(2)
  })

  test('keeps the order and the window over several lost connections', async () => {
    coordinator.commandsMax = 3
    const session = await open()
    const all = Array.from({ length: 10 }, (_, i) => session.commit({ id: `t${i}` }))
    for (let life = 1; life <= 3; life++) {
      await received(3)
      expect(ids()).toEqual([life, life + 1, life + 2])
      coordinator.reply(coordinator.last.commands[0]!, { status: 'committed' })
      await all[life - 1]
      coordinator.last.stream.close(new EscrowError('shuttingDown', 'killed'))
      await until(() => coordinator.sessions.length === life + 1)
    }
    coordinator.answer = agreeable
    for (const command of await received(3)) coordinator.reply(command, { status: 'committed' })
    await Promise.all(all)
    expect(ids()).toEqual([4, 5, 6, 7, 8, 9, 10])
  })

  test('what was sent and not answered in time is uncertain; a read is only late; what never left is told so', async () => {
    coordinator.commandsMax = 2
    const session = await open()
    const [sent, read, queued] = await Promise.all(
      [
        session.commit({ id: 'a' }, { timeoutMs: 100 }),
        session.get({ id: 'a' }, { timeoutMs: 100 }),
        session.commit({ id: 'b' }, { timeoutMs: 100 }),
      ].map(failure),
    )
    expect([sent?.code, read?.code, queued?.code]).toEqual([
      'uncertain',
      'deadlineExceeded',
      'deadlineExceeded',
    ])
    // What left comes, however late: here both ends share an event loop that a busy machine may stop for long.
    expect((await received(2)).map(({ commandId }) => commandId)).toEqual([1, 2])
    coordinator.welcomes = false
    coordinator.last.stream.close(new EscrowError('shuttingDown', 'killed'))
    await until(() => !session.connected)
    expect((await failure(session.commit({ id: 'c' }, { timeoutMs: 50 }))).code).toBe('disconnected')
  })

  test('a place in the window is given back by the answer, not by a time-out', async () => {
    coordinator.commandsMax = 1
    const session = await open()
    await failure(session.commit({ id: 'a' }, { timeoutMs: 30 }))
    const next = session.commit({ id: 'b' })
    coordinator.answer = agreeable
    coordinator.reply((await received(1))[0]!, { status: 'committed' })
    await next
  })

  test('gives up when its caller does', async () => {
    coordinator.commandsMax = 1
    const session = await open()
    const abort = new AbortController()
    const sent = failure(session.commit({ id: 'a' }, { signal: abort.signal }))
    const queued = failure(session.commit({ id: 'b' }, { signal: abort.signal }))
    await received(1)
    abort.abort(new Error('enough'))
    expect((await sent).code).toBe('uncertain')
    expect(await queued).toMatchObject({ code: 'deadlineExceeded', cause: { message: 'enough' } })
    expect((await failure(session.commit({ id: 'c' }, { signal: abort.signal }))).code).toBe(
      'deadlineExceeded',
    )
  })

  test('tries again under the same ids where it is told "not now", until its time has passed', async () => {
    let refusals = 3
    coordinator.answer = (command) =>
      refusals-- > 0
        ? {
            prepare: new EscrowError(
              (['notOwner', 'overloaded', 'storeUnavailable'] as const)[refusals]!,
              'not now',
            ),
          }
        : agreeable(command)
    // Every pause as long as it may be: 50, 100, 200, 400 and 800 ms, so that nothing is under way when the time has passed.
    const session = await open({ runtime: { ...systemRuntime, random: () => 0.999 } })
    expect(await session.prepare(prepare)).toMatchObject({ status: 'prepared' })
    expect(ids()).toEqual([1, 1, 1, 1])
    expect(new Set(coordinator.last.commands.map(({ request }) => (request as { id: string }).id)).size).toBe(
      1,
    )
    refusals = Number.POSITIVE_INFINITY
    coordinator.answer = () => ({ commit: new EscrowError('overloaded', 'not now') })
    expect((await failure(session.commit({ id: 'a' }, { timeoutMs: 1400 }))).code).toBe('overloaded')
    coordinator.answer = () => ({ commit: new EscrowError('resolutionConflict', 'rolled back') })
    expect((await failure(session.commit({ id: 'a' }))).code).toBe('resolutionConflict')
  })

  test('refuses with overloaded what is over its bound, and forgets what has timed out', async () => {
    coordinator.welcomes = true
    const session = await open()
    coordinator.welcomes = false
    coordinator.last.stream.close(new EscrowError('shuttingDown', 'killed'))
    await until(() => !session.connected)
    const all = Array.from({ length: REQUESTS_MAX }, () => session.commit({ id: 'a' }, { timeoutMs: 500 }))
    const failures = Promise.all(all.map((each) => each.catch((error) => error.code)))
    expect((await failure(session.commit({ id: 'a' }))).code).toBe('overloaded')
    expect(new Set(await failures)).toEqual(new Set(['disconnected']))
    expect((await failure(session.commit({ id: 'a' }, { timeoutMs: 20 }))).code).toBe('disconnected')
  })

  test('leaves a draining coordinator: old requests are answered there, new ones go to the next', async () => {
    const session = await open()
    const old = session.commit({ id: 'old' })
    await received(1)
    const before = coordinator.last
    before.stream.send({ type: 'drain' })
    await until(() => states.includes('draining'))
    const fresh = session.commit({ id: 'fresh' })
    const waiting = session.wait({ id: 'w' })
    await new Promise((resolve) => setTimeout(resolve, 30))
    expect(before.commands.length).toBe(1)
    coordinator.reply(before.commands[0]!, { status: 'committed' }, before)
    expect(await old).toEqual({ status: 'committed' })
    await until(() => coordinator.sessions.length === 2)
    const commands = await received(2)
    expect(commands.map(({ op }) => op)).toEqual(['commit', 'wait'])
    coordinator.reply(commands[0]!, { status: 'committed' })
    await fresh
    expect(coordinator.last.hello.previousSession).toBe(before.id)
    waiting.catch(() => {})
  })

  test('closes when what is unanswered is answered, at the latest when its time has passed; a wait is not waited for', async () => {
    const session = await open({ closeTimeoutMs: 10_000 })
    const last = session.commit({ id: 'last' })
    const waiting = failure(session.wait({ id: 'w' }))
    const [command] = await received(2)
    const closed = session.close()
    expect((await failure(session.commit({ id: 'late' }))).code).toBe('disconnected')
    coordinator.reply(command!, { status: 'committed' })
    expect(await last).toEqual({ status: 'committed' })
    await closed
    expect((await waiting).code).toBe('disconnected')
    await until(() => coordinator.last.closed)
    const hasty = await open({ closeTimeoutMs: 20 })
    const unanswered = failure(hasty.commit({ id: 'x' }))
    await received(1)
    await hasty.close()
    expect((await unanswered).code).toBe('uncertain')
    expect(states.at(-1)).toBe('closed')
  })

  test('registers names durably, is told of refusals, and says them again in its next hello', async () => {
    const session = await open()
    await session.registerChecker('orders', { databaseId: 'db-1', check: () => 'commit' })
    await session.registerHandlers({ ping: () => {}, pong: () => {} }, { barrier: { databaseId: 'db-2' } })
    await session.registerHandlers({ plain: () => {} })
    const registered = coordinator.last.items
      .filter((item) => item.type === 'register')
      .map(({ registration }) => registration)
    expect(registered).toEqual([
      { checkers: ['orders'], handlers: [], steps: [], databaseId: 'db-1' },
      { checkers: [], handlers: ['ping', 'pong'], steps: [], databaseId: 'db-2' },
      { checkers: [], handlers: ['plain'], steps: [], databaseId: '' },
    ])
    expect((await failure(session.registerHandlers({ ping: () => {} }))).code).toBe('invalidArgument')
    expect((await failure(session.registerChecker('Not a name', () => 'commit'))).code).toBe(
      'invalidArgument',
    )
    coordinator.registrationError = new EscrowError('storeUnavailable', 'away')
    expect((await failure(session.registerChecker('other', () => 'commit'))).code).toBe('storeUnavailable')
    coordinator.registrationError = undefined
    await session.registerChecker('other', () => 'commit')
    coordinator.last.stream.close(new EscrowError('shuttingDown', 'killed'))
    await until(() => coordinator.sessions.length === 2)
    await until(() => coordinator.last.items.length === 3)
    expect(coordinator.last.hello.registration).toEqual({
      checkers: ['orders'],
      handlers: [],
      steps: [],
      databaseId: 'db-1',
    })
    expect(coordinator.last.items.map((item) => item.type === 'register' && item.registration)).toMatchObject(
      [{ handlers: ['ping', 'pong'] }, { handlers: ['plain'] }, { checkers: ['other'] }],
    )
  })
})

test('a request over the limit of a frame is refused, and the session goes on', async () => {
  const coordinator = new FakeCoordinator()
  coordinator.answer = agreeable
  // A place in the window that it kept would be the last one.
  coordinator.commandsMax = 1
  const reach = await reachByGrpc(coordinator)
  const session = await connect(reach.open, { service: 'orders' })
  const large = { ...message, body: new Uint8Array(4 << 20) }
  expect((await failure(session.prepare({ ...prepare, messages: [large] }))).code).toBe('tooLarge')
  expect(await session.prepare(prepare)).toMatchObject({ status: 'prepared' })
  await session.close()
  await reach.close()
})

test('options out of their range are refused', async () => {
  for (const options of [
    { service: 'A' },
    { service: 'a', deliveriesMax: -1 },
    { service: 'a', namespace: 'B' },
    { service: 'a', connectTimeoutMs: 0 },
  ]) {
    expect((await failure(connect('127.0.0.1:1', options))).code).toBe('invalidArgument')
  }
})
