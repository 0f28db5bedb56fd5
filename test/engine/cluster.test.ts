import { describe, expect, test } from 'vitest'
import { EscrowError } from '../../src/core/errors.ts'
import { type Namespace, SLOTS, slotOf } from '../../src/core/ids.ts'
import { assign } from '../../src/engine/assignment.ts'
import { noteOwner, readCluster } from '../../src/engine/cluster-entries.ts'
import { Liveness } from '../../src/engine/liveness.ts'
import { openMemoryStore } from '../../src/store/memory.ts'
import { ClusterWorld, LEASE_MS, type Node } from './cluster-world.ts'
import { failing, gate, prepareOf } from './world.ts'

/** What the issue allows a takeover beside the lease. */
const BESIDE_LEASE_MS = 2_000

async function openCluster(names: readonly string[], logs = 16): Promise<ClusterWorld> {
  const world = new ClusterWorld({ logs })
  for (const name of names) await world.startNode(name)
  await world.introduce()
  await world.balanced()
  return world
}

const logOf = (world: ClusterWorld, id: string): number =>
  Math.floor((slotOf(id) * world.disk.logs.length) / SLOTS)

const idsOf = (count: number): string[] => Array.from({ length: count }, (_, i) => `order-${i}`)

describe('assignment', () => {
  const nodes = ['a:1', 'b:1', 'c:1']

  test('is the same for the same nodes in any order, and leaves nobody out', () => {
    expect(assign(16, nodes)).toEqual(assign(16, [...nodes].reverse()))
    for (const node of nodes)
      expect(assign(16, nodes).filter((each) => each === node).length).toBeGreaterThan(3)
    expect(assign(16, ['a:1'])).toEqual(new Array(16).fill('a:1'))
  })

  test('moves few logs when a node comes or goes', () => {
    for (let seed = 0; seed < 50; seed++) {
      const before = assign(
        64,
        nodes.map((node) => `${node}${seed}`),
      )
      const after = assign(
        64,
        [...nodes, 'd:1'].map((node) => `${node}${seed}`),
      )
      const moved = before.filter((node, log) => node !== after[log]).length
      // A fourth node takes 16 of 64; the bound on each moves some more.
      expect(moved).toBeLessThan(36)
    }
  })
})

describe('liveness', () => {
  test('counts no time in which the store could not be looked at, and none in which this side slept', () => {
    const liveness = new Liveness(500)
    const beats = (version: number) => new Map([['a', { version }]])
    liveness.look(beats(1), 0)
    liveness.look(beats(1), 500)
    expect(liveness.silentMs('a')).toBe(500)
    liveness.look(beats(1), 7_200_500)
    expect(liveness.silentMs('a')).toBe(1_500)
    liveness.look(beats(2), 7_201_000)
    expect(liveness.silentMs('a')).toBe(0)
    expect(liveness.silentMs('b')).toBe(0)
  })
})

