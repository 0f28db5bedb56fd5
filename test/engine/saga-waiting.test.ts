import { describe, expect, test } from 'vitest'
import { answerOf, type FakeStepParticipants } from './fake-step-outlet.ts'
import {
  endOf,
  executionsOf,
  line,
  openSagas,
  quick,
  restartWith,
  sagaOf,
  saying,
  startSaga,
  undoable,
  view,
} from './saga-world.ts'
import { messageTo, openWorld, type World } from './world.ts'

const manySteps = Array.from({ length: 100 }, (_, at) => `s${at}`)

/** Counts loads from the store; each of one that is in memory is none. */
function countLoads(world: World): () => number {
  let loads = 0
  world.hook = ({ method, moment }) => {
    if (method === 'load' && moment === 'before') loads += 1
  }
  return () => loads
}

/** Whether a saga is out of memory now: a read has to load it. */
async function hasLeft(world: World, id: string): Promise<boolean> {
  const loads = countLoads(world)
  await view(world, id)
  world.hook = () => {}
  return loads() > 0
}

describe('a step is in flight', () => {
  const patient = { ...quick, attemptTimeoutMs: 3_600_000 }

  test.each([
    ['the saga', sagaOf(line(['a'], patient), { timeoutMs: 5_000 })],
    ['the step', sagaOf(line(['a'], { ...patient, stepTimeoutMs: 5_000 }))],
  ])('I6: the time-out of %s comes, though no answer does', async (_, saga) => {
    const world = await openSagas([saga])
    world.steps.take = saying({ a: () => 'silence' })
    const id = await startSaga(world)
    await world.clock.advance(4_000)
    expect((await view(world, id)).status).toBe('running')
    await world.clock.advance(2_000)
    expect((await view(world, id)).status).not.toBe('running')
  })
})

