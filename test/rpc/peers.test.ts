import { afterEach, describe, expect, test } from 'vitest'
import type { OperationRequest } from '../../src/core/api.ts'
import { EscrowError } from '../../src/core/errors.ts'
import type { Destination, Namespace } from '../../src/core/ids.ts'
import { connect } from '../../src/participant/connect.ts'
import { NODE_COMMANDS_MAX } from '../../src/rpc/node-guest.ts'
import { WAITS_MAX } from '../../src/rpc/session-host.ts'
import type { HelloItem } from '../../src/wire/items.ts'
import { until } from './fake-coordination.ts'
import { type Answer, callStep, forward, introduce, type Node, nodeHello, startNode } from './node-fixture.ts'
import { checkBack, deliver, hello, Peer } from './session-fixture.ts'

const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

async function start(options: Parameters<typeof startNode>[0] = {}): Promise<Node> {
  const node = await startNode(options)
  closers.push(() => node.stop())
  return node
}

/** Nodes that are linked, each with each. */
async function cluster(count: number): Promise<Node[]> {
  const nodes = await Promise.all(Array.from({ length: count }, () => start()))
  introduce(...nodes)
  await until(() => nodes.every(({ hosts }) => hosts.size === count - 1), 'all are linked')
  for (const node of nodes) await until(() => node.log.length === count - 1, 'all are welcome')
  return nodes
}

async function pair(): Promise<[Node, Node]> {
  const [a, b] = await cluster(2)
  return [a as Node, b as Node]
}

async function service(node: Node, given: Partial<HelloItem> = {}): Promise<Peer> {
  const peer = await Peer.welcomed(node.target, given)
  closers.push(() => peer.stream.close())
  return peer
}

const namespace = 'default' as Namespace
const reserve = 'inventory/reserve' as Destination
const serving = (databaseId = '') => ({
  registration: { handlers: ['reserve'], checkers: ['orders'], steps: ['reserve'], databaseId },
})
const answered = (answer: Answer) => until(() => answer.count > 0, 'it is answered')
const taken = (node: Node, count: number) =>
  until(() => node.coordination.taken.length === count, `${count} have arrived`)
const served = (node: Node, databaseId?: string) =>
  until(() => node.participants.route(namespace, reserve, databaseId) !== undefined, 'it is served')
const unserved = (node: Node) =>
  until(() => node.participants.route(namespace, reserve, undefined) === undefined, 'nobody serves it')
const refused = (code: string) => expect.objectContaining({ code })

