/** "A body, header, batch or frame over its limit": refused with the limit's name, before anything is held. */
import { Client, type ClientDuplexStream, credentials } from '@grpc/grpc-js'
import { expect, onTestFinished, test } from 'vitest'
import { DEFAULT_LIMITS } from '../../src/core/envelope.ts'
import type { HalfMessageInput } from '../../src/index.ts'
import { errorFromGrpc } from '../../src/wire/errors.ts'
import { SESSION_PATH, SESSION_SERVICE } from '../../src/wire/session-service.ts'
import { until } from '../harness/until.ts'
import { half, post, rawSession, refusal, refusedEverywhere, world } from './world.ts'

const limits = { bodyBytesMax: 4_096, headerBytesMax: 256, messagesMax: 3, transactionBytesMax: 8_192 }
const message = (change: Partial<HalfMessageInput> = {}): HalfMessageInput => ({
  destination: 'shop/take',
  ...change,
})

test('a body over its limit is refused by every door; one of exactly the limit is taken', async () => {
  const here = await world({ limits })
  const body = (bytes: number) => half({ messages: [message({ body: Buffer.alloc(bytes) })] })
  await refusedEverywhere(here, 'prepare', body(4_097), ['tooLarge', /4097.*bodyBytesMax of 4096/])
  for (const { ask } of here.doors) expect((await ask('prepare', body(4_096))).status).toBe('prepared')

  // The same for bodies that are fixed at commit: the transaction stays prepared, and can still be committed.
  const { id } = await here.coordinator.prepare(half({ messages: [message({ bodyAtCommit: true })] }))
  const commit = (bytes: number) => ({ id, bodies: [{ index: 0, body: Buffer.alloc(bytes) }] })
  await refusedEverywhere(here, 'commit', commit(4_097), ['tooLarge', /bodyBytesMax/])
  expect((await here.coordinator.get({ id })).status).toBe('prepared')
  expect((await here.coordinator.commit(commit(4_096))).status).toBe('committed')
})

test('a body over its limit is refused inside the local transaction, before that commits', async () => {
  const here = await world({ limits })
  const session = await here.connect({ service: 'caller' })
  let isCommitted = false
  const sending = session.sendInTransaction(
    { id: 'fixed', checker: 'orders', messages: [{ to: 'shop/take', bodyAtCommit: true }] },
    (tx) => {
      tx.fixBody(0, 'x'.repeat(4_097))
      isCommitted = true
    },
  )
  await refusal(sending, 'tooLarge', /bodyBytesMax of 4096/)
  expect(isCommitted).toBe(false)
})

test('a header over its limit is refused by every door, counted with the names', async () => {
  const here = await world({ limits })
  const headers = (bytes: number) =>
    half({ messages: [message({ headers: { name: 'x'.repeat(bytes - 4) } })] })
  await refusedEverywhere(here, 'prepare', headers(257), ['tooLarge', /257.*headerBytesMax of 256/])
  for (const { ask } of here.doors) expect((await ask('prepare', headers(256))).status).toBe('prepared')
  const name = half({ messages: [message({ headers: { ['x'.repeat(129)]: '' } })] })
  await refusedEverywhere(here, 'prepare', name, ['invalidArgument', /header name/])
})

test('a batch over its limit is refused: too many messages, and too large a transaction', async () => {
  const here = await world({ limits })
  const many = half({ id: 'many', messages: new Array(4).fill(message()) })
  await refusedEverywhere(here, 'prepare', many, [
    'tooLarge',
    /messages is 4, over the limit messagesMax of 3/,
  ])
  const large = half({ id: 'large', messages: new Array(3).fill(message({ body: Buffer.alloc(3_000) })) })
  await refusedEverywhere(here, 'prepare', large, ['tooLarge', /transactionBytesMax of 8192/])
  for (const id of ['many', 'large']) await refusedEverywhere(here, 'get', { id }, ['notFound', /./])
})

