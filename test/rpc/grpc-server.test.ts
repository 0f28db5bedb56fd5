import { spawn } from 'node:child_process'
import { createRequire } from 'node:module'
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { Client, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { EscrowError } from '../../src/core/errors.ts'
import { GrpcServer } from '../../src/rpc/grpc-server.ts'
import { healthService } from '../../src/rpc/health.ts'
import { COORDINATOR_SERVICE, unaryMethods } from '../../src/rpc/unary.ts'
import { unaryService } from '../../src/rpc/unary-server.ts'
import { systemRuntime } from '../../src/runtime.ts'
import { errorFromGrpc } from '../../src/wire/errors.ts'
import {
  GetRequestSchema,
  GetResponseSchema,
  PrepareRequestSchema,
} from '../../src/wire/gen/escrow/v1/coordinator_pb.ts'
import { FakeCoordination, until } from './fake-coordination.ts'

const REQUEST_BYTES_MAX = 100_000
const TRACEPARENT = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
const GET = '/escrow.v1.CoordinatorService/Get'
const PREPARE = '/escrow.v1.CoordinatorService/Prepare'
const CHECK = '/grpc.health.v1.Health/Check'
const WATCH = '/grpc.health.v1.Health/Watch'

let fake: FakeCoordination
let server: GrpcServer
let target: string
let client: Client

beforeEach(async () => {
  fake = new FakeCoordination()
  const now = () => Date.now()
  const methods = unaryMethods({
    coordination: fake,
    runtime: systemRuntime,
    inFlightMax: 100,
    isStopping: () => false,
  })
  server = new GrpcServer({
    host: '127.0.0.1',
    port: 0,
    services: [
      unaryService({ methods: methods.values(), now, requestBytesMax: REQUEST_BYTES_MAX }),
      healthService(fake, [COORDINATOR_SERVICE.typeName]),
    ],
    messageBytesMax: 2 * REQUEST_BYTES_MAX,
  })
  target = `127.0.0.1:${(await server.start()).port}`
  client = new Client(target, credentials.createInsecure())
})
afterEach(async () => {
  client.close()
  fake.release()
  await server.stop(1000)
})

const asIs = (bytes: Buffer) => bytes
const getRequest = (id: string) => Buffer.from(toBinary(GetRequestSchema, create(GetRequestSchema, { id })))

function call(
  path: string,
  bytes: Uint8Array,
  options: { metadata?: Metadata; timeoutMs?: number } = {},
): Promise<Buffer> {
  const deadline = options.timeoutMs === undefined ? {} : { deadline: Date.now() + options.timeoutMs }
  return new Promise((resolve, reject) => {
    const metadata = options.metadata ?? new Metadata()
    client.makeUnaryRequest(path, asIs, asIs, Buffer.from(bytes), metadata, deadline, (error, answer) =>
      error === null ? resolve(answer as Buffer) : reject(error),
    )
  })
}

const failure = (promise: Promise<unknown>): Promise<ServiceError> =>
  promise.then(
    () => Promise.reject(new Error('it was answered')),
    (error: ServiceError) => error,
  )

async function bufCurl(...args: string[]): Promise<{ code: number | null; out: string; err: string }> {
  const bin = createRequire(import.meta.url).resolve('@bufbuild/buf/bin/buf')
  const child = spawn(process.execPath, [
    bin,
    'curl',
    '--protocol',
    'grpc',
    '--http2-prior-knowledge',
    ...args,
  ])
  let [out, err] = ['', '']
  child.stdout.on('data', (chunk) => (out += chunk))
  child.stderr.on('data', (chunk) => (err += chunk))
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve))
  return { code, out, err }
}

