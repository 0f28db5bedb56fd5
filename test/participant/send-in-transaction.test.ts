import { afterEach, beforeEach, expect, test } from 'vitest'
import type { CommitRequest, PrepareRequest } from '../../src/core/api.ts'
import { DEFAULT_LIMITS } from '../../src/core/envelope.ts'
import { EscrowError } from '../../src/core/errors.ts'
import { connect } from '../../src/participant/connect.ts'
import type { LocalTransaction } from '../../src/participant/local-transaction.ts'
import type { Session } from '../../src/participant/session.ts'
import { systemRuntime } from '../../src/runtime.ts'
import { failure, until } from './barrier-world.ts'
import { agreeable, type CommandItem, FakeCoordinator, reachLocally } from './fake-coordinator.ts'

let coordinator: FakeCoordinator
let session: Session

beforeEach(async () => {
  coordinator = new FakeCoordinator()
  coordinator.answer = agreeable
  session = await connect((await reachLocally(coordinator)).open, {
    service: 'orders',
    closeTimeoutMs: 0,
    // Every pause before another attempt is as long as it may be.
    runtime: { ...systemRuntime, random: () => 0.999 },
  })
})

afterEach(() => session.close())

const request = { checker: 'orders', messages: [{ to: 'inventory/order-placed', body: { id: 7 } }] }
const ops = () => coordinator.last.commands.map(({ op }) => op)
const sent = <T>(index: number) => coordinator.last.commands[index]?.request as T

test('prepares, runs the callback, and commits what it resolves', async () => {
  const result = await session.sendInTransaction({ ...request, orderingKey: 'c1' }, (tx) => {
    expect(ops()).toEqual(['prepare'])
    expect(tx).toMatchObject({
      operation: 'local',
      namespace: 'default',
      id: '{c1}~s1-x.1',
      executionId: 'x-1',
    })
    return 'placed'
  })
  expect(result).toEqual({
    id: '{c1}~s1-x.1',
    executionId: 'x-1',
    status: 'committed',
    acknowledged: true,
    repeated: false,
    value: 'placed',
    error: undefined,
  })
  expect(ops()).toEqual(['prepare', 'commit'])
  expect(sent<CommitRequest>(1)).toMatchObject({ id: '{c1}~s1-x.1', bodies: [] })
})

test('bodies are bytes, text or JSON, each with its media type', async () => {
  const bytes = new Uint8Array([0, 255])
  const at = new Date(1_700_000_000_000)
  await session.sendInTransaction(
    {
      checker: 'orders',
      messages: [
        { to: 'a/b', body: bytes, key: 'k', headers: { h: 'v' }, deliverAt: at },
        { to: 'a/b', body: 'ä', deliverAt: 5 },
        { to: 'a/b', body: [1], contentType: 'application/x+json' },
        { to: 'a/b', body: null },
        { to: 'a/b' },
      ],
    },
    () => {},
  )
  const { messages } = sent<PrepareRequest>(0)
  expect(
    messages.map(({ body, contentType }) => [body && Buffer.from(body).toString('latin1'), contentType]),
  ).toEqual([
    ['\x00\xff', 'application/octet-stream'],
    [Buffer.from('ä').toString('latin1'), 'text/plain; charset=utf-8'],
    ['[1]', 'application/x+json'],
    ['null', 'application/json'],
    [undefined, undefined],
  ])
  expect(messages[0]).toMatchObject({ key: 'k', headers: { h: 'v' }, deliverAtMs: 1_700_000_000_000 })
  expect(messages[1]?.deliverAtMs).toBe(5)
  const cyclic: unknown[] = []
  cyclic.push(cyclic)
  for (const body of [cyclic, () => {}, 1n as never]) {
    const thrown = await failure(
      session.sendInTransaction({ checker: 'orders', messages: [{ to: 'a/b', body }] }, () => {}),
    )
    expect(thrown.code).toBe('invalidArgument')
  }
})

test('a throw of the callback is unknown: a check-back is asked for, and the error is thrown on', async () => {
  const own = new Error('no stock')
  const thrown = await failure(
    session.sendInTransaction(request, () => {
      throw own
    }),
  )
  expect(thrown).toBe(own)
  await until(() => ops().length === 2)
  expect(ops()).toEqual(['prepare', 'requestCheckBack'])
})

test('a commit that is not acknowledged is no error: the local transaction is committed', async () => {
  coordinator.answer = (command: CommandItem) => (command.op === 'commit' ? undefined : agreeable(command))
  const late = await session.sendInTransaction(request, () => 1, { timeoutMs: 500 })
  expect(late).toMatchObject({
    status: 'prepared',
    acknowledged: false,
    value: 1,
    error: { code: 'uncertain' },
  })
  coordinator.answer = (command) =>
    command.op === 'commit' ? { commit: new EscrowError('storeUnavailable', 'full') } : agreeable(command)
  // After attempts at 0, 50, 150, 350 and 750 ms: the next one would come too late, and none is under way by then.
  const refused = await session.sendInTransaction(request, () => 2, { timeoutMs: 1_400 })
  expect(refused).toMatchObject({ acknowledged: false, value: 2, error: { code: 'storeUnavailable' } })
})

test('a commit that is refused is an error: it was settled the other way', async () => {
  coordinator.answer = (command) =>
    command.op === 'commit'
      ? { commit: new EscrowError('resolutionConflict', 'rolled back by policy') }
      : agreeable(command)
  expect((await failure(session.sendInTransaction(request, () => 1))).code).toBe('resolutionConflict')
})