describe('nobody is there', () => {
  test('a call waits for its participant, without attempts, and goes when it comes', async () => {
    const world = await openSagas([sagaOf(line(['a', 'b'], quick))])
    world.steps.steps.delete('shop/b')
    const ids = [await startSaga(world), await startSaga(world), await startSaga(world)]
    await world.clock.advance(60_000)
    expect(world.steps.names).toEqual(['a', 'a', 'a'])
    world.steps.comes('shop/b')
    await world.clock.advance(50)
    const calls = world.steps.calls.slice(3)
    expect(calls.map(({ request }) => [request.transactionId, request.attempt])).toEqual(
      ids.map((id) => [id, 1]),
    )
    for (const id of ids) expect((await endOf(world, id)).status).toBe('completed')
  })

  test('a compensation waits for its participant as well, across a restart', async () => {
    const saga = sagaOf(line(['a', 'b'], quick))
    const world = await openSagas([saga])
    world.steps.take = saying({
      b: () => {
        world.steps.steps.delete('shop/a')
        return answerOf('refused')
      },
    })
    const id = await startSaga(world)
    await world.clock.advance(10_000)
    await restartWith(world, [saga], 5_000)
    await world.clock.advance(10_000)
    expect([(await view(world, id)).status, world.steps.names]).toEqual(['compensating', ['a', 'b']])
    world.steps.comes('shop/a')
    expect((await endOf(world, id, 1_000)).status).toBe('compensated')
  })

  test('one that goes away between the decision and the call: no attempt, and it is called when it is back', async () => {
    const world = await openSagas([sagaOf(line(['a', 'b'], quick))])
    let missed = 0
    world.steps.missed = () => {
      missed += 1
    }
    world.hook = ({ method, moment }) => {
      if (method === 'append' && moment === 'before' && world.steps.names.length === 1)
        world.steps.steps.delete('shop/b')
    }
    const id = await startSaga(world)
    await world.clock.advance(1_000)
    expect([missed, world.steps.names]).toEqual([1, ['a']])
    world.hook = () => {}
    world.steps.comes('shop/b')
    expect((await endOf(world, id)).status).toBe('completed')
    expect(world.steps.calls.map(({ request }) => request.attempt)).toEqual([1, 1])
  })

  test('room is not outrun: no more are under way than the window has', async () => {
    const world = await openSagas([sagaOf(line(['a']))])
    world.steps.window = 3
    world.steps.take = () =>
      new Promise((resolve) => world.clock.setTimer(() => resolve(answerOf('done')), 10))
    for (let at = 0; at < 20; at++) world.ask('startSaga', { saga: 'order' })
    await world.clock.until(() => world.steps.calls.length === 20 && world.steps.unanswered === 0)
    expect(world.steps.unansweredMax).toBe(3)
  })

  test('too many for memory (heldMax) are postponed, leave memory, and all of them are called in the end', async () => {
    const world = await openSagas([sagaOf(line(['a'], { retry: { delayMs: 20_000, delayMsMax: 20_000 } }))], {
      bounds: { checkpointRowsMax: 5, heldMax: 2 },
    })
    world.steps.steps.delete('shop/a')
    const ids: string[] = []
    for (let at = 0; at < 10; at++) ids.push(await startSaga(world))
    await world.clock.advance(4_000)
    const left = []
    for (const id of ids) if (await hasLeft(world, id)) left.push(id)
    expect(left.length).toBe(8)
    world.steps.comes('shop/a')
    await world.clock.advance(100)
    expect(world.steps.calls.length).toBe(2)
    await world.clock.advance(21_000)
    expect(world.steps.calls.map(({ request }) => request.attempt)).toEqual(ids.map(() => 1))
    for (const id of ids) expect((await view(world, id)).status).toBe('completed')
  })

  test('a call that was lost with its coordinator and is postponed may have happened: it is undone', async () => {
    const saga = sagaOf(line(['a', 'b'], { ...quick, stepTimeoutMs: 20_000 }))
    const world = await openSagas([saga], { databaseId: 'db' })
    world.steps.take = saying({ b: () => 'silence' })
    const id = await startSaga(world)
    await world.clock.advance(100)
    world.steps.steps.delete('shop/b')
    await restartWith(world, [saga], 0, { bounds: { heldMax: 0 } })
    await world.clock.advance(21_000)
    world.steps.comes('shop/b', 'db')
    const end = await endOf(world, id)
    expect([end.status, world.steps.names]).toEqual(['compensated', ['a', 'b', '-b', '-a']])
  })

  test('calls that nobody waits for any more take no room from others', async () => {
    const world = await openSagas([sagaOf(line(['a'])), sagaOf(line(['b']), { name: 'other' })], {
      bounds: { checkpointRowsMax: 5, heldMax: 2 },
    })
    world.steps.steps.clear()
    for (let at = 0; at < 2; at++) await world.call('cancel', { id: await startSaga(world) })
    await world.clock.advance(3_000)
    const id = await startSaga(world, { saga: 'other' })
    await world.clock.advance(100)
    world.steps.comes('shop/b')
    expect((await endOf(world, id, 1_000)).status).toBe('completed')
  })

  test('who is there is called, however many wait for somebody else', async () => {
    const saga = sagaOf(line(['a', 'b'], quick))
    const world = await openSagas([saga], { bounds: { heldMax: 0 } })
    let left = 1
    world.steps.take = saying({ b: () => answerOf(left-- > 0 ? 'failed' : 'done') })
    expect((await endOf(world, await startSaga(world), 1_000)).status).toBe('completed')
    expect(world.steps.names).toEqual(['a', 'b', 'b'])
  })

  test('only the database that an execution went to first is asked again', async () => {
    const world = await openSagas([sagaOf(line(['a'], quick))], { databaseId: 'one' })
    world.steps.take = () => {
      world.steps.steps.set('shop/a', 'two')
      return answerOf('failed')
    }
    const id = await startSaga(world)
    await world.clock.advance(10_000)
    expect(world.steps.calls.length).toBe(1)
    world.steps.take = () => answerOf('done')
    world.steps.comes('shop/a', 'one')
    expect((await endOf(world, id)).status).toBe('completed')
    expect(world.steps.calls.at(-1)).toMatchObject({ databaseId: 'one', request: { attempt: 2 } })
  })
})

