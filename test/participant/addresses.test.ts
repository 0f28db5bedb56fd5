import { afterEach, expect, test } from 'vitest'
import { EscrowError } from '../../src/core/errors.ts'
import { mintedIdParts, routingPart } from '../../src/core/ids.ts'
import { type Addresses, inTurns, parseAddresses } from '../../src/participant/addresses.ts'
import { type ConnectOptions, connect } from '../../src/participant/connect.ts'
import { systemRuntime } from '../../src/runtime.ts'
import { failure, until } from './barrier-world.ts'
import { agreeable, FakeCoordinator, reachByGrpc } from './fake-coordinator.ts'

const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

async function start() {
  const coordinator = new FakeCoordinator()
  coordinator.answer = agreeable
  const reach = await reachByGrpc(coordinator)
  closers.push(reach.close)
  return { coordinator, address: reach.open as string, kill: reach.close }
}

async function open(target: Addresses, first: number, options: Partial<ConnectOptions> = {}) {
  const runtime = { ...systemRuntime, random: () => first }
  const session = await connect(target, { service: 'orders', closeTimeoutMs: 0, runtime, ...options })
  closers.push(() => session.close())
  return session
}

test('addresses are a list, or a text with commas; none is refused', () => {
  expect(parseAddresses('a:1, b:2,')).toEqual(['a:1', 'b:2'])
  expect(parseAddresses(['a:1', ' b:2'])).toEqual(['a:1', 'b:2'])
  for (const none of ['', ' , ', []]) expect(() => parseAddresses(none)).toThrow('no address')
})

test('they are taken in turns, from any one on', () => {
  const firsts = [0, 0.34, 0.99].map((random) => inTurns(['a', 'b', 'c'], random)())
  expect(firsts).toEqual(['a', 'b', 'c'])
  const next = inTurns(['a', 'b', 'c'], 0.99)
  expect([next(), next(), next(), next()]).toEqual(['c', 'a', 'b', 'c'])
})

test('a session whose node is killed goes on at the next one, with what was unanswered', async () => {
  const [a, b] = [await start(), await start()]
  const session = await open(`${a.address},${b.address}`, 0)
  await session.commit({ id: 'x' })
  expect([a.coordinator.sessions.length, b.coordinator.sessions.length]).toEqual([1, 0])
  a.coordinator.answer = undefined
  const unanswered = session.commit({ id: 'y' })
  await until(() => a.coordinator.last.commands.length === 2)
  await a.kill()
  expect(await unanswered).toEqual({ status: 'committed' })
  expect(b.coordinator.last.commands.map(({ commandId }) => commandId)).toEqual([2])
})

test('a node that is not there is passed over; one that says nothing does not take all the time there is', async () => {
  const [dead, silent, b] = [await start(), await start(), await start()]
  await dead.kill()
  silent.coordinator.welcomes = false
  await open([dead.address, silent.address, b.address], 0, { connectTimeoutMs: 1500 })
  expect(b.coordinator.sessions.length).toBe(1)
})

test('a node that drains is left for the next one', async () => {
  const [a, b] = [await start(), await start()]
  const session = await open([a.address, b.address], 0.9)
  expect(b.coordinator.sessions.length).toBe(1)
  b.coordinator.last.stream.send({ type: 'drain' })
  await until(() => a.coordinator.sessions.length === 1)
  await session.commit({ id: 'x' })
  expect(a.coordinator.last.commands.length).toBe(1)
})

test('ids are minted for the node that the session is at, also when logs move', async () => {
  const { coordinator, address } = await start()
  const session = await open(address, 0)
  const routing = async () => {
    const { id } = await session.prepare({ checker: 'orders', messages: [] })
    expect(mintedIdParts(id)).toBeDefined()
    return routingPart(id)
  }
  expect(['a', 'b']).toContain(await routing())
  coordinator.last.stream.send({ type: 'routings', routings: ['moved'] })
  await until(async () => (await routing()) === 'moved')
  // A node that owns nothing knows no better.
  coordinator.last.stream.send({ type: 'routings', routings: [] })
  coordinator.last.stream.send({ type: 'registered', number: 99, error: undefined })
  for (let i = 0; i < 3; i++) expect(await routing()).toBe('moved')
})

test('what a node leaves uncertain is sent again under the same ids, and told as uncertain at its deadline', async () => {
  const { coordinator, address } = await start()
  const session = await open(address, 0)
  const lost = { commit: new EscrowError('uncertain', 'the link to its owner is lost') }
  let left = 2
  coordinator.answer = (command) => (left-- > 0 ? lost : agreeable(command))
  expect(await session.commit({ id: 'x' })).toEqual({ status: 'committed' })
  expect(coordinator.last.commands.map(({ commandId }) => commandId)).toEqual([1, 1, 1])
  // A later "not now" doesn't tell that it was not done.
  left = 1
  const full = { commit: new EscrowError('overloaded', 'full') }
  coordinator.answer = () => (left-- > 0 ? lost : full)
  const error = await failure(session.commit({ id: 'y' }, { timeoutMs: 400 }))
  expect(error).toMatchObject({ code: 'uncertain', cause: { code: 'overloaded' } })
})
