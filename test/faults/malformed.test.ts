/** "Malformed JSON, protobuf, frames": a clear refusal of that request, or the end of that session, and of nothing else. */
import { once } from 'node:events'
import { create, toBinary } from '@bufbuild/protobuf'
import { Client, type ClientDuplexStream, credentials } from '@grpc/grpc-js'
import { expect, onTestFinished, test } from 'vitest'
import { errorFromGrpc } from '../../src/wire/errors.ts'
import { ConnectRequestSchema } from '../../src/wire/gen/escrow/v1/session_pb.ts'
import { SESSION_PATH, SESSION_SERVICE } from '../../src/wire/session-service.ts'
import { half, post, refusal, type World, world } from './world.ts'

/** What was broken must not have hurt anybody else. */
async function stillServes({ doors }: World): Promise<void> {
  for (const { ask } of doors) expect((await ask('prepare', half())).status).toBe('prepared')
}

test('malformed JSON is refused, and names what is wrong', async () => {
  const here = await world()
  const cases: readonly (readonly [body: string | Uint8Array, names: RegExp])[] = [
    ['{"checker": "orders"', /the body is no JSON/],
    ['', /empty, send \{\} at least/],
    [Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x7d]), /the body is no JSON/],
    ['[1, 2]', /no escrow\.v1\.PrepareRequest/],
    ['{"chekcer": "orders"}', /chekcer/],
    ['{"checker": 7}', /checker/],
    ['{"messages": [{"destination": "shop/take", "body": "not base64 %%"}]}', /body/],
  ]
  for (const [body, names] of cases) {
    const { status, text, code } = await post(here.http, 'prepare', body)
    expect([status, code], text).toEqual([400, 'malformed'])
    expect(text).toMatch(names)
  }
  await stillServes(here)
})

test('malformed protobuf is refused over gRPC and over HTTP, and names the message', async () => {
  const here = await world()
  const client = new Client(here.grpc, credentials.createInsecure())
  onTestFinished(() => client.close())
  const asIs = (bytes: Buffer) => bytes
  const call = (bytes: Buffer) =>
    new Promise((resolve, reject) => {
      const done = (error: Error | null, answer?: Buffer) =>
        error === null ? resolve(answer) : reject(errorFromGrpc(error))
      client.makeUnaryRequest('/escrow.v1.CoordinatorService/Prepare', asIs, asIs, bytes, done)
    })
  const broken = [
    // A length beyond the end, a group that never ends, a varint of eleven bytes, a text that isn't UTF-8.
    Buffer.from([0x1a, 0x7f, 0x61]),
    Buffer.from([0x0b]),
    Buffer.from([0x08, ...new Array<number>(11).fill(0xff)]),
    Buffer.from([0x1a, 0x02, 0xff, 0xfe]),
  ]
  for (const bytes of broken) {
    const error = await refusal(call(bytes), 'malformed', /no escrow\.v1\.PrepareRequest/)
    expect(error.retryable).toBe(false)
    const { status, text, code } = await post(here.http, 'prepare', bytes, {
      'content-type': 'application/proto',
    })
    expect([status, code], text).toEqual([400, 'malformed'])
  }
  await stillServes(here)
})

type Stream = ClientDuplexStream<Buffer, Buffer>

/** Opens a session's call, on which anything may be written. */
function openCall(grpc: string): Stream {
  const client = new Client(grpc, credentials.createInsecure())
  onTestFinished(() => client.close())
  const { requestSerialize, responseDeserialize } = SESSION_SERVICE.connect
  const call = client.makeBidiStreamRequest(SESSION_PATH, requestSerialize, responseDeserialize) as Stream
  call.on('data', () => {})
  return call
}

async function endOf(call: Stream): Promise<never> {
  const [error] = (await once(call, 'error', { signal: AbortSignal.timeout(10_000) })) as [Error]
  throw errorFromGrpc(error)
}

const frame = (init: Parameters<typeof create<typeof ConnectRequestSchema>>[1]): Buffer =>
  Buffer.from(toBinary(ConnectRequestSchema, create(ConnectRequestSchema, { format: 1, ...init })))
const hello = frame({ hello: { service: 'shop', deliveriesMax: 1, checkBacksMax: 1 } })

test('malformed frames end their session with a clear error, and no other', async () => {
  const here = await world()
  const neighbour = await here.connect({ service: 'neighbour' })
  const cases: readonly (readonly [frames: readonly Buffer[], names: RegExp])[] = [
    [[Buffer.from('GET / HTTP/1.1')], /./],
    [[Buffer.alloc(0)], /no format is named/],
    [[frame({ format: 9, hello: { service: 'shop' } })], /format 9 is not known/],
    [[hello, Buffer.from([0x08, 0x01, 0x22, 0x7f])], /./],
    [[hello, frame({ commands: [{ commandId: 1n }] }).subarray(0, -1)], /./],
    [[frame({ deliveryAnswers: [{ callId: 1n }] })], /begins with a hello/],
    [[Buffer.concat([hello, hello])], /came before the welcome/],
  ]
  for (const [frames, names] of cases) {
    const call = openCall(here.grpc)
    const end = refusal(endOf(call), 'malformed', names)
    for (const each of frames) call.write(each)
    await end
  }
  const encrypted = openCall(here.grpc)
  const end = refusal(endOf(encrypted), 'unsupported', /encrypted with key "k-1"/)
  encrypted.write(frame({ keyId: 'k-1', hello: { service: 'shop' } }))
  await end
  expect(neighbour.connected).toBe(true)
  expect((await neighbour.prepare(half())).status).toBe('prepared')
  await stillServes(here)
})
