/** "An id reused with other content; a deadline in the past; an ordering key that isn't the id's". */
import { connect as connectHttp2, constants } from 'node:http2'
import { create, toBinary } from '@bufbuild/protobuf'
import { expect, onTestFinished, test } from 'vitest'
import type { PrepareRequest } from '../../src/index.ts'
import { PrepareRequestSchema } from '../../src/wire/gen/escrow/v1/coordinator_pb.ts'
import { until } from '../harness/until.ts'
import { half, post, refusal, refusedEverywhere, world } from './world.ts'

test('an id reused with other content is refused by every door, whatever became of the first', async () => {
  const here = await world()
  const message = { destination: 'shop/take', body: Buffer.from('one') }
  const first = half({ id: 'order-1', messages: [message] })
  const prepared = await here.coordinator.prepare(first)
  const others: readonly Partial<PrepareRequest>[] = [
    { messages: [{ ...message, body: Buffer.from('two') }] },
    { messages: [message, message] },
    { messages: [{ ...message, headers: { a: 'b' } }] },
    { messages: [{ ...message, key: 'k' }] },
    { checkBack: { delayMs: 5_000 } },
    { databaseId: 'other' },
  ]
  const isRefused = async () => {
    for (const other of others) {
      await refusedEverywhere(here, 'prepare', { ...first, ...other }, ['idReused', /"order-1"/])
    }
    // The same content is the same transaction, by every door.
    for (const { ask } of here.doors) {
      expect(await ask('prepare', first)).toMatchObject({ id: 'order-1', executionId: prepared.executionId })
    }
  }
  await isRefused()
  await here.coordinator.rollback({ id: 'order-1' })
  await isRefused()
  expect(await here.coordinator.get({ id: 'order-1' })).toMatchObject({ status: 'rolledBack' })
})

test('a deadline in the past is refused before anything is done', async () => {
  const here = await world()
  const json = JSON.stringify({
    id: 'late-http',
    checker: 'orders',
    messages: [{ destination: 'shop/take' }],
  })
  const { status, text, code } = await post(here.http, 'prepare', json, { 'connect-timeout-ms': '0' })
  expect([status, code], text).toEqual([504, 'deadlineExceeded'])

  // grpc-js and the session refuse to send what is late already: a client that does is written by hand.
  const late = await unaryOverHttp2(here.grpc, half({ id: 'late-grpc' }))
  expect(late['grpc-status']).toBe('4')
  await refusal(
    here.coordinator.prepare(half({ id: 'late-library' }), { timeoutMs: 0 }),
    'deadlineExceeded',
    /deadline/,
  )
  const session = await here.connect({ service: 'caller' })
  await refusal(
    session.prepare(half({ id: 'late-session' }), { timeoutMs: 0 }),
    'invalidArgument',
    /timeoutMs is 0/,
  )

  for (const id of ['late-http', 'late-grpc', 'late-library', 'late-session'])
    await refusal(here.coordinator.get({ id }), 'notFound', /./)
})

test('a time of delivery in the past means at once', async () => {
  const here = await world()
  const taken: string[] = []
  const session = await here.connect()
  await session.registerHandlers({ take: (message) => void taken.push(message.transactionId) })
  const { id } = await session.prepare(half({ messages: [{ destination: 'shop/take', deliverAtMs: 1 }] }))
  await session.commit({ id })
  await until('it is delivered', () => taken.includes(id))
})

/** A prepare whose `grpc-timeout` has run out when it comes; answers the trailers. */
async function unaryOverHttp2(
  grpc: string,
  { id = '', checker, messages }: PrepareRequest,
): Promise<Record<string, unknown>> {
  const session = connectHttp2(`http://${grpc}`)
  onTestFinished(() => session.destroy())
  const request = create(PrepareRequestSchema, {
    id,
    checker,
    messages: messages.map(({ destination }) => ({ destination })),
  })
  const bytes = toBinary(PrepareRequestSchema, request)
  const head = Buffer.alloc(5)
  head.writeUInt32BE(bytes.length, 1)
  const stream = session.request({
    [constants.HTTP2_HEADER_METHOD]: 'POST',
    [constants.HTTP2_HEADER_PATH]: '/escrow.v1.CoordinatorService/Prepare',
    [constants.HTTP2_HEADER_CONTENT_TYPE]: 'application/grpc',
    te: 'trailers',
    'grpc-timeout': '0m',
  })
  return await new Promise((resolve, reject) => {
    stream.on('response', (headers) => {
      if ('grpc-status' in headers) resolve(headers)
    })
    stream.on('trailers', resolve)
    stream.on('error', reject)
    stream.on('data', () => {})
    stream.end(Buffer.concat([head, bytes]))
  })
}

test("an ordering key that isn't the id's is refused by every door, and so is a message with another key", async () => {
  const here = await world()
  const wrong = ['order-1', '{customer-2}order-1', '{customer}-1', 'customer-1']
  for (const id of wrong) {
    const request = half({ id, orderingKey: 'customer-1' })
    if (id === 'customer-1') {
      // Without braces the whole id is what is routed by: that is the key.
      for (const { ask } of here.doors) expect((await ask('prepare', request)).status).toBe('prepared')
    } else await refusedEverywhere(here, 'prepare', request, ['orderingKeyMismatch', /orderingKey/])
  }
  const key = half({ orderingKey: 'customer-1', messages: [{ destination: 'shop/take', key: 'customer-2' }] })
  await refusedEverywhere(here, 'prepare', key, ['orderingKeyMismatch', /"customer-2"/])
  const right = half({ id: '{a%20key}order-1', orderingKey: 'a key' })
  for (const { ask } of here.doors) expect((await ask('prepare', right)).status).toBe('prepared')
})