describe('a cluster', () => {
  test('one node has every log, and the second takes its share while requests go on', async () => {
    const world = await openCluster(['a:1'])
    expect(world.owned()).toEqual({ 'a:1': Array.from({ length: 16 }, (_, log) => log) })
    const answers = idsOf(50).map((id) => world.ask('prepare', prepareOf({ id })))
    await world.startNode('b:1')
    await world.balanced()
    const owned = world.owned()
    expect(owned['a:1']?.length).toBe(8)
    await world.clock.until(() => answers.every(({ count }) => count === 1))
    expect(answers.map(({ error }) => error?.code)).toEqual(answers.map(() => undefined))
    // Each node answers for every id, whoever has it.
    for (const id of idsOf(50)) {
      for (const of of world.nodes.values())
        expect((await world.call('get', { id }, { of })).status).toBe('prepared')
    }
  })

  test('a killed node is replaced within its lease and 2 s, and what it had goes on', async () => {
    const world = await openCluster(['a:1', 'b:1', 'c:1'])
    for (const id of idsOf(60)) await world.call('prepare', prepareOf({ id }))
    const [, second] = [...world.nodes.values()]
    const at = world.clock.monotonic()
    world.killNode(second as Node)
    await world.balanced(LEASE_MS + BESIDE_LEASE_MS)
    expect(world.clock.monotonic() - at).toBeLessThanOrEqual(LEASE_MS + BESIDE_LEASE_MS)
    for (const id of idsOf(60)) {
      for (const of of world.nodes.values())
        expect((await world.call('commit', { id }, { of })).status).toMatch(/committed|delivered/)
    }
    await world.clock.advance(2_000)
    for (const id of idsOf(60)) expect(await world.status(id)).toBe('delivered')
  })

  test('a node that stops in good order gives its logs up at once', async () => {
    const world = await openCluster(['a:1', 'b:1'])
    const [first] = [...world.nodes.values()]
    const at = world.clock.monotonic()
    let isStopped = false
    void first?.engine.stop().then(() => {
      isStopped = true
    })
    await world.clock.until(() => isStopped)
    world.nodes.delete('a:1')
    await world.balanced()
    expect(world.clock.monotonic() - at).toBeLessThan(LEASE_MS / 2)
    const [last] = [...world.nodes.values()]
    expect(last?.engine.nodes().nodes.map(({ node }) => node)).toEqual(['b:1'])
  })

  test('a node that comes back under its name needs no lease to pass', async () => {
    const world = await openCluster(['a:1'])
    await world.call('prepare', prepareOf({ id: 'order-1' }))
    const [node] = [...world.nodes.values()]
    world.killNode(node as Node)
    const at = world.clock.monotonic()
    await world.startNode('a:1')
    await world.balanced()
    expect(world.clock.monotonic() - at).toBeLessThan(1_000)
    expect(await world.status('order-1')).toBe('prepared')
  })

  test('two processes under one name: the earlier one gives way and says so', async () => {
    const world = await openCluster(['a:1'])
    const [earlier] = [...world.nodes.values()]
    await world.startNode('a:1')
    await world.clock.advance(LEASE_MS)
    expect(world.logged.join('\n')).toContain('another process announces itself as a:1')
    expect(earlier?.engine.health()).toMatchObject({ state: 'degraded' })
    expect(world.owned()).toEqual({ 'a:1': Array.from({ length: 16 }, (_, log) => log) })
  })

  test('names that were registered at one node are known at every other at once', async () => {
    const world = await openCluster(['a:1', 'b:1'])
    const [a, b] = [...world.nodes.values()]
    const names = { checkers: ['returns'], handlers: [], databaseId: '' }
    let isKnown = false
    void a?.engine.register('default' as Namespace, 'shop', names).then(() => {
      isKnown = true
    })
    await world.clock.until(() => isKnown)
    const answer = world.ask('prepare', prepareOf({ checker: 'returns' }), { of: b as Node })
    await world.clock.until(() => answer.count > 0)
    expect(answer.error).toBeUndefined()
    const unknown = world.ask('prepare', prepareOf({ checker: 'nobody' }), { of: b as Node })
    await world.clock.until(() => unknown.count > 0)
    expect(unknown.error?.code).toBe('unknownChecker')
  })

  test('a node that was stopped past its lease lets nothing leave, and gives way', async () => {
    const world = await openCluster(['a:1', 'b:1'])
    const [a, b] = [...world.nodes.values()]
    const mine = idsOf(200).filter((id) => world.owned()['a:1']?.includes(logOf(world, id)))
    for (const id of mine) await world.call('prepare', prepareOf({ id }), { of: a as Node })
    // It stops with an append on its way.
    const stopped = gate('append', 'after')
    world.hook = stopped.hook
    const late = world.ask('commit', { id: mine[0] as string }, { of: a as Node, timeoutMs: 60_000 })
    await world.clock.until(() => stopped.waiting.length > 0)
    world.hook = () => {}
    const thaw = (a as Node).freeze()
    await world.clock.advance(LEASE_MS + BESIDE_LEASE_MS)
    world.nodes.delete('a:1')
    await world.balanced()
    // The one that took over knows of the commit, which had reached the store, and delivers it.
    await world.clock.until(() => world.participants.deliveries.length > 0)
    const before = world.participants.deliveries.length
    thaw()
    world.nodes.set('a:1', a as Node)
    stopped.open()
    await world.clock.advance(LEASE_MS)
    expect(world.participants.deliveries.length).toBe(before)
    expect(late.count).toBeLessThanOrEqual(1)
    expect((await world.call('get', { id: mine[0] as string }, { of: b as Node })).status).toBe('delivered')
  })

  test('a log that is damaged is tried again after growing pauses, and the others go on', async () => {
    const world = await openCluster(['a:1'], 4)
    const [node] = [...world.nodes.values()]
    world.killNode(node as Node)
    const [first] = world.disk.logs
    // Its tail is gone: a gap.
    Object.assign(first!.row, { head: first!.row.head + 1 })
    const epoch = () => world.disk.logs[0]!.row.epoch
    const before = epoch()
    await world.startNode('a:1')
    await world.clock.advance(60_000)
    expect(world.owned()['a:1']).toEqual([1, 2, 3])
    expect(epoch() - before).toBeGreaterThan(5)
    expect(epoch() - before).toBeLessThan(12)
    expect(world.logged.join('\n')).toMatch(/log 0: log 0.* segment 1/)
  })

  test('the store away for two hours: nobody is taken for dead, and every log is where it was', async () => {
    const world = await openCluster(['a:1', 'b:1'], 4)
    const before = world.owned()
    const epochs = world.disk.logs.map(({ row }) => row.epoch)
    let isAway = true
    world.hook = () => {
      if (isAway) throw new EscrowError('storeUnavailable', 'away')
    }
    await world.clock.advance(2 * 3_600_000)
    isAway = false
    await world.clock.advance(10_000)
    expect(world.owned()).toEqual(before)
    expect(world.disk.logs.map(({ row }) => row.epoch)).toEqual(epochs)
    for (const { engine } of world.nodes.values()) expect(engine.health().state).toBe('ready')
  })
})

