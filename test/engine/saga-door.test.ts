import { describe, expect, test } from 'vitest'
import type { ListRequest, StartRequest } from '../../src/core/api.ts'
import type { ErrorCode } from '../../src/core/errors.ts'
import { LIST_SCANNED_MAX } from '../../src/engine/listing.ts'
import { answerOf, doneWith } from './fake-step-outlet.ts'
import { bytes, endOf, executionsOf, line, openSagas, parsed, sagaOf, startSaga, view } from './saga-world.ts'
import { messageTo, prepareOf, type World } from './world.ts'

const order = sagaOf(line(['a', 'b']), { signals: ['go'] })

describe('what is refused', () => {
  const starts: [string, Partial<StartRequest>, ErrorCode][] = [
    ['a saga that nobody defined', { saga: 'nope' }, 'unknownSaga'],
    ['a version that nobody defined', { version: 7 }, 'unknownVersion'],
    ['an input that is no JSON', { input: Buffer.from('{') }, 'invalidArgument'],
    ['an input that is no UTF-8', { input: Buffer.from([0xff]) }, 'invalidArgument'],
    ['a saga and a slip', { slip: bytes({ steps: [] }) }, 'invalidArgument'],
    ['a slip that is none', { saga: '', slip: bytes({ steps: [] }) }, 'invalidArgument'],
    ['a slip that is no JSON', { saga: '', slip: Buffer.from('{') }, 'invalidArgument'],
    [
      'a slip without a way back',
      { saga: '', slip: bytes({ steps: [{ name: 'x', action: 'shop/a' }] }) },
      'invalidSaga',
    ],
    [
      'a slip with a step that nobody ever served',
      { saga: '', slip: bytes({ steps: [{ name: 'x', action: 'shop/x', pivot: true }] }) },
      'unknownStep',
    ],
    [
      'a slip with a compensation that nobody ever served',
      {
        saga: '',
        slip: bytes({ steps: [{ name: 'x', action: 'shop/a', compensation: 'shop/x' }] }),
      },
      'unknownStep',
    ],
    ['a slip that is too large', { saga: '', slip: new Uint8Array((1 << 20) + 1) }, 'tooLarge'],
    ['a key that is not in the id', { id: 'x', orderingKey: 'k' }, 'orderingKeyMismatch'],
    ['a time-out that is none', { timeoutMs: -1 }, 'invalidArgument'],
    ['a tag that is too long', { tags: { a: 'x'.repeat(257) } }, 'invalidArgument'],
    [
      'tags that are too many',
      { tags: Object.fromEntries(Array.from({ length: 900 }, (_, at) => [`t${at}`, 'x'])) },
      'tooLarge',
    ],
    ['a namespace that nobody configured', { namespace: 'nope' }, 'unknownNamespace'],
    ['a namespace whose steps nobody serves', { namespace: 'other' }, 'unknownStep'],
  ]

  test.each(starts)('start: %s', async (_, request, code) => {
    const world = await openSagas([order])
    expect(await world.codeOf('startSaga', { saga: 'order', ...request })).toBe(code)
    expect([world.steps.names, world.disk.live.size]).toEqual([[], 0])
  })

  test('a step that nobody ever served', async () => {
    const world = await openSagas([order])
    const other = sagaOf(line(['new']), { name: 'other' })
    await world.restart(0, { sagas: [order.program, other.program] })
    // Neither that another saga was found to be served, nor that this one was refused before, makes it known.
    await startSaga(world)
    for (const _ of [1, 2]) expect(await world.codeOf('startSaga', { saga: 'other' })).toBe('unknownStep')
  })

  test('signal, cancel, complete: an unknown saga, signal, execution, a payload that is no JSON', async () => {
    const world = await openSagas([order])
    world.steps.take = () => 'silence'
    const id = await startSaga(world)
    const response = answerOf('done')
    expect([
      await world.codeOf('signal', { id: 'nope', signal: 'go' }),
      await world.codeOf('cancel', { id: 'nope' }),
      await world.codeOf('complete', { id: 'nope', executionId: 'x', response }),
      await world.codeOf('signal', { id, signal: 'stop' }),
      await world.codeOf('signal', { id, signal: 'go', payload: Buffer.from('{') }),
      await world.codeOf('complete', { id, executionId: 'x', response }),
      await world.codeOf('retry', { id, executionId: 'x' }),
      await world.codeOf('retry', { id, executionId: (await view(world, id)).executionId }),
    ]).toEqual([
      'notFound',
      'notFound',
      'notFound',
      'unknownSignal',
      'invalidArgument',
      'unknownExecution',
      'unknownExecution',
      'notParked',
    ])
  })

  test('what only the other kind takes is unsupported, and their ids are one space', async () => {
    const world = await openSagas([order])
    world.steps.take = () => 'silence'
    const saga = await startSaga(world, { id: 'one' })
    const message = (await world.prepare({ id: 'two' })).id
    const response = answerOf('done')
    expect([
      await world.codeOf('commit', { id: saga }),
      await world.codeOf('rollback', { id: saga }),
      await world.codeOf('requestCheckBack', { id: saga }),
      await world.codeOf('signal', { id: message, signal: 'go' }),
      await world.codeOf('cancel', { id: message }),
      await world.codeOf('migrateSaga', { id: message, toVersion: 2 }),
      await world.codeOf('complete', { id: message, executionId: 'x', response }),
      await world.codeOf('startSaga', { saga: 'order', id: message }),
      await world.codeOf('prepare', prepareOf({ id: saga })),
    ]).toEqual([...Array(7).fill('unsupported'), 'idReused', 'idReused'])
    expect([(await view(world, saga)).status, await world.status(message)]).toEqual(['running', 'prepared'])
  })
})