test('a commit that is too large for a broker is no error: the check-back settles it, and is asked for', async () => {
  const error = new EscrowError('tooLarge', 'over the limit of kafka:orders')
  coordinator.answer = (command) => (command.op === 'commit' ? { commit: error } : agreeable(command))
  const result = await session.sendInTransaction(request, () => 1)
  expect(result).toMatchObject({ acknowledged: false, value: 1, error: { code: 'tooLarge' } })
  await until(() => ops().length === 3)
  expect(ops()).toEqual(['prepare', 'commit', 'requestCheckBack'])
})

test('nothing happens when the prepare fails', async () => {
  coordinator.answer = () => ({ prepare: new EscrowError('unknownChecker', 'no such checker') })
  let called = false
  const thrown = await failure(session.sendInTransaction(request, () => (called = true)))
  expect(thrown.code).toBe('unknownChecker')
  expect(called).toBe(false)
})

test('an id that was used before is not done again: what became of it is told', async () => {
  const given = { ...request, id: 'order-7' }
  let status = 'delivered'
  coordinator.answer = (command) => ({
    ...agreeable(command),
    prepare: { id: 'order-7', executionId: 'x', status } as never,
    get: { status: 'parked', settledBy: status === 'parked' ? 'caller' : '' } as never,
  })
  const fail = () => {
    throw new Error('called')
  }
  expect(await session.sendInTransaction(given, fail)).toMatchObject({ status: 'delivered', repeated: true })
  status = 'parked'
  expect(await session.sendInTransaction(given, fail)).toMatchObject({ status: 'parked', repeated: true })
  status = 'rolledBack'
  expect((await failure(session.sendInTransaction(given, fail))).code).toBe('barrierRefused')
  status = 'prepared'
  expect(await session.sendInTransaction(given, () => 'again')).toMatchObject({
    repeated: false,
    value: 'again',
  })
})

test('the transaction of a step that was done before is rolled back, and what the step gave is told', async () => {
  const abandon = (tx: LocalTransaction) => {
    tx.abandon?.()
    return 'of the first attempt'
  }
  const repeated = { status: 'rolledBack', repeated: true, acknowledged: true, value: 'of the first attempt' }
  expect(await session.sendInTransaction(request, abandon)).toMatchObject(repeated)
  expect(ops()).toEqual(['prepare', 'rollback'])
  // The check-back finds out by itself where this word is lost: the step is done all the same.
  const lost = new EscrowError('uncertain', 'not answered')
  coordinator.answer = (command) => ({ ...agreeable(command), rollback: lost })
  expect(await session.sendInTransaction(request, abandon, { timeoutMs: 300 })).toMatchObject({
    ...repeated,
    status: 'prepared',
    acknowledged: false,
    error: { code: 'uncertain' },
  })
})

test('the database of the checker is told at prepare, unless the request names one', async () => {
  await session.registerChecker('orders', { databaseId: 'db-1', check: () => 'commit' })
  await session.sendInTransaction(request, (tx) => expect(tx.databaseId).toBe('db-1'))
  await session.sendInTransaction({ ...request, databaseId: 'db-2' }, () => {})
  await session.sendInTransaction({ ...request, checker: 'elsewhere' }, () => {})
  const prepares = coordinator.last.commands.filter(({ op }) => op === 'prepare')
  expect(prepares.map((command) => (command.request as PrepareRequest).databaseId)).toEqual([
    'db-1',
    'db-2',
    '',
  ])
})

test('bodies fixed inside the local transaction go with the commit, held to the limits of the welcome', async () => {
  const two = {
    checker: 'orders',
    messages: [
      { to: 'a/b', bodyAtCommit: true },
      { to: 'a/b', body: 'now' },
      { to: 'a/b', bodyAtCommit: true },
    ],
  }
  await session.sendInTransaction(two, (tx) => {
    tx.fixBody(2, 'second')
    tx.fixBody(0, { n: 1 })
    tx.fixBody(0, { n: 2 })
    expect(() => tx.fixBody(1, 'x')).toThrow(/message 1/)
    expect(() => tx.fixBody(0, new Uint8Array(DEFAULT_LIMITS.bodyBytesMax + 1))).toThrow(/bodyBytesMax/)
  })
  const bodies = sent<CommitRequest>(1).bodies?.map(({ index, body }) => [
    index,
    Buffer.from(body).toString(),
  ])
  expect(bodies).toEqual([
    [0, '{"n":2}'],
    [2, 'second'],
  ])
  const missing = await failure(session.sendInTransaction(two, (tx) => tx.fixBody(0, 'only')))
  expect(missing.code).toBe('bodiesMissing')
})

test('all bodies together are held to the limit of a transaction, before COMMIT', async () => {
  coordinator.limits = { ...DEFAULT_LIMITS, transactionBytesMax: 1000 }
  const own = await connect((await reachLocally(coordinator)).open, { service: 'orders', closeTimeoutMs: 0 })
  let seal: (() => unknown) | undefined
  const sending = own.sendInTransaction(
    {
      checker: 'orders',
      messages: [
        { to: 'a/b', bodyAtCommit: true },
        { to: 'a/b', body: 'x'.repeat(500) },
      ],
    },
    (tx: LocalTransaction) => {
      tx.fixBody(0, 'x'.repeat(500))
      seal = tx.sealBodies?.bind(tx)
    },
  )
  expect((await failure(sending)).code).toBe('tooLarge')
  expect(() => seal?.()).toThrow(/transactionBytesMax/)
  await own.close()
})