describe('a command that another node owns', () => {
  test('reaches it once, as it is, and its answer comes back', async () => {
    const [a, b] = await pair()
    const request = { namespace: 'shop', id: '{k}~s-1.1', checker: 'orders', messages: [] }
    const answer = forward(a, b, { op: 'prepare', request }, 7000)
    expect(answer.count).toBe(0)
    await taken(b, 1)
    const [command] = b.coordination.taken
    expect(command).toMatchObject({ op: 'prepare', request })
    expect(command?.options).toMatchObject({ fresh: false, isForwarded: true })
    const waitsMs = (command?.options.deadlineMs ?? 0) - Date.now()
    expect(waitsMs > 5000 && waitsMs <= 7000).toBe(true)
    command?.reply(undefined, { id: 'x', executionId: 'e', status: 'prepared' })
    await answered(answer)
    expect(answer).toMatchObject({ error: undefined, response: { status: 'prepared' } })
    expect(a.coordination.taken).toEqual([])
  })

  test('ends in whatever it is refused with, at once and without another attempt', async () => {
    const [a, b] = await pair()
    for (const code of ['notFound', 'overloaded', 'notOwner', 'storeUnavailable', 'uncertain'] as const) {
      const answer = forward(a, b, { op: 'commit', request: { id: code } })
      await until(() => (b.coordination.taken.at(-1)?.request as { id: string })?.id === code, 'it arrived')
      b.coordination.taken.at(-1)?.reply(new EscrowError(code, 'no'))
      await answered(answer)
      expect(answer.error?.code).toBe(code)
    }
    expect(b.coordination.taken.length).toBe(5)
  })

  test('is not sent where there is no link, or no such node', async () => {
    const [a, b] = [await start(), await start()]
    const strange = forward(a, b, { op: 'commit', request: { id: 'x' } })
    a.links.follow([b.info])
    const early = forward(a, b, { op: 'commit', request: { id: 'x' } })
    expect([strange.count, early.count]).toEqual([0, 0])
    await Promise.all([answered(strange), answered(early)])
    expect([strange.error, early.error]).toEqual([refused('notOwner'), refused('notOwner')])
    expect(b.coordination.taken).toEqual([])
  })

  test('is uncertain when the link is lost before its answer, and a read is not; neither is sent again', async () => {
    const [a, b] = await pair()
    const commit = forward(a, b, { op: 'commit', request: { id: 'x' } })
    const get = forward(a, b, { op: 'get', request: { id: 'x' } })
    const wait = forward(a, b, { op: 'wait', request: { id: 'x' } })
    await taken(b, 3)
    b.links.close()
    b.coordination.known.splice(0)
    await b.stop()
    await Promise.all([commit, get, wait].map(answered))
    expect([commit, get, wait].map(({ error }) => error?.code)).toEqual(['uncertain', 'notOwner', 'notOwner'])
    expect([commit, get, wait].map(({ count }) => count)).toEqual([1, 1, 1])
    expect(b.coordination.taken.length).toBe(3)
  })

  test('finds its node again after the link was lost', async () => {
    const [a, b] = await pair()
    const lost = forward(a, b, { op: 'commit', request: { id: 'x' } })
    await taken(b, 1)
    // The new link takes the place of the one that node b still believes in.
    const usurper = await service(b, nodeHello(a.info, 'abc-1'))
    await answered(lost)
    expect(lost.error?.code).toBe('uncertain')
    let again = forward(a, b, { op: 'commit', request: { id: 'y' } })
    await until(async () => {
      if (again.count > 0) again = forward(a, b, { op: 'commit', request: { id: 'y' } })
      return b.coordination.taken.length === 2
    }, 'it arrives over the next link')
    expect(usurper.ends).toEqual([])
  })

  test('whose node is killed costs a service nothing but a pause: its session sends it again', async () => {
    const [a, b] = await pair()
    const session = await connect(a.target, { service: 'orders', closeTimeoutMs: 0 })
    closers.push(() => session.close())
    const commit = session.commit({ id: 'x' })
    await taken(a, 1)
    const [command] = a.coordination.taken
    const { op, request, reply, options } = command!
    a.links.forward(b.info.node, { op, request } as OperationRequest, reply, options)
    await taken(b, 1)
    await b.stop()
    await taken(a, 2)
    a.coordination.taken[1]?.reply(undefined, { status: 'committed' })
    expect(await commit).toEqual({ status: 'committed' })
  })

  test('is refused when its deadline has passed, and no sooner given up', async () => {
    const [a, b] = await pair()
    const late = forward(a, b, { op: 'commit', request: { id: 'x' } }, 0)
    const silent = forward(a, b, { op: 'commit', request: { id: 'y' } }, 60)
    await Promise.all([answered(late), answered(silent)])
    expect([late.error?.code, silent.error?.code]).toEqual(['deadlineExceeded', 'uncertain'])
    expect(b.coordination.taken.map(({ request }) => (request as { id: string }).id)).toEqual(['y'])
  })

  test('is refused as overloaded beyond the windows, of commands and of waits', async () => {
    const [a, b] = await pair()
    const many = Array.from({ length: NODE_COMMANDS_MAX }, () =>
      forward(a, b, { op: 'commit', request: { id: 'x' } }, 60_000),
    )
    const waits = Array.from({ length: WAITS_MAX }, () =>
      forward(a, b, { op: 'wait', request: { id: 'x' } }, 60_000),
    )
    const commit = forward(a, b, { op: 'commit', request: { id: 'x' } })
    const wait = forward(a, b, { op: 'wait', request: { id: 'x' } })
    await Promise.all([answered(commit), answered(wait)])
    expect([commit.error?.code, wait.error?.code]).toEqual(['overloaded', 'overloaded'])
    // Here, before anything is sent.
    for (const { error } of [commit, wait]) expect(error?.message).toContain(b.info.node)
    await taken(b, NODE_COMMANDS_MAX + WAITS_MAX)
    expect([...many, ...waits].filter(({ count }) => count > 0)).toEqual([])
    for (const { op, reply } of b.coordination.taken)
      reply(op === 'wait' ? new EscrowError('notFound', 'no') : undefined, { status: 'committed' })
    await until(() => [...many, ...waits].every(({ count }) => count === 1), 'all are answered')
    const next = forward(a, b, { op: 'commit', request: { id: 'x' } })
    await taken(b, NODE_COMMANDS_MAX + WAITS_MAX + 1)
    expect(next.count).toBe(0)
  })

  test('is answered by a node that drains, and nothing more is sent there once it refuses', async () => {
    const [a, b] = [await start(), await start({ drainGraceMs: 20, drainMsMax: 10_000 })]
    introduce(a, b)
    await until(() => a.log.length === 1, 'a is welcome')
    const before = forward(a, b, { op: 'commit', request: { id: 'x' } })
    await taken(b, 1)
    const drained = b.hosts.drain()
    await until(async () => {
      const probe = forward(a, b, { op: 'commit', request: { id: 'probe' } })
      b.coordination.taken.slice(1).forEach(({ reply }) => void reply(new EscrowError('notFound', 'no')))
      await until(() => probe.count > 0 || b.coordination.taken.length > 1, 'an answer')
      b.coordination.taken.splice(1).forEach(({ reply }) => void reply(new EscrowError('notFound', 'no')))
      await answered(probe)
      return probe.error?.code === 'notOwner'
    }, 'it refuses')
    expect(before.count).toBe(0)
    b.coordination.taken[0]?.reply(undefined, { status: 'committed' })
    await answered(before)
    expect(before.error).toBe(undefined)
    await drained
  })
})

