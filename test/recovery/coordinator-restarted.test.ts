/** What waits in a coordinator goes on after it was killed and restarted: check-backs, delays, order, parking, traces. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { create, toBinary } from '@bufbuild/protobuf'
import { Client, credentials, Metadata } from '@grpc/grpc-js'
import { expect, onTestFinished, test } from 'vitest'
import {
  type CheckBackRequest,
  connect,
  type ReceivedMessage,
  refuse,
  type Session,
  type TraceContext,
} from '../../src/index.ts'
import { PrepareRequestSchema } from '../../src/wire/gen/escrow/v1/coordinator_pb.ts'
import { CoordinatorProcess } from '../harness/coordinator-process.ts'
import { until } from '../harness/until.ts'
import { active, registerTracing, traceOf, withActive } from './trace.ts'

/** A service that answers as the test says at the moment. */
interface Asked {
  readonly session: Session
  checker(question: CheckBackRequest): 'commit' | 'rollback' | 'unknown'
  handler(message: ReceivedMessage): void
  readonly brought: { readonly id: string; readonly attempt: number; readonly atMs: number }[]
  readonly questions: string[]
}

async function serve({ grpc }: CoordinatorProcess, service = 'shop'): Promise<Asked> {
  const session = await connect(grpc, { service, closeTimeoutMs: 0, connectTimeoutMs: 20_000 })
  onTestFinished(() => session.close())
  const asked: Asked = { session, checker: () => 'unknown', handler: () => {}, brought: [], questions: [] }
  await session.registerChecker(`${service}-orders`, (question) => {
    asked.questions.push(question.transactionId)
    return asked.checker(question)
  })
  await session.registerHandlers({
    take: (message) => {
      asked.brought.push({ id: message.transactionId, attempt: message.attempt, atMs: Date.now() })
      asked.handler(message)
    },
  })
  return asked
}

const to = (destination: string, more: object = {}) => ({ destination, body: Buffer.from('{}'), ...more })
const soon = { delayMs: 100, delayMsMax: 100 }
/** What doesn't end must fail the test, and not its time-out. */
const patient = { timeoutMs: 20_000 }