test('a batch over its limit is refused: more commands unanswered than the window of a session has', async () => {
  const here = await world()
  const raw = await rawSession(here.grpc)
  const { commandsMax } = await raw.next('welcome')
  const extra = 10
  for (let commandId = 1; commandId <= commandsMax + extra; commandId++) {
    raw.stream.send({ type: 'command', commandId, timeoutMs: 0, op: 'get', request: { id: 'x' } })
  }
  const failures = await until('all commands are answered', () => {
    const found = raw.items.filter((item) => item.type === 'failure')
    return found.length === commandsMax + extra && found
  })
  const overloaded = failures.filter(({ error }) => error.code === 'overloaded')
  expect(overloaded.map(({ commandId }) => commandId)).toEqual(
    Array.from({ length: extra }, (_, at) => commandsMax + 1 + at),
  )
  expect(overloaded[0]?.error).toMatchObject({ retryable: true })
  expect(overloaded[0]?.error.message).toMatch(/commandsMax of \d+/)
  expect(failures.filter(({ error }) => error.code === 'notFound')).toHaveLength(commandsMax)
  // The window is free again, and so is a session that keeps to it.
  raw.stream.send({
    type: 'command',
    commandId: 9_999,
    timeoutMs: 0,
    op: 'prepare',
    request: half() as never,
  })
  expect((await raw.next('reply')).commandId).toBe(9_999)
})

test('a batch over its limit is refused: more unary calls unanswered than `callsMax`', async () => {
  const here = await world({ callsMax: 2 })
  const { id } = await here.coordinator.prepare(half())
  // A look at whether both places are taken may take one of them.
  const wait = async (): ReturnType<typeof post> => {
    const answer = await post(here.http, 'wait', JSON.stringify({ id }), { 'connect-timeout-ms': '10000' })
    return answer.code === 'overloaded' ? wait() : answer
  }
  const waits = [wait(), wait()]
  await until(
    'both places are taken',
    async () => (await post(here.http, 'get', '{"id":"x"}')).code === 'overloaded',
  )
  const { status, text, code } = await post(here.http, 'get', '{"id":"x"}')
  expect([status, code], text).toEqual([429, 'overloaded'])
  expect(text).toContain('inFlightMax')
  for (const waited of await Promise.all(waits)) expect(waited.code).toBe('deadlineExceeded')
  expect((await post(here.http, 'get', JSON.stringify({ id }))).status).toBe(200)
})

test('a frame over its limit ends its session with `tooLarge`, and a unary request over its own is refused', async () => {
  const here = await world()
  const neighbour = await here.connect({ service: 'neighbour' })
  const client = new Client(here.grpc, credentials.createInsecure(), { 'grpc.max_send_message_length': -1 })
  onTestFinished(() => client.close())
  const { requestSerialize, responseDeserialize } = SESSION_SERVICE.connect
  // Over the limit that the welcome tells, but not over the transport's; then over that, too.
  for (const bytes of [DEFAULT_LIMITS.frameBytesMax + 1, 9 << 20]) {
    const call = client.makeBidiStreamRequest(SESSION_PATH, requestSerialize, responseDeserialize)
    await refusal(
      errorOf(call, Buffer.alloc(bytes)),
      'tooLarge',
      /frameBytesMax of 3145728|larger than max|exceeds/,
    )
  }
  const huge = JSON.stringify({ checker: 'x'.repeat(6 << 20) })
  const { status, text, code } = await post(here.http, 'prepare', huge)
  expect([status, code], text).toEqual([400, 'tooLarge'])
  expect(text).toContain('requestBytesMax')
  expect(neighbour.connected).toBe(true)
  expect((await neighbour.prepare(half())).status).toBe('prepared')
})

test('an item over the limit of a frame fails alone: the session that asked for it goes on', async () => {
  const here = await world()
  const session = await here.connect({ service: 'caller' })
  const large = half({ messages: new Array(4).fill(message({ body: Buffer.alloc(1 << 20) })) })
  await refusal(session.prepare(large), 'tooLarge', /frameBytesMax of 3145728/)
  expect(session.connected).toBe(true)
  expect((await session.prepare(half())).status).toBe('prepared')
})

function errorOf(call: ClientDuplexStream<Buffer, Buffer>, frame: Buffer): Promise<never> {
  return new Promise((_, reject) => {
    call.on('error', (error: Error) => reject(errorFromGrpc(error)))
    call.on('data', () => {})
    call.write(frame)
  })
}
