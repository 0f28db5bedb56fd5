import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import {
  type AddressInfo,
  createServer as createTcpServer,
  type Socket,
  type Server as TcpServer,
} from 'node:net'
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import {
  Server as GrpcServer,
  Metadata,
  ServerCredentials,
  type ServerUnaryCall,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { CheckBackRequest, DeliverRequest } from '../../src/core/api.ts'
import { NO_TRACE } from '../../src/core/envelope.ts'
import type { CheckBackOutcome, DeliveryOutcome } from '../../src/engine/outlet.ts'
import { ANSWER_BYTES_MAX } from '../../src/rpc/call-transport.ts'
import { ListenerCaller } from '../../src/rpc/callers.ts'
import {
  CheckBackRequestSchema,
  CheckBackResponseSchema,
  DeliverOutcome,
  DeliverRequestSchema,
  DeliverResponseSchema,
} from '../../src/wire/gen/escrow/v1/participant_pb.ts'
import { Resolution } from '../../src/wire/gen/escrow/v1/transaction_pb.ts'
import { freePort } from '../harness/coordinator-process.ts'
import { until } from './fake-coordination.ts'

const TRACE = {
  traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01',
  tracestate: 'a=1',
  baggage: 'user=7',
}
const DELIVERY: DeliverRequest = {
  namespace: 'default',
  transactionId: 'order-17',
  executionId: 'x1.0',
  attempt: 1,
  service: 'audit',
  handler: 'log',
  body: new Uint8Array([1, 2, 255]),
  headers: { a: 'b' },
  key: 'k',
  contentType: 'application/json',
  trace: TRACE,
  timeoutMs: 2000,
}
/** Waits longer than any test may take. */
const PATIENT: DeliverRequest = { ...DELIVERY, timeoutMs: 60_000 }
const QUESTION: CheckBackRequest = {
  namespace: 'default',
  transactionId: 'order-17',
  executionId: 'x1',
  attempt: 2,
  checker: 'orders',
  preparedAtMs: 1_700_000_000_000,
  trace: NO_TRACE,
  timeoutMs: 2000,
}

const callers: ListenerCaller[] = []
const closers: (() => void)[] = []
afterEach(() => {
  for (const caller of callers.splice(0)) caller.close()
  for (const close of closers.splice(0)) close()
})

function open(url: string, callsMax?: number): ListenerCaller {
  const caller = new ListenerCaller(url, { now: () => Date.now(), callsMax })
  callers.push(caller)
  return caller
}

const deliver = (caller: ListenerCaller, request = DELIVERY) =>
  new Promise<DeliveryOutcome>((resolve, reject) => {
    let times = 0
    caller.deliver(request, (outcome) => (times++ === 0 ? resolve(outcome) : reject(new Error('done twice'))))
    expect(times, 'done is called later than the call').toBe(0)
  })
const checkBack = (caller: ListenerCaller, request = QUESTION) =>
  new Promise<CheckBackOutcome>((resolve) => caller.checkBack(request, resolve))

async function tcp(onSocket: (socket: Socket) => void): Promise<number> {
  const server: TcpServer = createTcpServer(onSocket)
  const sockets = new Set<Socket>()
  server.on('connection', (socket) => sockets.add(socket.on('error', () => {})))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closers.push(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

/** Nobody listens there: it is not among the ports that are given to whoever asks for any. */
const deadPort = 1

describe.each(['grpc', 'http'] as const)('over %s, whatever the transport', (protocol) => {
  test('nobody there is no session, and not an attempt', async () => {
    const caller = open(`${protocol}://127.0.0.1:${deadPort}`)
    // At once: nobody waits for the time-out where it is known.
    expect(await deliver(caller, PATIENT)).toMatchObject({ outcome: 'noSession' })
    expect(await checkBack(caller)).toMatchObject({ outcome: 'noSession' })
    expect(caller.room).toBe(256)
  })

  test('a host that does not exist is no session', async () => {
    const caller = open(`${protocol}://nobody.invalid:7001`)
    expect(await deliver(caller)).toMatchObject({ outcome: 'noSession' })
  })

  test('a peer that takes the connection and says nothing never yields an outcome', async () => {
    const caller = open(`${protocol}://127.0.0.1:${await tcp(() => {})}`)
    const outcome = await deliver(caller, { ...DELIVERY, timeoutMs: 1_000 })
    // Over gRPC nothing was sent, as the connection never came about; over HTTP the request was.
    expect(outcome.outcome).toBe(protocol === 'grpc' ? 'noSession' : 'unknown')
  })

  test('more calls at once than callsMax find nobody, until one is answered', async () => {
    const caller = open(`${protocol}://127.0.0.1:${await tcp(() => {})}`, 1)
    const first = deliver(caller, { ...DELIVERY, timeoutMs: 1_000 })
    expect(caller.room).toBe(0)
    expect(await deliver(caller)).toMatchObject({
      outcome: 'noSession',
      error: expect.stringContaining('limit'),
    })
    await first
    expect(caller.room).toBe(1)
  })
})

describe('HTTP participants', () => {
  let server: Server
  let url: string
  let requests: { path: string; headers: IncomingMessage['headers']; body: Record<string, unknown> }[]
  let answer: (response: ServerResponse) => void
  let sockets: Set<unknown>

  beforeEach(async () => {
    requests = []
    sockets = new Set()
    answer = (response) => response.writeHead(200).end('{"outcome":"DELIVER_OUTCOME_DELIVERED"}')
    server = createServer((request, response) => {
      sockets.add(request.socket)
      let text = ''
      request.on('data', (chunk) => (text += chunk))
      request.on('end', () => {
        requests.push({ path: request.url ?? '', headers: request.headers, body: JSON.parse(text) })
        answer(response)
      })
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    closers.push(() => {
      server.closeAllConnections()
      server.close()
    })
  })

  test('a delivery is proto-JSON under the service’s path, with the trace and the time in its headers', async () => {
    const caller = open(url)
    expect(await deliver(caller)).toEqual({ outcome: 'delivered', error: '' })
    const [{ path, headers, body }] = requests as [(typeof requests)[0]]
    expect(path).toBe('/escrow.v1.ParticipantService/Deliver')
    expect(headers).toMatchObject({
      ...TRACE,
      'content-type': 'application/json',
      'connect-protocol-version': '1',
      'connect-timeout-ms': '2000',
    })
    expect(body).toMatchObject({
      executionId: 'x1.0',
      body: 'AQL/',
      headers: { a: 'b' },
      attempt: 1,
      timeoutMs: '2000',
    })
  })

  test('a check-back carries the resolution and the bodies', async () => {
    answer = (response) =>
      response.end('{"resolution":"RESOLUTION_COMMIT","bodies":[{"index":1,"body":"AQ=="}],"new":1}')
    const outcome = await checkBack(open(url))
    expect(outcome).toEqual({
      resolution: 'commit',
      bodies: [{ index: 1, body: new Uint8Array([1]) }],
      error: '',
    })
    expect(requests[0]).toMatchObject({
      path: '/escrow.v1.ParticipantService/CheckBack',
      body: { checker: 'orders', preparedAtMs: '1700000000000' },
    })
  })

  test('connections are kept', async () => {
    const caller = open(url)
    for (let i = 0; i < 5; i++) await deliver(caller)
    expect(sockets.size).toBe(1)
  })

  test.each([
    ['DELIVER_OUTCOME_FAILED', 'failed'],
    ['DELIVER_OUTCOME_REFUSED', 'refused'],
    ['DELIVER_OUTCOME_UNSPECIFIED', 'unknown'],
    [99, 'unknown'],
  ])('the outcome %s is %s', async (outcome, expected) => {
    answer = (response) => response.end(JSON.stringify({ outcome, error: 'why' }))
    expect(await deliver(open(url))).toEqual({ outcome: expected, error: 'why' })
  })

  test.each([
    '',
    '{}',
    'null',
    '[]',
    'OK',
    '<html>',
    '{"outcome":"DONE"}',
    '{"outcome":true}',
    '{"resolution":"YES"}',
  ])('a 200 with %j is unknown, for a delivery and for a check-back', async (body) => {
    answer = (response) => response.end(body)
    const caller = open(url)
    expect(await deliver(caller)).toMatchObject({ outcome: 'unknown' })
    expect(await checkBack(caller)).toMatchObject({ resolution: 'unknown' })
  })

  test.each([201, 204, 301, 307, 400, 404, 500, 503])(
    'status %i is unknown, whatever its body says',
    async (code) => {
      answer = (response) =>
        response
          .writeHead(code, { location: `${url}/elsewhere` })
          .end('{"outcome":"DELIVER_OUTCOME_DELIVERED","resolution":"RESOLUTION_COMMIT"}')
      const caller = open(url)
      expect(await deliver(caller)).toMatchObject({
        outcome: 'unknown',
        error: expect.stringContaining(`HTTP ${code}`),
      })
      expect(await checkBack(caller)).toMatchObject({ resolution: 'unknown' })
      expect(requests.map(({ path }) => path)).not.toContain('/elsewhere')
    },
  )

  test('the message of a Connect error is told', async () => {
    answer = (response) =>
      response.writeHead(503).end('{"code":"unavailable","message":"the ledger is closed"}')
    expect(await deliver(open(url))).toMatchObject({ error: 'HTTP 503: the ledger is closed' })
  })

  test('a connection that breaks after the request is unknown, also in the middle of the answer', async () => {
    const caller = open(url)
    answer = (response) => response.destroy()
    expect(await deliver(caller)).toMatchObject({ outcome: 'unknown' })
    answer = (response) => {
      response.writeHead(200, { 'content-length': 100 }).write('{"outcome":"DELIVER_OUTCOME_DELIVERED"')
      setTimeout(() => response.destroy(), 10)
    }
    expect(await deliver(caller)).toMatchObject({ outcome: 'unknown' })
  })

  test('an answer over its limit is not read to the end', async () => {
    let written = 0
    answer = (response) => {
      const more = (): void => {
        if (response.destroyed) return
        written += 1 << 20
        response.write(Buffer.alloc(1 << 20, 32), () => more())
      }
      more()
    }
    expect(await deliver(open(url))).toMatchObject({
      outcome: 'unknown',
      error: expect.stringContaining(String(ANSWER_BYTES_MAX)),
    })
    expect(written).toBeLessThan(8 * ANSWER_BYTES_MAX)
  })

  test('a slow answer is unknown at its time-out, and the connection is not used again', async () => {
    answer = () => {}
    const caller = open(url)
    expect(await deliver(caller, { ...DELIVERY, timeoutMs: 1_000 })).toMatchObject({ outcome: 'unknown' })
    answer = (response) => response.end('{"outcome":"DELIVER_OUTCOME_DELIVERED"}')
    expect(await deliver(caller)).toMatchObject({ outcome: 'delivered' })
    expect(sockets.size).toBe(2)
  })

  test('a trace that no header can carry is left out', async () => {
    const trace = { ...TRACE, baggage: 'a=1\r\nx-injected: 1', tracestate: 'ü' }
    expect(await deliver(open(url), { ...DELIVERY, trace })).toMatchObject({ outcome: 'delivered' })
    expect(requests[0]?.headers).toMatchObject({ traceparent: TRACE.traceparent })
    expect(Object.keys(requests[0]?.headers ?? {})).not.toContain('x-injected')
    expect(requests[0]?.headers.baggage).toBeUndefined()
  })

  test('closing ends what is under way as unknown', async () => {
    answer = () => {}
    const caller = open(url)
    const under = deliver(caller, PATIENT)
    await until(() => requests.length === 1, 'the call is under way')
    caller.close()
    expect(await under).toMatchObject({ outcome: 'unknown' })
  })
})

describe('gRPC participants', () => {
  let server: GrpcServer
  let url: string
  let calls: ServerUnaryCall<Buffer, Buffer>[]
  let answer: (callback: sendUnaryData<Buffer>) => void

  async function listen(port: number): Promise<number> {
    const method = (name: string) => ({
      path: `/escrow.v1.ParticipantService/${name}`,
      requestStream: false as const,
      responseStream: false as const,
      requestSerialize: (bytes: Buffer) => bytes,
      requestDeserialize: (bytes: Buffer) => bytes,
      responseSerialize: (bytes: Buffer) => bytes,
      responseDeserialize: (bytes: Buffer) => bytes,
    })
    const handle = (call: ServerUnaryCall<Buffer, Buffer>, callback: sendUnaryData<Buffer>) => {
      calls.push(call)
      answer(callback)
    }
    server = new GrpcServer()
    server.addService(
      { deliver: method('Deliver'), checkBack: method('CheckBack') },
      { deliver: handle, checkBack: handle },
    )
    return new Promise((resolve, reject) => {
      server.bindAsync(`127.0.0.1:${port}`, ServerCredentials.createInsecure(), (error, bound) =>
        error ? reject(error) : resolve(bound),
      )
    })
  }

  const delivered = () =>
    Buffer.from(
      toBinary(DeliverResponseSchema, create(DeliverResponseSchema, { outcome: DeliverOutcome.DELIVERED })),
    )

  beforeEach(async () => {
    calls = []
    answer = (callback) => callback(null, delivered())
    url = `grpc://127.0.0.1:${await listen(0)}`
    closers.push(() => server.forceShutdown())
  })

  test('a delivery and a check-back arrive whole, with the trace in the metadata', async () => {
    const caller = open(url)
    expect(await deliver(caller)).toEqual({ outcome: 'delivered', error: '' })
    const response = create(CheckBackResponseSchema, {
      resolution: Resolution.COMMIT,
      bodies: [{ index: 1, body: new Uint8Array([1]) }],
    })
    answer = (callback) => callback(null, Buffer.from(toBinary(CheckBackResponseSchema, response)))
    expect(await checkBack(caller)).toMatchObject({
      resolution: 'commit',
      bodies: [{ index: 1, body: Buffer.from([1]) }],
    })
    const [first, second] = calls as [(typeof calls)[0], (typeof calls)[0]]
    expect(fromBinary(DeliverRequestSchema, first.request)).toMatchObject({
      executionId: 'x1.0',
      handler: 'log',
      headers: { a: 'b' },
    })
    expect(first.metadata.getMap()).toMatchObject(TRACE)
    expect(Number(first.getDeadline())).toBeLessThan(Date.now() + 2100)
    expect(fromBinary(CheckBackRequestSchema, second.request)).toMatchObject({
      checker: 'orders',
      attempt: 2,
    })
  })

  test.each([
    ['nothing', new Uint8Array()],
    ['an unknown outcome', new Uint8Array([8, 99])],
    ['no protobuf', new Uint8Array([10, 200, 1])],
  ])('an answer with %s is unknown', async (_, bytes) => {
    answer = (callback) => callback(null, Buffer.from(bytes))
    const caller = open(url)
    expect(await deliver(caller)).toMatchObject({ outcome: 'unknown' })
    expect(await checkBack(caller)).toMatchObject({ resolution: 'unknown' })
  })

  test.each([
    status.UNAVAILABLE,
    status.INTERNAL,
    status.UNIMPLEMENTED,
    status.NOT_FOUND,
    status.RESOURCE_EXHAUSTED,
  ])('status %i from the participant is unknown: it was asked', async (code) => {
    answer = (callback) => callback({ code, details: 'why', metadata: new Metadata() })
    const caller = open(url)
    expect(await deliver(caller)).toEqual({ outcome: 'unknown', error: 'why' })
    expect(calls.length).toBe(1)
  })

  test('a slow answer is unknown at its time-out', async () => {
    answer = () => {}
    expect(await deliver(open(url), { ...DELIVERY, timeoutMs: 1_000 })).toMatchObject({ outcome: 'unknown' })
  })

  test('an answer over its limit is unknown', async () => {
    answer = (callback) => callback(null, Buffer.alloc(ANSWER_BYTES_MAX + 1))
    expect(await deliver(open(url))).toMatchObject({ outcome: 'unknown' })
  })

  test('a participant that dies in the middle is unknown, then gone, and found again when it is back', async () => {
    server.forceShutdown()
    // One that no outgoing connection takes while nobody listens there.
    const port = await listen(await freePort())
    const caller = open(`grpc://127.0.0.1:${port}`)
    answer = () => server.forceShutdown()
    expect(await deliver(caller)).toMatchObject({ outcome: 'unknown' })
    await until(async () => (await deliver(caller)).outcome === 'noSession', 'it is seen to be gone')
    answer = (callback) => callback(null, delivered())
    await listen(port)
    await until(async () => (await deliver(caller)).outcome === 'delivered', 'it is found again')
  })

  test('closing ends what is under way as unknown', async () => {
    answer = () => {}
    const caller = open(url)
    const under = deliver(caller, PATIENT)
    await until(() => calls.length === 1, 'the call is under way')
    caller.close()
    expect(await under).toMatchObject({ outcome: 'unknown' })
    expect(await deliver(caller)).toMatchObject({ outcome: 'noSession' })
  })
})