describe('memory', () => {
  const delayed = sagaOf((all) => [undoable(all, 'a'), all.delay(600_000), undoable(all, 'b')])

  test.each([0, 1, 3])(
    'a delay far ahead leaves memory after a checkpoint and comes back when it is due, %s restarts later',
    async (restarts) => {
      const world = await openSagas([delayed])
      const id = await startSaga(world)
      await world.clock.advance(4_000)
      expect(await hasLeft(world, id)).toBe(true)
      for (let at = 0; at < restarts; at++) {
        await restartWith(world, [delayed])
        await world.clock.advance(4_000)
      }
      await world.clock.advance(590_000 - restarts * 4_000)
      expect(world.steps.names).toEqual(['a'])
      // Log time stands still from the last heartbeat, up to 5 s before each kill.
      await world.clock.advance(7_000 + restarts * 5_000)
      expect(world.steps.names).toEqual(['a', 'b'])
      await world.clock.advance(3_000)
      expect(await hasLeft(world, id), 'what has ended leaves as well').toBe(true)
      expect((await view(world, id)).status).toBe('completed')
    },
  )

  test('a signal brings a waiting saga back; it costs no memory before', async () => {
    const saga = sagaOf(({ waitFor }) => [waitFor('go', { timeoutMs: 3_600_000, onTimeout: 'fail' })], {
      signals: ['go'],
    })
    const world = await openSagas([saga])
    const id = await startSaga(world)
    await world.clock.advance(4_000)
    const loads = countLoads(world)
    await world.call('signal', { id, signal: 'go' })
    expect(loads()).toBe(1)
    expect((await endOf(world, id)).status).toBe('completed')
  })

  test('a retry far ahead leaves memory and comes back', async () => {
    const world = await openSagas([
      sagaOf(line(['a'], { retry: { delayMs: 600_000, delayMsMax: 600_000, attemptsMax: 2 } })),
    ])
    world.steps.take = saying({ a: () => answerOf('failed') })
    const id = await startSaga(world)
    await world.clock.advance(4_000)
    expect(await hasLeft(world, id)).toBe(true)
    await world.clock.advance(600_000)
    expect((await view(world, id)).status).toBe('compensated')
    expect(world.steps.names).toEqual(['a', 'a'])
  })

  test.each(['held', 'in flight'])('a timer rings in time while another branch is %s', async (how) => {
    const saga = sagaOf((all) => [
      all.parallel(undoable(all, 'a', { attemptTimeoutMs: 600_000 }), [
        all.delay(20_000),
        undoable(all, 'b'),
      ]),
    ])
    const world = await openSagas([saga])
    if (how === 'held') world.steps.steps.delete('shop/a')
    else world.steps.take = saying({ a: () => 'silence' })
    await startSaga(world)
    await world.clock.advance(19_000)
    expect(world.steps.names).not.toContain('b')
    await world.clock.advance(1_100)
    expect(world.steps.names).toContain('b')
  })

  test('a delivery is tried again in time while another one of its message waits for somebody', async () => {
    const world = await openWorld()
    world.participants.handlers.delete('bank/receive')
    world.participants.deliver = () => ({ outcome: 'failed', error: '' })
    await world.commit({
      messages: [messageTo('bank/receive', 'x'), messageTo('shop/receive', 'x')],
      retry: { delayMs: 20_000, delayMsMax: 20_000, attemptsMax: 9 },
    })
    await world.clock.advance(21_000)
    expect(world.participants.deliveries.length).toBeGreaterThan(1)
  })

  test('more steps under way than one look decides: all are called again after a restart', async () => {
    const saga = sagaOf((all) => [all.parallel(...manySteps.map((name) => undoable(all, name)))])
    const world = await openSagas([saga])
    world.steps.take = () => 'silence'
    await startSaga(world)
    await world.clock.advance(100)
    expect(world.steps.calls.length).toBe(100)
    await restartWith(world, [saga])
    await world.clock.advance(200)
    expect(new Set(world.steps.names.slice(100)).size).toBe(100)
  })
})

describe('limits', () => {
  const slow = (steps: FakeStepParticipants, world: World): void => {
    steps.take = () => new Promise((resolve) => world.clock.setTimer(() => resolve(answerOf('done')), 100))
  }

  test('concurrencyMax: no more of a step are under way at once, and all are done', async () => {
    const world = await openSagas([sagaOf(line(['a'], { concurrencyMax: 2 }))])
    slow(world.steps, world)
    for (let at = 0; at < 10; at++) world.ask('startSaga', { saga: 'order' })
    await world.clock.until(() => world.steps.calls.length === 10 && world.steps.unanswered === 0)
    expect(world.steps.unansweredMax).toBe(2)
  })

  test('concurrencyMax holds one step back, not another one', async () => {
    const world = await openSagas([
      sagaOf((all) => [all.parallel(undoable(all, 'a', { concurrencyMax: 1 }), undoable(all, 'b'))]),
    ])
    world.steps.take = () => 'silence'
    for (let at = 0; at < 3; at++) await startSaga(world)
    await world.clock.advance(100)
    expect(world.steps.names.toSorted()).toEqual(['a', 'b', 'b', 'b'])
  })

  test('ratePerSecond: a second’s worth at once, then at that pace', async () => {
    const world = await openSagas([sagaOf(line(['a'], { ratePerSecond: 5 }))])
    for (let at = 0; at < 30; at++) world.ask('startSaga', { saga: 'order' })
    await world.clock.advance(20)
    expect(world.steps.calls.length).toBe(5)
    const seen: number[] = []
    for (let second = 0; second < 6; second++) {
      await world.clock.advance(1_000)
      seen.push(world.steps.calls.length)
    }
    expect(seen[0]).toBeGreaterThanOrEqual(9)
    expect(seen[1], 'no faster').toBeLessThanOrEqual(15)
    expect(seen.at(-1)).toBe(30)
  })
})