describe('ids', () => {
  test('the same start under an id is one saga, with the same answer, at any time', async () => {
    const world = await openSagas([order])
    const request = {
      saga: 'order',
      id: 'mine',
      input: bytes({ a: 1 }),
      businessKey: 'k',
      tags: { x: '1', y: '2' },
    }
    const both = [world.ask('startSaga', request), world.ask('startSaga', request)]
    await world.clock.until(() => both.every(({ count }) => count === 1))
    expect(both[0]?.response).toEqual(both[1]?.response)
    await endOf(world, 'mine')
    await world.clock.advance(5_000)
    await world.restart(0, { sagas: [order.program] })
    const { executionId } = both[0]?.response ?? {}
    expect(await world.call('startSaga', { ...request, tags: { y: '2', x: '1' } })).toMatchObject({
      id: 'mine',
      executionId,
      status: 'completed',
    })
    expect(world.steps.names).toEqual(['a', 'b'])
  })

  test('a newer version does not make another saga of a repeated start', async () => {
    const newer = sagaOf(line(['a']), { version: 2 })
    const world = await openSagas([order])
    const { executionId } = await world.call('startSaga', { saga: 'order', id: 'mine' })
    await world.restart(0, { sagas: [order.program, newer.program] })
    expect(await world.call('startSaga', { saga: 'order', id: 'mine' })).toMatchObject({
      executionId,
      version: 1,
    })
  })

  const slip = { steps: [{ name: 'a', action: 'shop/a', pivot: true }] }
  test.each<[string, Partial<StartRequest>]>([
    ['input', { input: bytes(2) }],
    ['version', { version: 1 }],
    ['businessKey', { businessKey: 'other' }],
    ['tags', { tags: { a: 'b' } }],
    ['timeoutMs', { timeoutMs: 5_000 }],
    ['slip', { saga: '', slip: bytes(slip) }],
  ])('the same id with another %s is refused', async (_, changes) => {
    const world = await openSagas([order])
    await startSaga(world, { id: 'mine', input: bytes(1) })
    expect(await world.codeOf('startSaga', { saga: 'order', id: 'mine', input: bytes(1), ...changes })).toBe(
      'idReused',
    )
  })
})

test('a finished saga is read back from its row, and after the retention it is expired', async () => {
  const world = await openSagas([sagaOf(line(['a', 'b']), { output: () => [1, 2] })])
  world.steps.take = ({ step }) => doneWith(step)
  const id = await startSaga(world, { businessKey: 'order-7', tags: { colour: 'red' }, input: bytes(1) })
  const fresh = await endOf(world, id)
  await world.clock.advance(5_000)
  expect([world.disk.live.size, [...world.disk.finished.values()][0]?.size]).toEqual([0, 1])
  for (const restart of [false, true]) {
    if (restart) await world.restart(0, { sagas: [] })
    const stored = await view(world, id)
    expect(stored).toEqual({ ...fresh, saga: { ...fresh.saga, state: stored.saga?.state } })
    expect(stored).toMatchObject({
      status: 'completed',
      kind: 'saga',
      saga: { businessKey: 'order-7', tags: { colour: 'red' } },
    })
    expect(parsed(stored.saga?.output)).toEqual([1, 2])
    expect(executionsOf(stored)).toEqual(['a done', 'b done'])
    expect(await world.call('wait', { id })).toEqual(stored)
  }
  await world.clock.advance(60_000)
  expect(world.steps.names, 'it is over').toEqual(['a', 'b'])
})