describe('handing a log over', () => {
  test('begins nothing that would be lost, and lets what is under way end', async () => {
    const world = await openCluster(['a:1'], 4)
    world.participants.deliver = async () => {
      await new Promise<void>((resolve) => world.clock.setTimer(resolve, 300))
      return { outcome: 'delivered', error: '' }
    }
    // Of one key one after the other: each end would begin the next.
    const keys = Array.from({ length: 16 }, (_, customer) => String(customer * 7_919))
    const ids: string[] = []
    for (const orderingKey of keys)
      for (let order = 0; order < 12; order++) ids.push((await world.prepare({ orderingKey })).id)
    for (const id of ids) world.ask('commit', { id })
    await world.startNode('b:1')
    await world.balanced()
    await world.clock.advance(10_000)
    const brought = world.participants.deliveries.map(({ request }) => request.transactionId)
    expect(brought.toSorted()).toEqual(ids.toSorted())
  })

  test('refuses what is asked meanwhile, so that it may be asked elsewhere', async () => {
    const world = await openCluster(['a:1'], 2)
    const [a] = [...world.nodes.values()]
    world.participants.deliver = async () => {
      await new Promise<void>((resolve) => world.clock.setTimer(resolve, 1_500))
      return { outcome: 'delivered', error: '' }
    }
    const ids = idsOf(20)
    for (const id of ids) await world.call('prepare', prepareOf({ id }))
    for (const id of ids) world.ask('commit', { id })
    await world.startNode('b:1')
    await world.clock.advance(700)
    const answers = ids.map((id) => world.ask('get', { id }, { of: a as Node }))
    await world.clock.advance(100)
    expect(answers.filter(({ error }) => error?.code === 'notOwner').length).toBeGreaterThan(2)
    await world.balanced()
  })
})

