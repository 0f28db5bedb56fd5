import { AsyncLocalStorage } from 'node:async_hooks'
import { type Context, context, propagation, ROOT_CONTEXT, type TextMapPropagator } from '@opentelemetry/api'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { CheckBackResponse, DeliverRequest, DeliverResponse } from '../../src/core/api.ts'
import { NO_TRACE } from '../../src/core/envelope.ts'
import type { CheckerInput } from '../../src/participant/checker.ts'
import { connect } from '../../src/participant/connect.ts'
import { participant } from '../../src/participant/participant.ts'
import type { ReceivedMessage } from '../../src/participant/received-message.ts'
import { refuse } from '../../src/participant/refusal.ts'
import type { Session } from '../../src/participant/session.ts'
import { failure, until } from './barrier-world.ts'
import { agreeable, FakeCoordinator, type Reach, reachByGrpc } from './fake-coordinator.ts'

let coordinator: FakeCoordinator
let reach: Reach
let session: Session | undefined
let calls = 0

beforeEach(async () => {
  coordinator = new FakeCoordinator()
  reach = await reachByGrpc(coordinator)
  calls = 0
})

afterEach(async () => {
  await session?.close()
  session = undefined
  await reach.close()
})

async function serve(
  handlers: Record<string, (message: ReceivedMessage) => unknown>,
  options: { deliveriesMax?: number; checkers?: Record<string, CheckerInput> } = {},
): Promise<void> {
  const { checkers = {}, ...rest } = options
  session = await participant('inventory', handlers, { checkers }).connect(reach.open, {
    closeTimeoutMs: 0,
    ...rest,
  })
}

const request = (handler: string, more: Partial<DeliverRequest> = {}): DeliverRequest => ({
  namespace: 'default',
  transactionId: 't',
  executionId: 'x',
  attempt: 1,
  service: 'inventory',
  handler,
  body: Buffer.from('{"sku":"ä"}'),
  headers: { origin: 'test' },
  key: 'k',
  contentType: 'application/json',
  trace: NO_TRACE,
  timeoutMs: 10_000,
  ...more,
})

async function deliver(handler: string, more: Partial<DeliverRequest> = {}): Promise<DeliverResponse> {
  const callId = ++calls
  coordinator.last.stream.send({ type: 'delivery', callId, request: request(handler, more) })
  const find = () =>
    coordinator.last.items.find((item) => item.type === 'deliveryAnswer' && item.callId === callId)
  const answer = await until(find)
  return (answer as { response: DeliverResponse }).response
}

async function ask(checker: string, timeoutMs = 10_000): Promise<CheckBackResponse> {
  const callId = ++calls
  coordinator.last.stream.send({
    type: 'checkBack',
    callId,
    request: {
      namespace: 'default',
      transactionId: 't',
      executionId: 'x',
      attempt: 1,
      checker,
      preparedAtMs: 5,
      trace: NO_TRACE,
      timeoutMs,
    },
  })
  const find = () =>
    coordinator.last.items.find((item) => item.type === 'checkBackAnswer' && item.callId === callId)
  const answer = await until(find)
  return (answer as { response: CheckBackResponse }).response
}

test('a handler is given the message as it was sent; what it does is the outcome', async () => {
  let seen: ReceivedMessage | undefined
  await serve({
    take: (message) => {
      seen = message
    },
    fail: async () => {
      throw new Error(`${'x'.repeat(1023)}äää`)
    },
    'throw-oddly': () => Promise.reject(Object.create(null)),
    refuse: () => {
      throw refuse('no such article')
    },
  })
  expect(await deliver('take')).toEqual({ outcome: 'delivered', error: '' })
  expect(seen).toMatchObject({
    operation: 'deliver',
    namespace: 'default',
    transactionId: 't',
    executionId: 'x',
    attempt: 1,
    handler: 'take',
    headers: { origin: 'test' },
    key: 'k',
    contentType: 'application/json',
  })
  expect(seen?.json()).toEqual({ sku: 'ä' })
  expect(seen?.text()).toBe('{"sku":"ä"}')
  expect(await deliver('fail')).toEqual({ outcome: 'failed', error: 'x'.repeat(1023) })
  expect((await deliver('throw-oddly')).outcome).toBe('failed')
  expect(await deliver('refuse')).toEqual({ outcome: 'refused', error: 'no such article' })
  expect(await deliver('unknown')).toMatchObject({
    outcome: 'failed',
    error: 'there is no handler unknown here',
  })
})

