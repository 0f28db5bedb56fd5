import { describe, expect, test } from 'vitest'
import type { StoreCall } from '../../src/store/memory.ts'
import { answerOf } from './fake-step-outlet.ts'
import { endOf, Ledger, openSagas, quick, restartWith, sagaOf, startSaga, undoable } from './saga-world.ts'
import type { World } from './world.ts'

/** Four steps, the last two at once with a third: `d` is refused, so that all is undone. */
const order = sagaOf((all) => [
  undoable(all, 'a', quick),
  undoable(all, 'b', quick),
  undoable(all, 'c', quick),
  undoable(all, 'd', quick),
])
/** The same with a way forward only from `p` on. */
const forward = sagaOf(
  (all) => [
    undoable(all, 'a', quick),
    all.delay(300),
    undoable(all, 'b', quick),
    all.pivot('p', { action: 'shop/p', ...quick }),
    all.step('z', { action: 'shop/z', ...quick }),
    all.send('tell', { to: 'shop/receive', ...quick }),
  ],
  { name: 'forward' },
)
const both = [order, forward]

interface Run {
  readonly world: World
  readonly ledger: Ledger
  readonly id: string
}

async function open(databaseId: string): Promise<{ world: World; ledger: Ledger }> {
  const world = await openSagas(both, { databaseId })
  const ledger = new Ledger()
  world.steps.take = (request) => answerOf(ledger.do(request, request.step === 'd'))
  return { world, ledger }
}

/** Runs a saga, with the coordinator killed at one call of the store, if any; counts the calls. */
async function run(
  saga: string,
  kill: { readonly nth: number; readonly moment: StoreCall['moment'] } | undefined,
): Promise<Run & { readonly calls: StoreCall['method'][] }> {
  const { world, ledger } = await open('db')
  const calls: StoreCall['method'][] = []
  let isKilled = false
  world.hook = ({ method, moment }) => {
    if (isKilled) return
    if (moment === 'before') calls.push(method)
    if (kill === undefined || moment !== kill.moment || calls.length !== kill.nth) return
    isKilled = true
    world.coordinator.kill()
  }
  const id = 'the-one'
  const asked = world.ask('startSaga', { saga, id })
  // Long enough for all of it, a checkpoint, and what a killed one leaves to others.
  await world.clock.advance(4_000)
  if (kill === undefined) return { world, ledger, id, calls }
  world.hook = () => {}
  await restartWith(world, both, 1_000)
  if (asked.response === undefined) await startSaga(world, { saga, id })
  return { world, ledger, id, calls }
}

async function judge({ world, ledger, id }: Run, saga: string): Promise<void> {
  const end = await endOf(world, id)
  expect(end.status).toBe(saga === 'order' ? 'compensated' : 'completed')
  const done = saga === 'order' ? ['a', 'b', 'c', '-c', '-b', '-a'] : ['a', 'b', 'p', 'z']
  expect(ledger.of(id)).toEqual(done)
  const sent = world.participants.bodies('shop/receive')
  if (saga === 'order') expect(sent).toEqual([])
  else expect(sent.length).toBeGreaterThanOrEqual(1)
  const logged = world.logged.filter((text) => text.startsWith('error'))
  expect(logged).toEqual([])
}

describe.each(['order', 'forward'])('%s, with a crash', (saga) => {
  test.each(['before', 'after'] as const)('%s each call of the store', async (moment) => {
    const unharmed = await run(saga, undefined)
    await judge(unharmed, saga)
    const appends = unharmed.calls.filter((method) => method === 'append').length
    expect(appends).toBeGreaterThanOrEqual(saga === 'order' ? 8 : 6)
    expect(unharmed.calls).toContain('checkpoint')
    for (let nth = 1; nth <= unharmed.calls.length; nth++) {
      await judge(await run(saga, { nth, moment }), saga).catch((error) => {
        throw new Error(`killed ${moment} call ${nth}, ${unharmed.calls[nth - 1]}`, { cause: error })
      })
    }
  })

  test('and at each call that a participant takes or has taken', async () => {
    for (const isTaken of [false, true]) {
      for (let nth = 1; nth <= (saga === 'order' ? 7 : 4); nth++) {
        const { world, ledger } = await open('db')
        let calls = 0
        world.steps.take = (request) => {
          if (++calls === nth) world.coordinator.kill()
          return calls === nth && !isTaken ? 'silence' : answerOf(ledger.do(request, request.step === 'd'))
        }
        const id = await startSaga(world, { saga })
        await world.clock.until(() => calls >= nth)
        await restartWith(world, both, 500)
        await judge({ world, ledger, id }, saga)
      }
    }
  })
})

test('a call that was lost with its coordinator is made again with the same execution and attempt', async () => {
  const { world } = await open('')
  world.steps.take = () => 'silence'
  const id = await startSaga(world)
  await world.clock.advance(100)
  await restartWith(world, both, 60_000)
  await world.clock.advance(100)
  expect(world.steps.calls.map(({ request }) => [request.transactionId, request.attempt])).toEqual([
    [id, 1],
    [id, 1],
  ])
  const [one, other] = world.steps.calls
  expect(one?.request.executionId).toBe(other?.request.executionId)
})

test('one that was lost in flight may have happened, whatever the next attempt is told without a barrier', async () => {
  const { world } = await open('')
  world.steps.take = () => 'silence'
  const id = await startSaga(world)
  await world.clock.advance(100)
  world.steps.take = () => answerOf('refused')
  await restartWith(world, both)
  await world.clock.advance(2_000)
  const { status, saga } = await endOf(world, id)
  expect([status, saga?.executions[0]?.compensation]).toEqual(['parked', 'parked'])
})

test('what was answered by a coordinator that was replaced changes nothing', async () => {
  const { world, ledger } = await open('db')
  const answer = Promise.withResolvers<ReturnType<typeof answerOf>>()
  const take = world.steps.take
  world.steps.take = () => answer.promise
  const id = await startSaga(world, { saga: 'forward' })
  await world.clock.advance(100)
  // It lives on as a zombie, which has an answer to write that nobody may read.
  world.steps.take = take
  await world.start({ sagas: both.map(({ program }) => program) })
  answer.resolve(answerOf('refused'))
  await judge({ world, ledger, id }, 'forward')
})

test('a hundred crashes in a row: each saga ends, and its ledger is right', async () => {
  const { world, ledger } = await open('db')
  const ids: string[] = []
  for (let at = 0; at < 100; at++) {
    const id = `s${at}`
    ids.push(id)
    world.ask('startSaga', { saga: at % 2 === 0 ? 'order' : 'forward', id })
    await world.clock.advance(Math.floor(world.clock.random() * 60))
    await restartWith(world, both, world.clock.random() < 0.1 ? 1_000 : 0)
  }
  for (const [at, id] of ids.entries()) {
    const saga = at % 2 === 0 ? 'order' : 'forward'
    await startSaga(world, { saga, id })
    expect((await endOf(world, id)).status).toBe(saga === 'order' ? 'compensated' : 'completed')
    expect(ledger.of(id)).toEqual(saga === 'order' ? ['a', 'b', 'c', '-c', '-b', '-a'] : ['a', 'b', 'p', 'z'])
  }
})