describe('definitions', () => {
  const one = sagaOf(line(['a', 'b']))
  const two = sagaOf(line(['a', 'b', 'c']), { version: 2 })

  test('a saga runs the version that it began with; several run side by side', async () => {
    const world = await openSagas([one])
    world.steps.steps.delete('shop/b')
    const old = await startSaga(world)
    await world.clock.advance(100)
    await restartWith(world, [one, two])
    await world.coordinator.engine.register('default' as never, 'shop', {
      checkers: [],
      handlers: [],
      steps: ['c'],
      databaseId: '',
    })
    world.steps.comes('shop/c')
    const fresh = await startSaga(world)
    const pinned = await startSaga(world, { version: 1 })
    world.steps.comes('shop/b')
    const ends = [await endOf(world, old), await endOf(world, fresh), await endOf(world, pinned)]
    expect(ends.map(({ saga }) => saga?.version)).toEqual([1, 2, 1])
    expect(ends.map(executionsOf)).toEqual([
      ['a done', 'b done'],
      ['a done', 'b done', 'c done'],
      ['a done', 'b done'],
    ])
  })

  test('a definition that is missing holds its sagas, with an error; they go on where it is there again', async () => {
    const world = await openSagas([one])
    world.steps.steps.delete('shop/b')
    const ids = [await startSaga(world), await startSaga(world)] as const
    await world.clock.advance(5_000)
    await restartWith(world, [two])
    world.steps.comes('shop/b')
    await world.clock.advance(10_000)
    expect(world.steps.names).toEqual(['a', 'a'])
    const errors = world.logged.filter((text) => text.startsWith('error'))
    expect(errors).toEqual([expect.stringContaining('order version 1')])
    expect((await view(world, ids[0])).status).toBe('running')
    expect(await world.codeOf('cancel', { id: ids[0] })).toBe('definitionMissing')
    await restartWith(world, [one, two])
    for (const id of ids) expect((await endOf(world, id)).status).toBe('completed')
  })

  test('another definition under the same version is refused at the start, and nothing is claimed for it', async () => {
    const world = await openSagas([one])
    world.coordinator.kill()
    const changed = sagaOf(line(['a', 'c']))
    await expect(world.start({ sagas: [changed.program] })).rejects.toMatchObject({
      code: 'definitionChanged',
      message: expect.stringContaining('order version 1'),
    })
    await world.start({ sagas: [one.program] })
    expect((await endOf(world, await startSaga(world))).status).toBe('completed')
  })

  const notAnyMore = () => {
    throw new Error('not any more')
  }
  test.each([
    ['is not taken any more', notAnyMore],
    ['is another saga now', () => one.program],
  ])('a routing slip that %s holds its sagas, and nothing else', async (_, compileSlip) => {
    const world = await openSagas([one])
    world.steps.steps.delete('shop/b')
    const slip = Buffer.from(JSON.stringify({ steps: [{ name: 'b', action: 'shop/b', pivot: true }] }))
    const { id } = await world.call('startSaga', { saga: '', slip })
    await world.clock.advance(3_000)
    await restartWith(world, [one], 0, { compileSlip })
    world.steps.comes('shop/b')
    await world.clock.advance(3_000)
    expect((await endOf(world, await startSaga(world))).status).toBe('completed')
    expect((await view(world, id)).status).toBe('running')
    expect(world.logged.filter((text) => text.startsWith('error'))).toHaveLength(1)
    await restartWith(world, [one])
    expect((await endOf(world, id)).status).toBe('completed')
  })
})