describe('a node that says hello', () => {
  test('must be in the directory, under this very incarnation', async () => {
    const [a, b] = await pair()
    const sizes = b.hosts.size
    for (const incarnation of ['', 'guessed']) {
      const stranger = new Peer(b.target)
      stranger.send(hello(nodeHello({ node: a.info.node, incarnation }, 'abc-1')))
      expect(await stranger.end()).toBe('unauthorized')
    }
    expect(b.hosts.size).toBe(sizes)
    // A stranger doesn't end the link that it names.
    const answer = forward(a, b, { op: 'get', request: { id: 'x' } })
    await taken(b, 1)
    expect(answer.count).toBe(0)
  })

  test('goes on from its own link and ends that first; a service can not', async () => {
    const b = await start()
    const info = { node: 'a:1', incarnation: 'i' }
    b.coordination.known.push(info)
    const first = await service(b, nodeHello(info))
    const other = await service(b, { previousSession: first.welcome.session })
    expect([first.ends, other.ends]).toEqual([[], []])
    first.command(1, 'commit', { id: 'x' })
    await taken(b, 1)
    const second = await service(b, nodeHello(info, first.welcome.session))
    expect(await first.end()).toBe('disconnected')
    expect(second.ends).toEqual([])
  })

  test('tells whose names these are, within bounds; what it can not tell is refused and changes nothing', async () => {
    const b = await start()
    const info = { node: 'a:1', incarnation: 'i' }
    b.coordination.known.push(info)
    const node = await service(b, nodeHello(info))
    const owner = { namespace: '', service: 'inventory' }
    const { registration } = serving()
    const steps = Array.from({ length: 29_998 }, (_, i) => `s${i}`)
    node.send({ type: 'register', number: 1, registration })
    node.send({ type: 'register', number: 2, registration, owner: { ...owner, service: 'No Name' } })
    node.send({
      type: 'register',
      number: 3,
      registration: { ...registration, handlers: ['No Name'] },
      owner,
    })
    node.send({ type: 'register', number: 4, registration, owner })
    const many = { handlers: [], checkers: [], steps, databaseId: 'd' }
    node.send({ type: 'register', number: 5, registration: many, owner })
    node.send({ type: 'register', number: 6, registration: { ...many, steps: steps.slice(1) }, owner })
    const outcomes = await node.next('registered', 6)
    expect(outcomes.map(({ error }) => error?.code)).toEqual([
      'invalidArgument',
      'invalidArgument',
      'invalidArgument',
      undefined,
      'tooLarge',
      undefined,
    ])
    expect(node.ends).toEqual([])
    expect(b.coordination.registered).toEqual([])
    expect(b.participants.route(namespace, reserve, '')).toBeDefined()
  })

  test('is one only by its hello: a service that answers as a node ends its session', async () => {
    const b = await start()
    const peer = await service(b)
    peer.send({ type: 'noSession', callId: 1, error: '' })
    expect(await peer.end()).toBe('malformed')
  })
})