describe('gRPC', () => {
  test('buf curl prepares without a schema, by reflection', async () => {
    const body = JSON.stringify({ checker: 'orders', messages: [{ destination: 'audit/log' }] })
    const { code, out, err } = await bufCurl('-d', body, `http://${target}${PREPARE}`)
    expect([code, err]).toEqual([0, ''])
    expect(JSON.parse(out)).toEqual({
      id: 'order-17',
      executionId: 'x1',
      status: 'TRANSACTION_STATUS_PREPARED',
    })
    expect(fake.requests[0]).toMatchObject({ op: 'prepare', request: { checker: 'orders' } })
  })

  test('buf curl shows the code, the message and the remedy of an error', async () => {
    fake.failure = new EscrowError('unknownChecker', 'checker "orders" was never registered')
    const { code, err } = await bufCurl('-d', '{"checker":"orders"}', `http://${target}${PREPARE}`)
    expect(code).not.toBe(0)
    expect(err).toContain('checker \\"orders\\" was never registered')
    expect(err).toContain('unknownChecker')
    expect(err).toContain(fake.failure.remedy)
  })

  test('buf curl lists the services and their methods, and asks for the health', async () => {
    const { out } = await bufCurl('--list-methods', `http://${target}`)
    expect(out).toContain('escrow.v1.CoordinatorService/Prepare')
    expect(out).toContain('grpc.health.v1.Health/Check')
    const health = await bufCurl('-d', '{}', `http://${target}${CHECK}`)
    expect(JSON.parse(health.out)).toEqual({ status: 'SERVING' })
  })

  test('an answer is the message, an error has code, details and remedy', async () => {
    expect(fromBinary(GetResponseSchema, await call(GET, getRequest('order-17'))).transaction?.id).toBe(
      'order-17',
    )
    fake.failure = new EscrowError('notFound', 'no such transaction', { details: { id: 'order-17' } })
    const error = await failure(call(GET, getRequest('order-17')))
    expect(error.code).toBe(status.NOT_FOUND)
    expect(error.metadata.get('escrow-remedy')).toEqual([fake.failure.remedy])
    expect(errorFromGrpc(error)).toMatchObject({
      code: 'notFound',
      message: 'no such transaction',
      details: { id: 'order-17' },
    })
  })

  test('bytes that are no message are refused as malformed, and reach nobody', async () => {
    const error = errorFromGrpc(await failure(call(GET, new Uint8Array([10, 200, 1]))))
    expect(error).toMatchObject({
      code: 'malformed',
      message: expect.stringContaining('escrow.v1.GetRequest'),
    })
    expect(fake.requests).toEqual([])
  })

  test.each([1, 2])(
    'a request over the limit is refused as too large (%d times the limit)',
    async (times) => {
      const error = errorFromGrpc(await failure(call(GET, getRequest('x'.repeat(REQUEST_BYTES_MAX * times)))))
      expect(error.code).toBe('tooLarge')
      expect(fake.requests).toEqual([])
    },
  )

  test('a method that does not exist is unsupported', async () => {
    const error = errorFromGrpc(
      await failure(call('/escrow.v1.CoordinatorService/Nothing', new Uint8Array())),
    )
    expect(error.code).toBe('unsupported')
  })

  test('the deadline reaches the engine, less what its word at the deadline takes to the caller', async () => {
    const before = Date.now()
    fake.holding = true
    const held = failure(
      call(PREPARE, toBinary(PrepareRequestSchema, create(PrepareRequestSchema)), { timeoutMs: 20_000 }),
    )
    await until(() => fake.requests.length === 1, 'the call is under way')
    const { deadlineMs } = fake.requests[0]!.options
    expect(deadlineMs).toBeGreaterThan(before + 19_900)
    expect(deadlineMs).toBeLessThan(Date.now() + 19_990)
    fake.failure = new EscrowError('uncertain', 'not known to be durable')
    // At once: on a busy machine the margin may be over before the word is there, and then nobody promises anything.
    fake.release()
    expect(errorFromGrpc(await held)).toMatchObject({ code: 'uncertain', message: 'not known to be durable' })
  })

  test('a deadline in the past is refused at the door', async () => {
    const metadata = new Metadata()
    metadata.set('grpc-timeout', '0m')
    const error = await failure(call(GET, getRequest('a'), { metadata }))
    expect(error.code).toBe(status.DEADLINE_EXCEEDED)
    expect(fake.requests).toEqual([])
  })

  test('a silent engine is uncertain for the caller, never refused', async () => {
    fake.holding = true
    expect(errorFromGrpc(await failure(call(GET, getRequest('a'), { timeoutMs: 50 }))).family).toBe(
      'uncertain',
    )
  })

  test('a cancelled call harms nobody', async () => {
    fake.holding = true
    const cancelled = new Promise<ServiceError | null>((resolve) => {
      const under = client.makeUnaryRequest(GET, asIs, asIs, getRequest('a'), (error) => resolve(error))
      until(() => fake.requests.length === 1, 'the call is under way').then(() => under.cancel())
    })
    expect((await cancelled)?.code).toBe(status.CANCELLED)
    fake.release()
    await call(GET, getRequest('b'))
  })

  test('the trace of the metadata becomes the transaction’s', async () => {
    const metadata = new Metadata()
    metadata.set('traceparent', TRACEPARENT)
    metadata.set('baggage', 'user=7')
    await call(PREPARE, toBinary(PrepareRequestSchema, create(PrepareRequestSchema)), { metadata })
    expect(fake.requests[0]).toMatchObject({
      request: { trace: { traceparent: TRACEPARENT, tracestate: '', baggage: 'user=7' } },
    })
  })

  test('stopping waits for what is under way, for its grace at most', async () => {
    fake.holding = true
    const held = call(GET, getRequest('a'))
    await until(() => fake.requests.length === 1, 'the call is under way')
    const stopped = server.stop(5000)
    fake.release()
    expect((await held).length).toBeGreaterThan(0)
    await stopped
  })

  test('stopping ends what does not end by itself', async () => {
    fake.holding = true
    const held = failure(call(GET, getRequest('a')))
    await until(() => fake.requests.length === 1, 'the call is under way')
    const stoppedMs = performance.now()
    await server.stop(50)
    expect(errorFromGrpc(await held).family).toBe('uncertain')
    expect(performance.now() - stoppedMs).toBeLessThan(5000)
  })
})