describe('list', () => {
  async function listed(world: World, request: ListRequest): Promise<string[]> {
    const ids: string[] = []
    let pageToken = ''
    do {
      const page = await world.call('list', { ...request, pageToken })
      ids.push(...page.transactions.map(({ id }) => id))
      if (request.limit !== undefined) expect(page.transactions.length).toBeLessThanOrEqual(request.limit)
      pageToken = page.nextPageToken
    } while (pageToken !== '')
    return ids
  }

  async function filled(): Promise<World> {
    const other = sagaOf(line(['a']), { name: 'other' })
    const world = await openSagas([order, other])
    world.steps.take = () => 'silence'
    await startSaga(world, { id: 's1', businessKey: 'k1', tags: { colour: 'red', size: 'xl' } })
    await startSaga(world, { id: 's2', businessKey: 'k2', tags: { colour: 'red' } })
    await startSaga(world, { id: 's3', saga: 'other', businessKey: 'k1' })
    await world.prepare({ id: 'm1', messages: [messageTo('shop/receive', 'x')] })
    await world.prepare({ id: 'm2' })
    await world.clock.advance(2_500)
    return world
  }

  test.each<[ListRequest, string[]]>([
    [{}, ['m1', 'm2', 's1', 's2', 's3']],
    [{ kind: 'saga' }, ['s1', 's2', 's3']],
    [{ kind: 'message' }, ['m1', 'm2']],
    [{ saga: 'order' }, ['s1', 's2']],
    [{ saga: 'nope' }, []],
    [{ businessKey: 'k1' }, ['s1', 's3']],
    [{ businessKey: 'k1', saga: 'other' }, ['s3']],
    [{ tags: { colour: 'red' } }, ['s1', 's2']],
    [{ tags: { colour: 'red', size: 'xl' } }, ['s1']],
    [{ tags: { toString: 'x' } }, []],
    [{ kind: 'message', saga: 'order' }, []],
    [{ statuses: ['running'], tags: { colour: 'red' } }, ['s1', 's2']],
    [{ statuses: ['prepared'], kind: 'saga' }, []],
  ])('%j gives %j, on pages of any size', async (request, ids) => {
    const world = await filled()
    expect(await listed(world, request)).toEqual(ids)
    for (const limit of [1, 2, 3]) expect(await listed(world, { ...request, limit })).toEqual(ids)
  })

  test('what ended is found by its attributes, those that a step set as well', async () => {
    const saga = sagaOf(({ step }) => [
      step('a', {
        action: 'shop/a',
        compensation: true,
        attributes: ({ result }) => ({ businessKey: `k-${result}` }),
      }),
    ])
    const world = await openSagas([saga])
    world.steps.take = () => doneWith(7)
    const id = await startSaga(world)
    await endOf(world, id)
    await world.clock.advance(2_500)
    expect(await listed(world, { statuses: ['completed'], businessKey: 'k-7' })).toEqual([id])
    expect(await listed(world, { statuses: ['completed'], businessKey: 'k-8' })).toEqual([])
  })

  test('what a store answers beside the statuses that were asked for is left out', async () => {
    const world = await filled()
    for (const [key, row] of world.disk.live)
      world.disk.live.set(key, { ...row, row: { ...row.row, status: 'running' } })
    expect(await listed(world, { statuses: ['running'] })).toEqual(['s1', 's2', 's3'])
    expect(await listed(world, { statuses: ['running'], limit: 2 })).toEqual(['s1', 's2', 's3'])
  })

  test('one list looks at a bounded number of rows, and the next page goes on behind them', async () => {
    const world = await filled()
    const key = [...world.disk.live.keys()].find((each) => each.endsWith('/m1'))
    const row = world.disk.live.get(key as never)
    if (row === undefined) throw new Error('no row')
    for (let at = 0; at < LIST_SCANNED_MAX; at++) {
      const copy = `default/a${String(at).padStart(6, '0')}` as never
      world.disk.live.set(copy, { ...row, row: { ...row.row, key: copy } })
    }
    let rows = 0
    world.hook = ({ method, moment }) => {
      if (method === 'query' && moment === 'after') rows += 1_000
    }
    const first = await world.call('list', { kind: 'saga' })
    expect([first.transactions, rows]).toEqual([[], LIST_SCANNED_MAX])
    expect(first.nextPageToken).toBe('default/a009999')
    const second = await world.call('list', { kind: 'saga', pageToken: first.nextPageToken })
    expect([second.transactions.map(({ id }) => id), second.nextPageToken]).toEqual([['s1', 's2', 's3'], ''])
  })
})