describe('a participant that is connected to another node', () => {
  test('is called from here: deliveries, check-backs and steps, by database', async () => {
    const [a, b] = await pair()
    const [one, two] = [await service(a, serving('d1')), await service(a, serving('d2'))]
    await Promise.all([served(b, 'd1'), served(b, 'd2')])
    expect(b.participants.route(namespace, reserve, 'd3')).toBe(undefined)
    const delivered = deliver(b.participants, { databaseId: 'd2' })
    const checked = checkBack(b.participants, { databaseId: 'd1' })
    const done = callStep(b.participants, 'd2')
    const [delivery] = await two.next('delivery')
    const [question] = await one.next('checkBack')
    const [step] = await two.next('step')
    expect(delivery?.request).toMatchObject({ service: 'inventory', handler: 'reserve', timeoutMs: 5000 })
    expect(step?.request).toMatchObject({ step: 'reserve', input: '{"n":1}', operation: 'action' })
    // What only nodes are told, a service is not.
    expect([delivery, question, step].map((call) => call?.databaseId)).toEqual(Array(3).fill(undefined))
    const { callId } = delivery!
    two.send({ type: 'deliveryAnswer', callId, response: { outcome: 'refused', error: 'no such order' } })
    const bodies = [{ index: 0, body: Buffer.from('b') }]
    const commit = { resolution: 'commit', bodies, error: '' } as const
    one.send({ type: 'checkBackAnswer', callId: question!.callId, response: commit })
    const result = Buffer.from('1')
    const response = { outcome: 'done', result, code: '', error: '' } as const
    two.send({ type: 'stepAnswer', callId: step!.callId, response })
    await until(() => delivered.length + checked.length + done.length === 3, 'all are answered')
    expect(delivered).toEqual([{ outcome: 'refused', error: 'no such order' }])
    expect(checked).toMatchObject([{ resolution: 'commit', bodies: [{ index: 0 }] }])
    expect(done).toMatchObject([{ outcome: 'done' }])
    expect([one, two].map((peer) => peer.items.length)).toEqual([2, 3])
  })

  test('has its calls end as unknown once nothing is heard of its node, although the connection is open', async () => {
    const [a, b] = await pair()
    const one = await service(a, serving())
    await served(b)
    const done = callStep(b.participants, '', 60_000)
    await one.next('step')
    // Another one of the same name: not this one.
    b.hosts.leftBy({ ...a.info, incarnation: 'of another process' })
    expect(b.hosts.size).toBe(1)
    b.links.follow([])
    expect(b.hosts.size).toBe(0)
    await until(() => done.length === 1, 'it is unknown')
    expect(done).toMatchObject([{ outcome: 'unknown' }])
    // It was alive after all: it comes back, and is called again.
    await served(b)
  })

  test('is asked only where nobody here has room', async () => {
    const [a, b] = await pair()
    const there = await service(a, { ...serving(), deliveriesMax: 8 })
    await served(b)
    const here = await service(b, { ...serving(), deliveriesMax: 2 })
    for (let i = 0; i < 3; i++) deliver(b.participants)
    await Promise.all([here.next('delivery', 2), there.next('delivery', 1)])
    expect([here.of('delivery').length, there.of('delivery').length]).toEqual([2, 1])
  })

  test('without room is no attempt, and whoever waits is told of room', async () => {
    const [a, b] = await pair()
    const one = await service(a, { ...serving(), deliveriesMax: 1 })
    await served(b)
    const mine = deliver(a.participants)
    const [first] = await one.next('delivery')
    const rooms: string[] = []
    b.participants.onRoom((_, what) => rooms.push(JSON.stringify(what)))
    const turnedAway = deliver(b.participants)
    await until(() => turnedAway.length === 1, 'it is turned away')
    expect(turnedAway).toMatchObject([{ outcome: 'noSession' }])
    // Nobody is sent there again before there is a reason.
    expect(b.participants.route(namespace, reserve, undefined)).toBe(undefined)
    one.send({ type: 'deliveryAnswer', callId: first!.callId, response: { outcome: 'delivered', error: '' } })
    await until(() => mine.length === 1 && rooms.length > 0, 'there is room')
    await served(b)
    const retried = deliver(b.participants)
    const [, second] = await one.next('delivery', 2)
    one.send({
      type: 'deliveryAnswer',
      callId: second!.callId,
      response: { outcome: 'delivered', error: '' },
    })
    await until(() => retried.length === 1, 'it is answered')
    expect(retried).toMatchObject([{ outcome: 'delivered' }])
  })

  test('that comes, changes and goes is known here; others of its service still count', async () => {
    const [a, b] = await pair()
    const one = await service(a, serving('d1'))
    await served(b, 'd1')
    const two = await service(a, serving('d1'))
    one.stream.close()
    await until(() => a.hosts.size === 2, 'one is gone')
    deliver(b.participants, { databaseId: 'd1' })
    await two.next('delivery')
    two.send({ type: 'register', number: 1, registration: { ...serving('d2').registration } })
    await served(b, 'd2')
    await until(() => b.participants.route(namespace, reserve, 'd1') === undefined, 'd1 is gone')
    two.stream.close()
    await unserved(b)
  })

  test('that was there before the link is known by it, and forgotten with it; its calls end as unknown', async () => {
    const [a, b] = [await start(), await start()]
    const one = await service(a, serving())
    introduce(a, b)
    await served(b)
    const outcomes = [deliver(b.participants), callStep(b.participants), checkBack(b.participants)]
    await Promise.all([one.next('delivery'), one.next('step'), one.next('checkBack')])
    a.links.follow([])
    await unserved(b)
    await until(() => outcomes.every((each) => each.length === 1), 'all have ended')
    expect(outcomes).toMatchObject([
      [{ outcome: 'unknown' }],
      [{ outcome: 'unknown' }],
      [{ resolution: 'unknown' }],
    ])
  })

  test('is never reached over a third node, neither by name nor by call', async () => {
    const [a, b, c] = (await Promise.all([start(), start(), start()])) as [Node, Node, Node]
    introduce(a, b)
    introduce(b, c)
    b.coordination.known.push(a.info)
    b.links.follow([a.info, c.info])
    const own = await service(b, { ...serving('own'), deliveriesMax: 1 })
    const far = await service(a, serving('own'))
    await Promise.all([served(c, 'own'), served(b, 'own')])
    // The one session of b has its window full, so that b would call a's by itself.
    deliver(b.participants, { databaseId: 'own' })
    await own.next('delivery')
    const outcomes = deliver(c.participants, { databaseId: 'own' })
    await until(() => outcomes.length === 1, 'it is turned away')
    expect(outcomes).toMatchObject([{ outcome: 'noSession' }])
    expect(far.of('delivery')).toEqual([])
    own.stream.close()
    await unserved(c)
    await served(b, 'own')
  })
})

describe('the nodes that are followed', () => {
  test('are linked anew when they come back under their old name, and left when they are gone', async () => {
    const [a, b] = await pair()
    const again = { ...a.info, incarnation: 'another' }
    b.links.follow([again])
    await until(() => b.log.filter((line) => line.startsWith('info')).length === 2, 'linked anew')
    expect(a.hosts.size).toBe(1)
    b.links.follow([])
    await until(() => a.hosts.size === 0, 'left')
  })
})

describe('routing parts', () => {
  test('are told to services when others are best, and to nodes never', async () => {
    const [a, b] = await pair()
    const one = await service(b)
    b.coordination.reroute(['r7'])
    const [item] = await one.next('routings')
    expect(item?.routings).toEqual(['r7'])
    const node = await service(b, nodeHello(a.info))
    b.coordination.reroute(['r8'])
    await one.next('routings', 2)
    node.command(1, 'get', { id: 'x' })
    await taken(b, 1)
    b.coordination.taken[0]?.reply(new EscrowError('notFound', 'no'))
    await node.next('failure')
    expect(node.of('routings')).toEqual([])
  })
})
