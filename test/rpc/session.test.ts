import { Client, credentials } from '@grpc/grpc-js'
import { afterEach, describe, expect, test } from 'vitest'
import { mintTransactionId } from '../../src/core/ids.ts'
import type { Runtime } from '../../src/core/runtime.ts'
import { systemRuntime } from '../../src/runtime.ts'
import { serviceCodec } from '../../src/wire/frame.ts'
import { SESSION_SERVICE } from '../../src/wire/session-service.ts'
import { until } from './fake-coordination.ts'
import { checkBack, deliver, hello, Peer, type SessionServer, startSessions } from './session-fixture.ts'

const servers: SessionServer[] = []
const peers: Peer[] = []
afterEach(async () => {
  for (const peer of peers.splice(0)) peer.stream.close()
  await Promise.all(servers.splice(0).map((server) => server.stop()))
})

async function start(...given: Parameters<typeof startSessions>): Promise<SessionServer> {
  const server = await startSessions(...given)
  servers.push(server)
  return server
}

async function welcomed(
  server: SessionServer,
  ...given: Parameters<typeof Peer.welcomed> extends [string, ...infer Rest] ? Rest : never
) {
  const peer = await Peer.welcomed(server.target, ...given)
  peers.push(peer)
  return peer
}

function peerOf(server: SessionServer): Peer {
  const peer = new Peer(server.target)
  peers.push(peer)
  return peer
}

/** A session that sends what no client of ours would. */
function rawCall(server: SessionServer, { isReading = true } = {}) {
  const client = new Client(server.target, credentials.createInsecure(), {
    'grpc.max_send_message_length': -1,
  })
  const { path, requestSerialize, responseDeserialize } = SESSION_SERVICE.connect
  const call = client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize)
  const end = { details: '', code: -1 }
  if (isReading) call.on('data', () => {})
  call.on('error', () => {})
  call.on('status', ({ details, code }) => {
    Object.assign(end, { details, code })
    client.close()
  })
  return { call, end }
}

describe('a hello', () => {
  test('is answered with the session, its window, its routings and the limits', async () => {
    const server = await start()
    const { welcome } = await welcomed(server)
    expect(welcome).toEqual({
      type: 'welcome',
      session: 'abc-1',
      commandsMax: 4096,
      routings: ['r1', 'r2'],
      limits: server.coordination.limits,
    })
  })

  test('is answered only once its names are durable, and nothing is sent before that', async () => {
    const server = await start()
    let open = (): void => {}
    server.coordination.gate = new Promise((resolve) => {
      open = resolve
    })
    const peer = peerOf(server)
    peer.send(hello())
    await until(() => server.hosts.size === 1, 'the stream is there')
    expect(await settled(deliver(server.participants))).toMatchObject([{ outcome: 'noSession' }])
    expect(peer.items).toEqual([])
    open()
    await peer.next('welcome')
    expect(server.coordination.registered).toMatchObject([{ namespace: 'default', service: 'inventory' }])
    deliver(server.participants)
    await peer.next('delivery')
    expect(peer.items.map(({ type }) => type)).toEqual(['welcome', 'delivery'])
  })

  test.each([
    ['a service without a name', hello({ service: '' }), 'invalidArgument'],
    ['a handler whose name is none', hello({ registration: names(['Reserve It']) }), 'invalidArgument'],
    ['a namespace that does not exist', hello({ namespace: 'elsewhere' }), 'unknownNamespace'],
    [
      'a thousand and one handlers',
      hello({ registration: names(Array.from({ length: 1001 }, (_, i) => `h${i}`)) }),
      'tooLarge',
    ],
    ['handlers, but no window for them', hello({ deliveriesMax: 0 }), 'invalidArgument'],
    [
      'a database id of a kilobyte',
      hello({ registration: { ...names([]), databaseId: 'd'.repeat(1000) } }),
      'invalidArgument',
    ],
  ])('with %s is refused, and leaves nothing behind', async (_, given, code) => {
    const server = await start()
    const peer = peerOf(server)
    peer.send(given)
    expect(await peer.end()).toBe(code)
    expect(peer.items).toEqual([])
    await until(() => server.hosts.size === 0, 'it is gone')
  })

  test('comes first, once, and in time', async () => {
    const server = await start({ helloTimeoutMs: 1_000 })
    const [early, twice, silent] = [peerOf(server), await welcomed(server), rawCall(server)]
    early.command(1, 'get', { id: 'a' })
    expect(await early.end()).toBe('malformed')
    twice.send(hello())
    expect(await twice.end()).toBe('malformed')
    await until(() => silent.end.details !== '', 'the silent one was ended')
    expect(silent.end.details).toContain('malformed: no hello came within 1000 ms')
    expect(server.coordination.taken).toEqual([])
  })

  test('is followed by nothing before the welcome', async () => {
    const server = await start()
    server.coordination.gate = new Promise(() => {})
    const peer = peerOf(server)
    peer.send(hello())
    peer.command(1, 'get', { id: 'a' })
    expect(await peer.end()).toBe('malformed')
    expect(server.coordination.taken).toEqual([])
  })

  test('beyond the bound of sessions is overloaded', async () => {
    const server = await start({ sessionsMax: 1 })
    const first = await welcomed(server)
    const second = peerOf(server)
    second.send(hello())
    expect(await second.end()).toBe('overloaded')
    first.stream.close()
    await until(() => server.hosts.size === 0, 'the first is gone')
    await welcomed(server)
  })
})

