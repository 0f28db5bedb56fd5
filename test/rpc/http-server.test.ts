import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { Agent, request } from 'node:http'
import { connect } from 'node:net'
import { promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import { Code, ConnectError, createClient } from '@connectrpc/connect'
import { createConnectTransport } from '@connectrpc/connect-node'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { EscrowError } from '../../src/core/errors.ts'
import { HttpServer } from '../../src/rpc/http-server.ts'
import { unaryMethods } from '../../src/rpc/unary.ts'
import { systemRuntime } from '../../src/runtime.ts'
import { errorFromHttp } from '../../src/wire/errors.ts'
import { CoordinatorService } from '../../src/wire/gen/escrow/v1/coordinator_pb.ts'
import { FakeCoordination, until } from './fake-coordination.ts'

const NOW_MS = 1_700_000_000_000
const REQUEST_BYTES_MAX = 100_000
const TRACEPARENT = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
const SERVICE = '/escrow.v1.CoordinatorService'

let fake: FakeCoordination
let server: HttpServer
let base: string
let stopping: boolean

beforeEach(async () => {
  fake = new FakeCoordination()
  stopping = false
  const methods = unaryMethods({
    coordination: fake,
    runtime: { ...systemRuntime, now: () => NOW_MS },
    inFlightMax: 4,
    isStopping: () => stopping,
  })
  server = new HttpServer({
    host: '127.0.0.1',
    port: 0,
    methods,
    coordination: fake,
    requestBytesMax: REQUEST_BYTES_MAX,
    connectionsMax: 100,
  })
  base = `http://127.0.0.1:${(await server.start()).port}`
})
afterEach(async () => {
  fake.release()
  await server.stop(1000)
})

const json = { 'content-type': 'application/json' }
const post = (
  method: string,
  body: string | Uint8Array<ArrayBuffer>,
  headers: Record<string, string> = json,
) => fetch(`${base}${SERVICE}/${method}`, { method: 'POST', body, headers })

async function refused(answer: Response): Promise<{ status: number; code: string; message: string }> {
  const text = await answer.text()
  const error = errorFromHttp(answer.status, text)
  // What a reader of headers or of plain JSON sees is the same.
  expect(answer.headers.get('escrow-code')).toBe(error.code)
  expect(answer.headers.get('escrow-remedy')).toBe(error.remedy)
  expect(JSON.parse(text).details[0].debug.details.remedy).toBe(error.remedy)
  return { status: answer.status, code: error.code, message: error.message }
}

describe('Connect over HTTP', () => {
  test('curl -d alone prepares, without a header', async () => {
    const body = JSON.stringify({
      checker: 'orders',
      messages: [{ destination: 'audit/log', body: 'eyJhIjoxfQ==' }],
    })
    const { stdout } = await promisify(execFile)('curl', ['-sS', '-d', body, `${base}${SERVICE}/Prepare`])
    expect(JSON.parse(stdout)).toEqual({
      id: 'order-17',
      executionId: 'x1',
      status: 'TRANSACTION_STATUS_PREPARED',
    })
    expect(fake.requests[0]).toMatchObject({
      op: 'prepare',
      request: {
        checker: 'orders',
        messages: [{ destination: 'audit/log', body: new TextEncoder().encode('{"a":1}') }],
      },
    })
  })

  test.each([true, false])(
    'the protocol’s own client is understood in every method (binary: %s)',
    async (useBinaryFormat) => {
      const client = createClient(
        CoordinatorService,
        createConnectTransport({ baseUrl: base, httpVersion: '1.1', useBinaryFormat }),
      )
      const ref = { id: 'order-17' }
      expect(await client.prepare({ checker: 'orders' })).toMatchObject({ id: 'order-17', status: 1 })
      expect(await client.commit(ref)).toMatchObject({ status: 2 })
      expect(await client.rollback(ref)).toMatchObject({ status: 4 })
      expect(await client.requestCheckBack(ref)).toMatchObject({ status: 1 })
      expect(await client.get(ref)).toMatchObject({ transaction: { id: 'order-17', checker: 'orders' } })
      expect(await client.list({})).toMatchObject({ asOfMs: 7n, transactions: [{ id: 'order-17' }] })
      expect(await client.wait(ref)).toMatchObject({ transaction: { id: 'order-17' } })
      expect(await client.retry({ ...ref, executionId: 'x' })).toMatchObject({ status: 2 })
      expect(await client.skip({ ...ref, executionId: 'x' })).toMatchObject({ status: 3 })
      expect(await client.compensate({ ...ref, executionId: 'x' })).toMatchObject({ status: 5 })
      await client.register({ service: 'audit', url: 'http://localhost:7001', handlers: ['log'] })
      expect(fake.registered).toEqual([
        {
          service: 'audit',
          url: 'http://localhost:7001',
          registration: { handlers: ['log'], checkers: [], steps: [], databaseId: '' },
        },
      ])
    },
  )

  test('the protocol’s own client sees an error of ours with its status', async () => {
    fake.failure = new EscrowError('idReused', 'another one has it', { details: { id: 'order-17' } })
    const client = createClient(
      CoordinatorService,
      createConnectTransport({ baseUrl: base, httpVersion: '1.1' }),
    )
    const thrown = ConnectError.from(await client.get({ id: 'order-17' }).catch((error) => error))
    expect(thrown).toMatchObject({
      code: Code.AlreadyExists,
      rawMessage: expect.stringContaining('another one has it'),
    })
    expect(thrown.details).toMatchObject([{ type: 'escrow.v1.Error' }])
  })

  test('a compressed request is read, and its size counts as it was before', async () => {
    const headers = { ...json, 'content-encoding': 'gzip' }
    const answer = await post('Get', new Uint8Array(gzipSync('{"id":"order-17"}')), headers)
    expect(answer.status).toBe(200)
    const bomb = gzipSync(JSON.stringify({ id: 'x'.repeat(REQUEST_BYTES_MAX) }))
    expect(bomb.length).toBeLessThan(1000)
    expect(await refused(await post('Get', new Uint8Array(bomb), headers))).toMatchObject({
      status: 400,
      code: 'tooLarge',
    })
    expect(fake.requests.length).toBe(1)
  })
})

describe('what is refused at the door, with code and remedy', () => {
  test.each([
    ['a body that is no JSON', '{"id":', 'malformed'],
    ['an empty body', '', 'malformed'],
    ['JSON that is no message', '[]', 'malformed'],
    ['a field of the wrong type', '{"id":7}', 'malformed'],
    ['a field that is not known', '{"idd":"a"}', 'malformed'],
    ['a body that is no base64', '{"bodies":[{"body":"%%%"}]}', 'malformed'],
    [
      'bytes that are no UTF-8',
      new Uint8Array([...Buffer.from('{"id":"'), 255, ...Buffer.from('"}')]),
      'malformed',
    ],
  ])('%s', async (_, body, code) => {
    expect(await refused(await post('Commit', body))).toMatchObject({ status: 400, code })
    expect(fake.requests).toEqual([])
  })

  test('binary that is no protobuf', async () => {
    const answer = await post('Get', new Uint8Array([10, 200, 1]), { 'content-type': 'application/proto' })
    expect(await refused(answer)).toMatchObject({ status: 400, code: 'malformed' })
  })

  test.each([
    [{ 'connect-protocol-version': '2' }, 'malformed'],
    [{ 'connect-timeout-ms': '-1' }, 'malformed'],
    [{ 'connect-timeout-ms': 'soon' }, 'malformed'],
    [{ 'content-encoding': 'br' }, 'malformed'],
    [{ 'connect-timeout-ms': '0' }, 'deadlineExceeded'],
  ])('headers %j', async (headers, code) => {
    expect(await refused(await post('Get', '{}', { ...json, ...headers }))).toMatchObject({ code })
    expect(fake.requests).toEqual([])
  })

  test.each(['text/plain', 'multipart/form-data', 'application/grpc'])('the media type %s', async (type) => {
    expect(await refused(await post('Get', '{}', { 'content-type': type }))).toMatchObject({
      status: 415,
      code: 'malformed',
    })
  })

  test('a form that a web page sent: any site could make a browser do so', async () => {
    const form = { 'content-type': 'application/x-www-form-urlencoded' }
    expect((await post('Get', '{"id":"a"}', form)).status).toBe(200)
    const bad = await post('Get', '{"id":"a"}', { ...form, origin: 'https://example.org' })
    expect(await refused(bad)).toMatchObject({ status: 415 })
  })

  test('a path that does not exist is answered with those that do', async () => {
    const answer = await refused(await fetch(`${base}/prepare`))
    expect(answer).toMatchObject({ status: 404, code: 'unsupported' })
    expect(answer.message).toContain('POST /escrow.v1.CoordinatorService/ and one of Prepare, Commit')
  })

  test('the wrong verb', async () => {
    expect(await refused(await fetch(`${base}${SERVICE}/Get`))).toMatchObject({ status: 405 })
    expect(await refused(await fetch(`${base}/healthz`, { method: 'POST' }))).toMatchObject({ status: 405 })
  })

  test('a body over its limit, announced or not', async () => {
    const body = JSON.stringify({ id: 'x'.repeat(REQUEST_BYTES_MAX) })
    expect(await refused(await post('Get', body))).toMatchObject({ status: 400, code: 'tooLarge' })
    const answer = await new Promise<string>((resolve, reject) => {
      const sent = request(`${base}${SERVICE}/Get`, { method: 'POST', headers: json }, (response) => {
        let text = ''
        response.on('data', (chunk) => (text += chunk)).on('end', () => resolve(text))
      })
      sent.on('error', reject)
      sent.write(body)
      // Not ended: the refusal must not wait for the rest.
    })
    expect(JSON.parse(answer).details[0].debug.code).toBe('tooLarge')
    const socket = connect(Number(new URL(base).port), '127.0.0.1')
    socket.write(
      `POST ${SERVICE}/Get HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 999999\r\n\r\n`,
    )
    // Nothing of the body is sent: what was announced is enough.
    const [head] = (await once(socket, 'data')) as [Buffer]
    expect(head.toString()).toContain('escrow-code: tooLarge')
    socket.destroy()
  })

  test('more calls at once than inFlightMax, until one of them is answered', async () => {
    fake.holding = true
    const held = Array.from({ length: 4 }, () => post('Get', '{"id":"a"}'))
    await until(() => fake.requests.length === 4, 'four calls under way')
    expect(await refused(await post('Get', '{"id":"a"}'))).toMatchObject({ status: 429, code: 'overloaded' })
    fake.release()
    for (const answer of await Promise.all(held)) expect(answer.status).toBe(200)
    expect((await post('Get', '{"id":"a"}')).status).toBe(200)
  })

  test('a log that moves only takes longer; while as many wait as may, the others are told', async () => {
    fake.failure = new EscrowError('notOwner', 'it moves')
    const waiting = [post('Get', '{"id":"a"}'), post('Get', '{"id":"b"}')]
    const ids = () => new Set(fake.requests.map(({ request }) => (request as { id: string }).id))
    await until(() => ids().size === 2, 'both wait')
    expect(await refused(await post('Get', '{"id":"c"}'))).toMatchObject({ code: 'notOwner' })
    fake.failure = undefined
    for (const answer of await Promise.all(waiting)) expect(answer.status).toBe(200)
  })

  test('whatever comes while the coordinator stops', async () => {
    stopping = true
    expect(await refused(await post('Get', '{"id":"a"}'))).toMatchObject({
      status: 503,
      code: 'shuttingDown',
    })
    expect(fake.requests).toEqual([])
  })

  test('a listener’s URL that cannot be called', async () => {
    for (const url of [
      'ftp://a:1',
      'a:1',
      'http://',
      'http://u:p@a',
      'http://a/b',
      'grpc://a',
      `http://${'a'.repeat(600)}`,
    ]) {
      const answer = await refused(await post('Register', JSON.stringify({ service: 'audit', url })))
      expect(answer).toMatchObject({ code: 'invalidArgument' })
    }
    expect(await refused(await post('Register', '{"service":"No"}'))).toMatchObject({
      code: 'invalidArgument',
    })
  })
})

describe('time, traces, health, and the end', () => {
  test('connect-timeout-ms becomes the deadline, less a margin; without it there is a bound', async () => {
    await post('Get', '{}', { ...json, 'connect-timeout-ms': '1000' })
    await post('Get', '{}')
    await post('Wait', '{}')
    await post('Wait', '{}', { ...json, 'connect-timeout-ms': '9999999999' })
    const waits = fake.requests.map(({ options }) => options.deadlineMs - NOW_MS)
    expect(waits).toEqual([980, 30_000, 300_000, 3_600_000 - 20])
  })

  test('the trace of the headers is the transaction’s, unless the request has its own', async () => {
    const headers = { ...json, traceparent: TRACEPARENT, tracestate: 'a=1', baggage: 'user=7' }
    await post('Prepare', '{"checker":"orders"}', headers)
    await post('Prepare', '{"checker":"orders","trace":{"baggage":"own=1"}}', headers)
    await post('Prepare', '{"checker":"orders"}', { ...json, traceparent: 'nonsense' })
    expect(fake.requests.map(({ request }) => (request as { trace?: unknown }).trace)).toEqual([
      { traceparent: TRACEPARENT, tracestate: 'a=1', baggage: 'user=7' },
      { traceparent: '', tracestate: '', baggage: 'own=1' },
      { traceparent: '', tracestate: '', baggage: '' },
    ])
  })

  test('it is alive whenever it answers, and ready only when the engine is', async () => {
    expect((await fetch(`${base}/readyz`)).status).toBe(200)
    fake.state = { state: 'degraded', reason: 'the store is away' }
    const ready = await fetch(`${base}/readyz`)
    expect([ready.status, await ready.json()]).toEqual([
      503,
      { state: 'degraded', reason: 'the store is away' },
    ])
    expect((await fetch(`${base}/healthz`)).status).toBe(200)
    const head = await fetch(`${base}/readyz`, { method: 'HEAD' })
    expect([head.status, await head.text()]).toEqual([503, ''])
  })

  test('a caller that hangs up harms nobody, and its call counts until it is answered', async () => {
    fake.holding = true
    const hangUp = new AbortController()
    const gone = fetch(`${base}${SERVICE}/Get`, {
      method: 'POST',
      body: '{"id":"a"}',
      headers: json,
      signal: hangUp.signal,
    })
    await until(() => fake.requests.length === 1, 'the call is under way')
    hangUp.abort()
    await expect(gone).rejects.toThrow()
    const others = [1, 2, 3].map(() => post('Get', '{"id":"a"}'))
    await until(() => fake.requests.length === 4, 'three more are under way')
    expect((await post('Get', '{"id":"a"}')).status).toBe(429)
    fake.release()
    for (const answer of await Promise.all(others)) expect(answer.status).toBe(200)
  })

  test('a body that breaks off harms nobody', async () => {
    const socket = connect(Number(new URL(base).port), '127.0.0.1')
    socket.write(
      `POST ${SERVICE}/Get HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{"id"`,
    )
    await new Promise((resolve) => socket.once('connect', resolve))
    socket.destroy()
    expect((await post('Get', '{"id":"a"}')).status).toBe(200)
    expect(fake.requests.length).toBe(1)
  })

  test('stopping answers what is under way, refuses what comes, and keeps no idle connection', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    const call = (body: string) =>
      new Promise<[number, string | undefined]>((resolve, reject) => {
        const sent = request(
          `${base}${SERVICE}/Get`,
          { method: 'POST', headers: json, agent },
          (response) => {
            response
              .resume()
              .on('end', () => resolve([response.statusCode ?? 0, response.headers.connection]))
          },
        )
        sent.on('error', reject)
        sent.end(body)
      })
    expect(await call('{"id":"a"}')).toEqual([200, 'keep-alive'])
    fake.holding = true
    const held = call('{"id":"a"}')
    await until(() => fake.requests.length === 2, 'a call is under way')
    const stopped = server.stop(5000)
    fake.release()
    expect(await held).toEqual([200, 'close'])
    await stopped
    await expect(call('{"id":"a"}')).rejects.toThrow('ECONNREFUSED')
    agent.destroy()
  })

  test('stopping ends what does not end by itself within its grace', async () => {
    fake.holding = true
    const held = post('Get', '{"id":"a"}')
    held.catch(() => {})
    await until(() => fake.requests.length === 1, 'a call is under way')
    await server.stop(50)
    await expect(held).rejects.toThrow()
  })

  test('a port that is taken is named', async () => {
    const port = Number(new URL(base).port)
    const second = new HttpServer({
      host: '127.0.0.1',
      port,
      methods: new Map(),
      coordination: fake,
      requestBytesMax: 1,
      connectionsMax: 1,
    })
    await expect(second.start()).rejects.toMatchObject({
      code: 'invalidArgument',
      message: `http: can't listen on 127.0.0.1:${port}: the port is taken`,
    })
  })
})