test('prepared, waiting, delayed, parked and ordered: everything goes on after a kill and a restart', async () => {
  await using coordinator = await CoordinatorProcess.start()
  const shop = await serve(coordinator)
  const { session } = shop
  const checker = 'shop-orders'
  const commit = async (request: Omit<Parameters<Session['prepare']>[0], 'checker'>): Promise<void> => {
    await session.prepare({ checker, ...request })
    await session.commit({ id: request.id as string })
  }
  const counted = (id: string) => shop.questions.filter((each) => each === id).length
  const broughtOf = (id: string) => shop.brought.filter((each) => each.id === id)
  // A destination that was known once, and is away.
  const away = await serve(coordinator, 'away')
  await away.session.close()

  // Refuses the first of the ordered ones and the parked one, whatever the attempt is.
  shop.handler = ({ transactionId }) => {
    if (['parked', '{c-1}ordered-1'].includes(transactionId)) throw refuse('out of stock')
  }
  await session.prepare({ id: 'silent', checker, messages: [to('shop/take')], checkBack: { delayMs: 3_000 } })
  await session.prepare({
    id: 'budget',
    checker,
    messages: [to('shop/take')],
    checkBack: { ...soon, delayMsMax: 3_000, checksMax: 7 },
  })
  await session.prepare({
    id: 'undecided',
    checker,
    messages: [to('shop/take')],
    checkBack: { ...soon, checksMax: 1 },
  })
  await commit({ id: 'away', messages: [to('away/take')] })
  await commit({ id: 'parked', messages: [to('shop/take')] })
  const ordered = (n: number) =>
    commit({ id: `{c-1}ordered-${n}`, orderingKey: 'c-1', messages: [to('shop/take')] })
  await ordered(1)
  const laterMs = Date.now() + 6_000
  await commit({ id: 'later', messages: [to('shop/take', { deliverAtMs: laterMs })] })
  await until('those that park are parked', async () => {
    const statuses = await Promise.all(
      ['undecided', 'parked', '{c-1}ordered-1'].map((id) => session.get({ id })),
    )
    return statuses.every(({ status }) => status === 'parked')
  })
  await until(
    'one check of the budget is used',
    async () => (await session.get({ id: 'budget' })).checks >= 1,
  )
  // The first one stands in an image only, the others only in the tail of the log: its order comes from both.
  await coordinator.all()
  for (const n of [2, 3]) await ordered(n)
  await commit({ id: 'while-down', messages: [to('shop/take', { deliverAtMs: Date.now() + 3_000 })] })

  await coordinator.kill()
  const downAtMs = Date.now()
  shop.checker = ({ transactionId }) => (transactionId === 'silent' ? 'commit' : 'unknown')
  shop.handler = () => {}
  await sleep(3_100)
  await coordinator.start()

  // What was parked is parked, with its reason; what it holds back is held back.
  expect(await session.get({ id: 'parked' })).toMatchObject({
    status: 'parked',
    deliveries: [{ error: 'refused: out of stock' }],
  })
  expect(await session.get({ id: 'undecided' })).toMatchObject({ status: 'parked', checks: 1, settledBy: '' })
  const first = await session.get({ id: '{c-1}ordered-1' })
  expect(first).toMatchObject({ status: 'parked' })
  // Check-backs go on where they stood.
  await until(
    'the silent one is asked about',
    async () => (await session.get({ id: 'silent' })).settledBy === 'checkBack',
  )
  await session.wait({ id: 'silent' }, patient)
  const spent = await session.wait({ id: 'budget' }, patient)
  expect(spent).toMatchObject({ status: 'parked', checks: 7 })
  // Those before the kill count; one whose answer died with the coordinator is asked once more.
  expect([7, 8]).toContain(counted('budget'))
  for (const n of [2, 3]) expect(broughtOf(`{c-1}ordered-${n}`)).toEqual([])
  await session.retry({ id: first.id, executionId: first.deliveries[0]?.executionId ?? '' })
  for (const n of [1, 2, 3])
    expect(await session.wait({ id: `{c-1}ordered-${n}` }, patient)).toMatchObject({ status: 'delivered' })
  const order = shop.brought
    .filter(({ id, atMs }) => id.startsWith('{c-1}') && atMs > downAtMs)
    .map(({ id }) => id)
  expect(order).toEqual([1, 2, 3].map((n) => `{c-1}ordered-${n}`))
  // By an operator's command.
  const parked = await session.get({ id: 'parked' })
  await session.retry({ id: 'parked', executionId: parked.deliveries[0]?.executionId ?? '' })
  expect(await session.wait({ id: 'parked' }, patient)).toMatchObject({ status: 'delivered' })
  await session.rollback({ id: 'undecided', reason: 'nobody knows' })
  expect(await session.get({ id: 'undecided' })).toMatchObject({
    status: 'rolledBack',
    reason: 'nobody knows',
  })

  // Delays are times of the day, an outage or not: never early, and soon after.
  await session.wait({ id: 'while-down' }, patient)
  await session.wait({ id: 'later' }, patient)
  expect(broughtOf('while-down')[0]?.atMs).toBeGreaterThanOrEqual(downAtMs)
  expect(broughtOf('later')[0]?.atMs).toBeGreaterThanOrEqual(laterMs)
  // One whose destination is away has cost no attempt in all that time.
  expect(await session.get({ id: 'away' })).toMatchObject({
    status: 'committed',
    deliveries: [{ attempts: 0 }],
  })
  const back = await serve(coordinator, 'away')
  await until('it is brought', () => back.brought.length > 0)
  expect(back.brought).toMatchObject([{ id: 'away', attempt: 1 }])
})