describe('what a session does wrong ends it, and no other', () => {
  test('a frame that is malformed', async () => {
    const server = await start()
    const other = await welcomed(server)
    const { call, end } = rawCall(server)
    call.write(Buffer.from([8, 1, 0xff, 0xff]))
    await until(() => end.details !== '', 'it was ended')
    expect(end).toMatchObject({ code: 3, details: expect.stringContaining('malformed: malformed frame: ') })
    await answersStill(server, other)
  })

  test('a frame over the frame limit, and one over the limit of gRPC', async () => {
    const server = await start({}, { frameBytesMax: 100_000 })
    const other = await welcomed(server)
    const [long, absurd] = [rawCall(server), rawCall(server)]
    long.call.write(Buffer.alloc(100_001))
    absurd.call.write(Buffer.alloc(5 << 20))
    await until(() => long.end.code > 0 && absurd.end.code > 0, 'both were ended')
    expect(long.end.details).toContain(
      'tooLarge: a frame of 100001 bytes is over the limit frameBytesMax of 100000',
    )
    expect(absurd.end.code).toBe(8)
    await answersStill(server, other)
  })

  test('a service that does not read holds up nobody else, and gets no more than its bytes', async () => {
    const server = await start()
    const { call, end } = rawCall(server, { isReading: false })
    const encoder = serviceCodec.encoder(3 << 20, (frame) => call.write(frame))
    encoder.append(hello({ deliveriesMax: 1000 }))
    encoder.flush()
    await until(() => server.coordination.registered.length === 1, 'its names are durable')
    const quick = await welcomed(server, { service: 'quick' })
    const body = new Uint8Array(1 << 20)
    let outcomes: ReturnType<typeof deliver> = []
    for (let i = 0; i < 100; i++) outcomes = deliver(server.participants, { body })
    expect(await settled(outcomes)).toMatchObject([
      { outcome: 'noSession', error: expect.stringContaining('window full') },
    ])
    await answersStill(server, quick)
    expect(end.code).toBe(-1)
    call.cancel()
  })

  async function answersStill(server: SessionServer, peer: Peer): Promise<void> {
    const before = server.coordination.taken.length
    const replies = peer.of('reply').length
    peer.command(1, 'commit', { id: 'a' })
    await until(() => server.coordination.taken.length > before, 'the command arrived')
    server.coordination.taken.at(-1)?.reply(undefined, { status: 'committed' })
    await peer.next('reply', replies + 1)
  }
})

describe('a session that goes on from another one', () => {
  test('closes that one before anything of its own is taken', async () => {
    const server = await start()
    const first = await welcomed(server)
    const outcomes = deliver(server.participants)
    await first.next('delivery')
    let open = (): void => {}
    server.coordination.gate = new Promise((resolve) => {
      open = resolve
    })
    const second = peerOf(server)
    second.send(hello({ previousSession: first.welcome.session }))
    expect(await first.end()).toBe('disconnected')
    expect(outcomes).toMatchObject([{ outcome: 'unknown' }])
    expect(second.items).toEqual([])
    open()
    await second.next('welcome')
    await until(() => server.hosts.size === 1, 'one is left')
  })

  test('cannot close that of another service', async () => {
    const server = await start()
    const first = await welcomed(server)
    await welcomed(server, { service: 'intruder', previousSession: first.welcome.session })
    expect(server.hosts.size).toBe(2)
    expect(first.ends).toEqual([])
  })
})