describe('what nodes know of each other', () => {
  test('a claim that is older than the one that is noted is not noted', async () => {
    const { directory } = openMemoryStore()
    const noted = async (): Promise<string | undefined> => (await readCluster(directory)).owners.get(3)?.node
    await noteOwner(directory, 3, { node: 'b:1', incarnation: 'b', epoch: 2 })
    await noteOwner(directory, 3, { node: 'a:1', incarnation: 'a', epoch: 1 })
    expect(await noted()).toBe('b:1')
    await noteOwner(directory, 3, { node: '', incarnation: '', epoch: 2 })
    expect(await noted()).toBe('')
  })

  test('what was sent on once is not sent on again', async () => {
    const world = await openCluster(['a:1', 'b:1', 'c:1'])
    const [a] = [...world.nodes.values()]
    const id = idsOf(50).find((each) => !world.owned()['a:1']?.includes(logOf(world, each))) as string
    const errors: (string | undefined)[] = []
    a?.engine.request({ op: 'get', request: { id } }, (error) => void errors.push(error?.code), {
      deadlineMs: world.clock.now() + 10_000,
      fresh: false,
      isForwarded: true,
    })
    await world.clock.advance(100)
    expect(errors).toEqual(['notOwner'])
    expect(await world.codeOf('get', { id })).toBe('notFound')
  })

  test('what begins without an id is minted by the node that has its log', async () => {
    const world = await openCluster(['a:1', 'b:1'])
    for (const of of world.nodes.values()) {
      for (let customer = 0; customer < 20; customer++) {
        const orderingKey = `customer ${customer}`
        const { id } = await world.call('prepare', prepareOf({ orderingKey }), { of })
        expect(id).toContain(`{${encodeURIComponent(orderingKey)}}`)
      }
    }
  })

  test('a node that slept past its lease drives nothing that others have by now', async () => {
    const world = await openCluster(['a:1', 'b:1'])
    const [a] = [...world.nodes.values()]
    const thaw = (a as Node).freeze()
    world.nodes.delete('a:1')
    await world.balanced()
    thaw()
    // One look, and nothing that would come upon the fence by itself.
    world.hook = failing('checkpoint', 'before')
    await world.clock.advance(LEASE_MS / 10 + 50)
    const mine = a?.engine.nodes().nodes.find(({ node }) => node === 'a:1')?.logs ?? []
    for (const { log, epoch } of mine) expect(epoch, `log ${log}`).toBe(world.disk.logs[log]?.row.epoch)
  })

  test('what failed about a log is forgotten with the log', async () => {
    const world = await openCluster(['a:1', 'b:1'], 4)
    const [a, b] = [...world.nodes.values()]
    const id = idsOf(50).find((each) => world.owned()['a:1']?.includes(logOf(world, each))) as string
    const log = logOf(world, id)
    await world.call('prepare', prepareOf({ id }))
    world.hook = failing('append', 'before')
    world.ask('rollback', { id }, { of: a as Node })
    await world.clock.advance(300)
    expect(a?.engine.health().state).toBe('degraded')
    // Somebody else has it, as after a cut between this node and the store.
    const store = openMemoryStore(world.disk)
    const { claimed } = await store.log.claim(log)
    const known = (await readCluster(store.directory)).nodes.get(b?.name ?? '')?.value
    const incarnation = known?.incarnation ?? ''
    await noteOwner(store.directory, log, { node: b?.name ?? '', incarnation, epoch: claimed.epoch })
    await world.clock.until(() => !world.owned()['a:1']?.includes(log))
    expect(a?.engine.health()).toEqual({ state: 'ready', reason: '' })
  })

  test('names are read in the end, however often the store fails at it', async () => {
    const world = await openCluster(['a:1'], 2)
    const told: string[] = []
    await world.startNode('b:1', { onListener: ({ url }) => told.push(url) })
    const [a] = [...world.nodes.values()]
    const names = { checkers: [], handlers: ['take'], databaseId: '' }
    let isKnown = false
    void a?.engine.registerUrl('default' as Namespace, 'returns', 'http://returns:1', names).then(() => {
      isKnown = true
    })
    await world.clock.until(() => isKnown)
    // Looks at the cluster are one list, and get through; names are four.
    let lists = 0
    world.hook = ({ method, moment }) => {
      if (method !== 'list' || moment !== 'before') return
      lists += 1
      if (lists % 3 !== 0) throw new EscrowError('storeUnavailable', 'away')
    }
    await world.clock.advance(3_000)
    expect(told).toEqual([])
    world.hook = () => {}
    await world.clock.advance(2_000)
    expect(told).toContain('http://returns:1')
  })

  test('a list is as new as the logs of all nodes', async () => {
    const world = await openCluster(['a:1', 'b:1'])
    await world.clock.advance(10_000)
    for (const of of world.nodes.values()) {
      const { asOfMs } = await world.call('list', {}, { of })
      expect(world.clock.now() - asOfMs).toBeLessThan(10_000)
    }
  })
})

describe('minting', () => {
  test('no two claims mint the same execution, and sessions mint ids of logs that their node has', async () => {
    const world = await openCluster(['a:1', 'b:1'])
    const seen = new Set<string>()
    for (const of of world.nodes.values()) {
      for (let i = 0; i < 20; i++) {
        const { executionId, id } = await world.call('prepare', prepareOf(), { of })
        expect(seen.has(executionId)).toBe(false)
        seen.add(executionId)
        expect(world.owned()[of.name]).toContain(logOf(world, id))
      }
      for (const routing of of.engine.openSession().routings)
        expect(world.owned()[of.name]).toContain(logOf(world, `{${routing}}x`))
    }
  })
})