test('the trace context of the caller arrives at handler, checker and broker after a kill and a restart', async () => {
  registerTracing()
  const folder = await CoordinatorProcess.make()
  const busFile = join(folder.folder, 'bus')
  onTestFinished(() => folder[Symbol.asyncDispose]())
  const config = join(import.meta.dirname, 'programs/bus.config.ts')
  await using coordinator = await CoordinatorProcess.start({ config, env: { BUS_FILE: busFile } })
  const shop = await serve(coordinator)
  const checker = 'shop-orders'
  const messages = [to('shop/take'), to('bus:orders')]
  const [byGrpc, byHttp, byContext] = [1, 2, 3].map(traceOf) as [TraceContext, TraceContext, TraceContext]

  await prepareByGrpc(coordinator, 'by-grpc', byGrpc)
  const json = messages.map(({ destination }) => ({ destination }))
  await coordinator.ask(
    'Prepare',
    { id: 'by-http', checker, messages: json, checkBack: { delayMs: '2000' } },
    { ...byHttp },
  )
  const request = { id: 'by-context', checker, messages, checkBack: { delayMs: 2_000 } }
  await withActive(byContext, () => shop.session.prepare(request))
  const expected = { 'by-grpc': byGrpc, 'by-http': byHttp, 'by-context': byContext }

  await coordinator.kill()
  const atChecker: Record<string, unknown> = {}
  const atHandler: Record<string, unknown> = {}
  const activeThere: unknown[] = []
  shop.checker = ({ transactionId, trace }) => {
    atChecker[transactionId] = { ...trace }
    activeThere.push(active())
    return 'commit'
  }
  shop.handler = ({ transactionId, trace }) => {
    atHandler[transactionId] = { ...trace }
    activeThere.push(active())
  }
  await coordinator.start()
  for (const id of Object.keys(expected))
    expect((await shop.session.wait({ id }, patient)).status).toBe('delivered')
  expect(atChecker).toEqual(expected)
  expect(atHandler).toEqual(expected)
  // Both run inside it, so that what they call goes on with it.
  for (const trace of [byGrpc, byHttp, byContext]) {
    expect(activeThere.filter((each) => JSON.stringify(each) === JSON.stringify(trace))).toHaveLength(2)
  }
  expect(existsSync(busFile)).toBe(true)
  const published = readFileSync(busFile, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line).headers)
  expect(published).toHaveLength(3)
  for (const trace of [byGrpc, byHttp, byContext])
    expect(published).toContainEqual(expect.objectContaining(trace))
})

async function prepareByGrpc({ grpc }: CoordinatorProcess, id: string, trace: TraceContext): Promise<void> {
  const client = new Client(grpc, credentials.createInsecure())
  onTestFinished(() => client.close())
  const request = create(PrepareRequestSchema, {
    id,
    checker: 'shop-orders',
    messages: [{ destination: 'shop/take' }, { destination: 'bus:orders' }],
    checkBack: { delayMs: 2_000n },
  })
  const metadata = new Metadata()
  for (const [name, value] of Object.entries(trace)) metadata.set(name, value as string)
  const bytes = Buffer.from(toBinary(PrepareRequestSchema, request))
  const asIs = (each: Buffer): Buffer => each
  const path = '/escrow.v1.CoordinatorService/Prepare'
  await new Promise<void>((resolve, reject) => {
    client.makeUnaryRequest(path, asIs, asIs, bytes, metadata, (error) =>
      error === null ? resolve() : reject(error),
    )
  })
}

test('SIGTERM drains: what is under way is finished, clients see a reconnect, and it ends with 0 in time', async () => {
  await using coordinator = await CoordinatorProcess.start()
  const states: string[] = []
  const session = await connect(coordinator.grpc, {
    service: 'shop',
    closeTimeoutMs: 0,
    onConnection: ({ state }) => states.push(state),
  })
  onTestFinished(() => session.close())
  await session.registerChecker('shop-orders', () => 'unknown')
  const begun: number[] = []
  await session.registerHandlers({
    slow: async ({ attempt }) => {
      begun.push(attempt)
      // Longer than commands are still taken for: the drain itself must wait for it.
      await sleep(2_500)
    },
  })
  const checker = 'shop-orders'
  await session.prepare({ id: 'slow', checker, messages: [to('shop/slow')] })
  await session.prepare({ id: 'open', checker, messages: [to('shop/slow')] })
  await session.commit({ id: 'slow' })
  await until('the handler is at work', () => begun.length === 1)
  // A wait has no answer yet: it is asked again of whoever comes next.
  const waiting = session.wait({ id: 'open' })

  const from = performance.now()
  const ended = coordinator.terminate()
  await until('the service is told to go', () => states.includes('draining'))
  // Asked while it drains: done before or after, but done.
  const asked = session.get({ id: 'open' })
  expect(await ended).toEqual({ code: 0, signal: null })
  expect(performance.now() - from).toBeLessThan(15_000)
  await coordinator.start()
  expect(await asked).toMatchObject({ status: 'prepared' })
  // The handler's answer was waited for, and is durable: it isn't brought again.
  expect(await session.get({ id: 'slow' })).toMatchObject({
    status: 'delivered',
    deliveries: [{ attempts: 0 }],
  })
  expect(begun).toEqual([1])
  await session.rollback({ id: 'open' })
  expect(await waiting).toMatchObject({ status: 'rolledBack' })
  const open = states.filter((state) => state === 'open')
  expect(open.length).toBe(2)
})