describe('commands', () => {
  test('are answered each for itself, in whatever order', async () => {
    const server = await start()
    const peer = await welcomed(server)
    for (const id of [1, 2, 3]) peer.command(id, 'commit', { id: `t${id}` })
    await until(() => server.coordination.taken.length === 3, 'all arrived')
    const [one, two, three] = server.coordination.taken
    const { EscrowError } = await import('../../src/core/errors.ts')
    three?.reply(undefined, { status: 'committed' })
    one?.reply(new EscrowError('notFound', 'no t1'))
    two?.reply(undefined, { status: 'committed' })
    two?.reply(undefined, { status: 'rolledBack' })
    await peer.next('reply', 2)
    await peer.next('failure')
    expect(peer.items.slice(1)).toMatchObject([
      { type: 'reply', commandId: 3, op: 'commit', response: { status: 'committed' } },
      { type: 'failure', commandId: 1, error: { code: 'notFound', message: 'no t1' } },
      { type: 'reply', commandId: 2 },
    ])
  })

  test('beyond the window are overloaded, those within it are not, and an answer gives its place back', async () => {
    const server = await start({ commandsMax: 2 })
    const peer = await welcomed(server)
    for (const id of [1, 2, 3]) peer.command(id, 'commit', { id: 'a' })
    await peer.next('failure')
    expect(peer.of('failure')).toMatchObject([{ commandId: 3, error: { code: 'overloaded' } }])
    server.coordination.taken[0]?.reply(undefined, { status: 'committed' })
    await peer.next('reply')
    peer.command(4, 'commit', { id: 'a' })
    await until(() => server.coordination.taken.length === 3, 'the fourth was taken')
  })

  test('that wait take no place in the window, but are bounded', async () => {
    const server = await start({ commandsMax: 1 })
    const peer = await welcomed(server)
    for (let id = 1; id <= 10_001; id++) peer.command(id, 'wait', { id: 'a' })
    peer.command(20_000, 'commit', { id: 'a' })
    await until(() => server.coordination.taken.length === 10_001, 'all but one were taken')
    expect(server.coordination.taken.at(-1)?.op).toBe('commit')
    await peer.next('failure')
    expect(peer.of('failure')).toMatchObject([{ commandId: 10_001, error: { code: 'overloaded' } }])
  })

  test('have the deadline of their time-out, 30 s without one', async () => {
    const server = await start()
    const peer = await welcomed(server)
    const before = Date.now()
    peer.command(1, 'get', { id: 'a' }, 1234)
    peer.command(2, 'get', { id: 'a' })
    await until(() => server.coordination.taken.length === 2, 'both arrived')
    const [given, none] = server.coordination.taken.map(({ options }) => options.deadlineMs - before)
    expect(given).toBeGreaterThanOrEqual(1234)
    expect(given).toBeLessThan(1234 + 5000)
    expect(none).toBeGreaterThanOrEqual(30_000)
    expect(none).toBeLessThan(35_000)
  })

  test('are fresh only with the next ids that this very session mints', async () => {
    const server = await start()
    const peer = await welcomed(server)
    const { session } = peer.welcome
    const ids = [
      mintTransactionId('r1', session, 0),
      mintTransactionId('r1', session, 1),
      mintTransactionId('r1', session, 1),
      mintTransactionId('r1', session, 35),
      mintTransactionId('r2', session, 2),
      mintTransactionId('r1', 'abc-9', 40),
      'chosen',
      undefined,
      mintTransactionId('r1', session, 36),
    ]
    for (const [at, id] of ids.entries()) peer.command(at + 1, 'prepare', { id, checker: 'c', messages: [] })
    peer.command(100, 'commit', { id: mintTransactionId('r1', session, 50) })
    await until(() => server.coordination.taken.length === ids.length + 1, 'all arrived')
    expect(server.coordination.taken.map(({ options }) => options.fresh)).toEqual([
      true,
      true,
      false,
      true,
      false,
      false,
      false,
      false,
      true,
      false,
    ])
  })

  test('belong to the namespace of the session', async () => {
    const server = await start()
    const peer = await welcomed(server, { namespace: 'shop' })
    peer.command(1, 'get', { id: 'a' })
    peer.command(2, 'get', { id: 'a', namespace: 'shop' })
    peer.command(3, 'get', { id: 'a', namespace: 'default' })
    await peer.next('failure')
    expect(peer.of('failure')).toMatchObject([{ commandId: 3, error: { code: 'invalidArgument' } }])
    expect(server.coordination.taken.map(({ request }) => request.namespace)).toEqual(['shop', 'shop'])
  })

  test('that meet a defect are answered with internal, and the session goes on', async () => {
    const server = await start()
    const peer = await welcomed(server)
    server.coordination.defect = new Error('boom')
    peer.command(1, 'get', { id: 'a' })
    expect(await peer.next('failure')).toMatchObject([{ commandId: 1, error: { code: 'internal' } }])
    server.coordination.defect = undefined
    peer.command(2, 'get', { id: 'a' })
    await until(() => server.coordination.taken.length === 1, 'the next one arrived')
  })

  test('whose answer fits no frame are tooLarge, and the session goes on', async () => {
    const server = await start({}, { frameBytesMax: 1000 })
    const peer = await welcomed(server)
    peer.command(1, 'list', {})
    peer.command(2, 'list', {})
    await until(() => server.coordination.taken.length === 2, 'both arrived')
    const [one, two] = server.coordination.taken
    one?.reply(undefined, { transactions: [], asOfMs: 1, nextPageToken: 'x'.repeat(2000) })
    two?.reply(undefined, { transactions: [], asOfMs: 1, nextPageToken: '' })
    await peer.next('reply')
    expect(peer.of('failure')).toMatchObject([{ commandId: 1, error: { code: 'tooLarge' } }])
  })
})