describe('health over gRPC', () => {
  const asked = (service: string) => Buffer.concat([Buffer.from([10, service.length]), Buffer.from(service)])

  test('it serves exactly while the engine is ready', async () => {
    expect([...(await call(CHECK, new Uint8Array()))]).toEqual([8, 1])
    expect([...(await call(CHECK, asked('escrow.v1.CoordinatorService')))]).toEqual([8, 1])
    fake.state = { state: 'starting', reason: 'recovering' }
    expect([...(await call(CHECK, new Uint8Array()))]).toEqual([8, 2])
    expect((await failure(call(CHECK, asked('nobody')))).code).toBe(status.NOT_FOUND)
  })

  test('who watches is told of each change, and of a service that nobody knows', async () => {
    const seen: number[] = []
    const watch = client.makeServerStreamRequest(WATCH, asIs, asIs, Buffer.alloc(0))
    watch.on('data', (bytes: Buffer) => seen.push(bytes[1]!)).on('error', () => {})
    await until(() => seen.length === 1, 'the first state')
    fake.state = { state: 'draining', reason: 'bye' }
    await until(() => seen.length === 2, 'the second state')
    expect(seen).toEqual([1, 2])
    watch.cancel()
    const nobody = client.makeServerStreamRequest(WATCH, asIs, asIs, asked('nobody'))
    nobody.on('data', (bytes: Buffer) => seen.push(bytes[1]!)).on('error', () => {})
    await until(() => seen.length === 3, 'the unknown service')
    expect(seen[2]).toBe(3)
    nobody.cancel()
  })

  test('more watchers than the bound are turned away, until some leave', async () => {
    const open = (onEnd: (code: number) => void) => {
      const watch = client.makeServerStreamRequest(WATCH, asIs, asIs, Buffer.alloc(0))
      watch.on('data', () => {}).on('error', (error) => onEnd((error as ServiceError).code))
      return watch
    }
    let refused = 0
    const watches = Array.from({ length: 65 }, () =>
      open((code) => (refused += Number(code === status.RESOURCE_EXHAUSTED))),
    )
    await until(() => refused === 1, 'the 65th is turned away')
    for (const watch of watches) watch.cancel()
    const one = await until(async () => {
      const before = refused
      const again = open((code) => (refused += Number(code === status.RESOURCE_EXHAUSTED)))
      const first = await new Promise<boolean>((resolve) => {
        again.once('data', () => resolve(true)).once('error', () => resolve(false))
      })
      again.cancel()
      return first && refused === before
    }, 'there is room again')
    expect(one).toBeUndefined()
  })
})