test('a handler that hangs is answered for when its time has passed, its signal is aborted, and its late result is dropped', async () => {
  const seen: ReceivedMessage[] = []
  let end = () => {}
  await serve({
    hang: (message) => {
      seen.push(message)
      message.signal.addEventListener('abort', () => end())
      return new Promise<void>((resolve) => (end = resolve))
    },
  })
  const answer = await deliver('hang', { timeoutMs: 30 })
  expect(answer).toEqual({ outcome: 'unknown', error: 'the handler did not answer within 30 ms' })
  expect(seen[0]?.signal.aborted).toBe(true)
  expect(await deliver('hang', { timeoutMs: 30 })).toMatchObject({ outcome: 'unknown' })
  expect(coordinator.last.items.filter(({ type }) => type === 'deliveryAnswer').length).toBe(2)
})

test('no more handlers run at once than the window that was told', async () => {
  let running = 0
  let most = 0
  const ends: (() => void)[] = []
  await serve(
    {
      slow: async () => {
        most = Math.max(most, ++running)
        await new Promise<void>((resolve) => ends.push(resolve))
        running--
      },
    },
    { deliveriesMax: 2 },
  )
  const answers = [deliver('slow'), deliver('slow'), deliver('slow')]
  expect(await answers[2]).toMatchObject({ outcome: 'failed', error: 'deliveriesMax of 2 is reached' })
  for (const end of ends.splice(0)) end()
  expect((await Promise.all(answers)).map(({ outcome }) => outcome)).toEqual([
    'delivered',
    'delivered',
    'failed',
  ])
  const again = deliver('slow')
  await until(() => ends.length === 1)
  ends[0]?.()
  expect((await again).outcome).toBe('delivered')
  expect(most).toBe(2)
})

test('a checker settles with the exact words only; all else is unknown', async () => {
  const bodies = [{ index: 0, body: Buffer.from('b') }]
  await serve(
    {},
    {
      checkers: {
        commit: () => 'commit',
        rollback: { check: async () => 'rollback' as const },
        bodies: () => ({ resolution: 'commit', bodies }),
        unknown: () => ({ resolution: 'unknown', error: 'still open' }),
        yes: () => true as never,
        capital: () => 'COMMIT' as never,
        nothing: () => undefined as never,
        'bad-bodies': () => ({ resolution: 'commit', bodies: [{ index: 0, body: 'text' }] }) as never,
        'bad-list': () => ({ resolution: 'commit', bodies: 'all' }) as never,
        throws: () => {
          throw new Error('database is away')
        },
        hangs: () => new Promise(() => {}),
      },
    },
  )
  expect(await ask('commit')).toEqual({ resolution: 'commit', bodies: [], error: '' })
  expect(await ask('rollback')).toEqual({ resolution: 'rollback', bodies: [], error: '' })
  expect(await ask('bodies')).toEqual({ resolution: 'commit', bodies, error: '' })
  expect(await ask('unknown')).toEqual({ resolution: 'unknown', bodies: [], error: 'still open' })
  for (const odd of ['yes', 'capital', 'nothing', 'bad-bodies', 'bad-list', 'not-there']) {
    expect((await ask(odd)).resolution, odd).toBe('unknown')
  }
  expect(await ask('throws')).toEqual({ resolution: 'unknown', bodies: [], error: 'database is away' })
  expect(await ask('hangs', 30)).toMatchObject({
    resolution: 'unknown',
    error: 'the checker did not answer within 30 ms',
  })
})

test('a session closes when its handlers have answered', async () => {
  let end = () => {}
  await serve({ slow: () => new Promise<void>((resolve) => (end = resolve)) })
  const own = await participant('inventory', {
    slow: () => new Promise<void>((resolve) => (end = resolve)),
  }).connect(reach.open)
  const answered = deliver('slow')
  await until(() => end.name !== 'end')
  const closed = own.close()
  end()
  expect((await answered).outcome).toBe('delivered')
  await closed
})