describe('registrations after the hello', () => {
  test('are answered once they are durable, and served from then on', async () => {
    const server = await start()
    const peer = await welcomed(server, { registration: names([]) })
    expect(await settled(checkBack(server.participants))).toMatchObject([{ outcome: 'noSession' }])
    peer.send({
      type: 'register',
      number: 1,
      registration: { checkers: ['orders'], handlers: [], databaseId: 'd1' },
    })
    expect(await peer.next('registered')).toMatchObject([{ number: 1, error: undefined }])
    checkBack(server.participants, { databaseId: 'd1' })
    expect(await peer.next('checkBack')).toMatchObject([{ request: { checker: 'orders' } }])
  })

  test('that are refused say so, and the session goes on', async () => {
    const server = await start()
    const peer = await welcomed(server)
    const many = Array.from({ length: 1000 }, (_, i) => `h${i}`)
    peer.send({ type: 'register', number: 1, registration: names(['No Name']) })
    peer.send({ type: 'register', number: 2, registration: names(many) })
    peer.send({ type: 'register', number: 3, registration: names(['release']) })
    const answers = await peer.next('registered', 3)
    expect(answers.map(({ number, error }) => [number, error?.code])).toEqual([
      [1, 'invalidArgument'],
      [2, 'tooLarge'],
      [3, undefined],
    ])
  })

  test('beyond their bound are overloaded', async () => {
    const server = await start()
    const peer = await welcomed(server)
    server.coordination.gate = new Promise(() => {})
    for (let number = 1; number <= 65; number++)
      peer.send({ type: 'register', number, registration: names(['h']) })
    expect(await peer.next('registered')).toMatchObject([{ number: 65, error: { code: 'overloaded' } }])
  })
})

describe('calls to a session', () => {
  test('are answered by it, whatever the order', async () => {
    const server = await start()
    const peer = await welcomed(server, {
      registration: { checkers: ['orders'], handlers: ['reserve'], databaseId: '' },
    })
    const outcomes = [
      deliver(server.participants),
      deliver(server.participants),
      checkBack(server.participants),
    ]
    const [first, second] = await peer.next('delivery', 2)
    const [asked] = await peer.next('checkBack')
    peer.send({
      type: 'checkBackAnswer',
      callId: asked!.callId,
      response: { resolution: 'commit', bodies: [], error: '' },
    })
    peer.send({
      type: 'deliveryAnswer',
      callId: second!.callId,
      response: { outcome: 'refused', error: 'no' },
    })
    peer.send({
      type: 'deliveryAnswer',
      callId: first!.callId,
      response: { outcome: 'delivered', error: '' },
    })
    await until(() => outcomes.every(({ length }) => length === 1), 'all were answered')
    expect(outcomes.flat()).toMatchObject([
      { outcome: 'delivered' },
      { outcome: 'refused', error: 'no' },
      { resolution: 'commit' },
    ])
  })

  test('are unknown once the session is lost', async () => {
    const server = await start()
    const peer = await welcomed(server, {
      registration: { checkers: ['orders'], handlers: ['reserve'], databaseId: '' },
    })
    const delivered = deliver(server.participants)
    const checked = checkBack(server.participants)
    await peer.next('checkBack')
    peer.stream.close()
    await until(() => delivered.length > 0 && checked.length > 0, 'both ended')
    expect(delivered).toMatchObject([{ outcome: 'unknown' }])
    expect(checked).toMatchObject([{ resolution: 'unknown' }])
    expect(await settled(deliver(server.participants))).toMatchObject([{ outcome: 'noSession' }])
  })

  test('are unknown when their time is over, and an answer that comes later is counted and dropped', async () => {
    const server = await start()
    const peer = await welcomed(server)
    const outcomes = deliver(server.participants, { timeoutMs: 30 })
    const [call] = await peer.next('delivery')
    await until(() => outcomes.length > 0, 'its time was over')
    expect(outcomes).toMatchObject([{ outcome: 'unknown', error: 'no answer within 30 ms' }])
    peer.send({ type: 'deliveryAnswer', callId: call!.callId, response: { outcome: 'delivered', error: '' } })
    await until(() => server.participants.answersDropped === 1, 'the answer was dropped')
    expect(outcomes).toHaveLength(1)
  })

  test('answered twice, as something else, or never asked, change nothing', async () => {
    const server = await start()
    const peer = await welcomed(server)
    const outcomes = deliver(server.participants)
    const [call] = await peer.next('delivery')
    const callId = call!.callId
    peer.send({ type: 'checkBackAnswer', callId, response: { resolution: 'commit', bodies: [], error: '' } })
    peer.send({ type: 'deliveryAnswer', callId: 999, response: { outcome: 'delivered', error: '' } })
    for (const outcome of ['failed', 'delivered'] as const) {
      peer.send({ type: 'deliveryAnswer', callId, response: { outcome, error: '' } })
    }
    await until(() => server.participants.answersDropped === 3, 'three answers were dropped')
    expect(outcomes).toMatchObject([{ outcome: 'failed' }])
  })
})

describe('a drain', () => {
  test('lets what is under way finish, refuses new commands after its grace, then ends in good order', async () => {
    // The grace is over when the test says so.
    const drainGraceMs = 60_000
    let endGrace = (): void => {}
    const setTimer: Runtime['setTimer'] = (callback, delayMs) => {
      if (delayMs !== drainGraceMs) return systemRuntime.setTimer(callback, delayMs)
      endGrace = callback
      return () => {}
    }
    const server = await start({ drainGraceMs, runtime: { ...systemRuntime, setTimer } })
    const peer = await welcomed(server)
    const outcomes = deliver(server.participants)
    const [call] = await peer.next('delivery')
    peer.command(1, 'commit', { id: 'a' })
    await until(() => server.coordination.taken.length === 1, 'the command arrived')
    const drained = server.hosts.drain()
    await peer.next('drain')
    peer.command(2, 'commit', { id: 'b' })
    await until(() => server.coordination.taken.length === 2, 'a command within the grace is taken')
    endGrace()
    peer.command(3, 'commit', { id: 'c' })
    expect(await peer.next('failure')).toMatchObject([{ commandId: 3, error: { code: 'shuttingDown' } }])
    for (const { reply } of server.coordination.taken) reply(undefined, { status: 'committed' })
    await peer.next('reply', 2)
    expect(peer.ends).toEqual([])
    peer.send({ type: 'deliveryAnswer', callId: call!.callId, response: { outcome: 'delivered', error: '' } })
    expect(await peer.end()).toBe(undefined)
    await drained
    expect(outcomes).toMatchObject([{ outcome: 'delivered' }])
  })

  test('refuses new sessions, and ends what does not finish in its time', async () => {
    const server = await start({ drainGraceMs: 10, drainMsMax: 50 })
    const peer = await welcomed(server)
    const outcomes = deliver(server.participants)
    await peer.next('delivery')
    const drained = server.hosts.drain()
    const late = peerOf(server)
    late.send(hello())
    expect(await late.end()).toBe('shuttingDown')
    await drained
    expect(await peer.end()).toBe('shuttingDown')
    expect(outcomes).toMatchObject([{ outcome: 'unknown' }])
    expect(server.hosts.size).toBe(0)
  })
})

function names(handlers: readonly string[]) {
  return { checkers: [], handlers, databaseId: '' }
}

async function settled<T>(outcomes: readonly T[]): Promise<readonly T[]> {
  await until(() => outcomes.length > 0, 'an outcome')
  return outcomes
}