test('an answer to a call of a lost connection is dropped', async () => {
  let end = () => {}
  await serve({ slow: () => new Promise<void>((resolve) => (end = resolve)) })
  coordinator.last.stream.send({ type: 'delivery', callId: 1, request: request('slow') })
  await until(() => end.name !== 'end')
  coordinator.last.stream.close()
  await until(() => coordinator.sessions.length === 2)
  end()
  expect((await deliver('nobody')).outcome).toBe('failed')
  expect(coordinator.last.items.filter((item) => item.type === 'deliveryAnswer').length).toBe(1)
})

test('what a checker does while it is in use begins and ends with the session', async () => {
  const seen: string[] = []
  const checker = {
    check: () => 'commit' as const,
    attach: () => {
      seen.push('attached')
      return () => {
        seen.push('detached')
      }
    },
  }
  const own = await connect(reach.open, { service: 'orders' })
  await own.registerChecker('one', checker)
  await own.registerHandlers({ take: () => {} }, { barrier: { databaseId: 'd', checker } })
  expect(seen).toEqual(['attached'])
  await own.close()
  expect(seen).toEqual(['attached', 'detached'])
})

const KEY = Symbol('parent')
const propagator: TextMapPropagator = {
  inject: (from, carrier, setter) => {
    const parent = from.getValue(KEY)
    if (typeof parent === 'string') setter.set(carrier, 'traceparent', parent)
    setter.set(carrier, 'baggage', 'tenant=7')
  },
  extract: (into, carrier, getter) => into.setValue(KEY, getter.get(carrier, 'traceparent')),
  fields: () => ['traceparent'],
}

test('the trace of the caller travels with a prepare, and handlers and checkers run inside it', async () => {
  const parent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
  const storage = new AsyncLocalStorage<Context>()
  const manager = {
    active: () => storage.getStore() ?? ROOT_CONTEXT,
    with: <A extends unknown[], F extends (...args: A) => ReturnType<F>>(
      given: Context,
      work: F,
      self?: ThisParameterType<F>,
      ...args: A
    ) => storage.run(given, () => work.apply(self as never, args)),
    bind: <T>(_: Context, target: T) => target,
    enable: () => manager,
    disable: () => manager,
  }
  const seen: unknown[] = []
  await serve(
    { take: () => seen.push(context.active().getValue(KEY)) },
    {
      checkers: {
        orders: () => {
          seen.push(context.active().getValue(KEY))
          return 'commit'
        },
      },
    },
  )
  coordinator.answer = agreeable
  const prepare = { checker: 'orders', messages: [{ destination: 'inventory/take', body: Buffer.from('1') }] }
  await session?.prepare(prepare)
  context.setGlobalContextManager(manager)
  propagation.setGlobalPropagator(propagator)
  try {
    await storage.run(ROOT_CONTEXT.setValue(KEY, parent), () => session?.prepare(prepare))
    await session?.prepare({ ...prepare, trace: { traceparent: 'mine', tracestate: '', baggage: '' } })
    const traces = coordinator.last.commands.map((command) =>
      command.op === 'prepare' ? command.request.trace : undefined,
    )
    expect(traces.map((trace) => trace?.traceparent ?? '')).toEqual(['', parent, 'mine'])
    expect(traces[1]?.baggage).toBe('tenant=7')
    const trace = { traceparent: parent, tracestate: '', baggage: '' }
    await deliver('take', { trace })
    const callId = ++calls
    coordinator.last.stream.send({
      type: 'checkBack',
      callId,
      request: {
        namespace: 'default',
        transactionId: 't',
        executionId: 'x',
        attempt: 1,
        checker: 'orders',
        preparedAtMs: 5,
        trace,
        timeoutMs: 1000,
      },
    })
    await until(() => seen.length === 2)
    expect(seen).toEqual([parent, parent])
  } finally {
    context.disable()
    propagation.disable()
  }
})

test('handlers and checkers that are none are refused', async () => {
  expect((await failure(participant('inventory', { take: 'no' as never }).connect(reach.open))).code).toBe(
    'invalidArgument',
  )
  expect((await failure(participant('inventory', { 'Not A Name': () => {} }).connect(reach.open))).code).toBe(
    'invalidArgument',
  )
  expect(
    (await failure(participant('inventory', {}, { checkers: { orders: {} as never } }).connect(reach.open)))
      .code,
  ).toBe('invalidArgument')
})
