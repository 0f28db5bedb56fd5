import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import {
  create,
  type DescMessage,
  fromBinary,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from '@bufbuild/protobuf'
import { Client, credentials, Server, ServerCredentials } from '@grpc/grpc-js'
import { afterEach, expect, test } from 'vitest'
import { EscrowError } from '../../src/core/errors.ts'
import { later } from '../../src/participant/later.ts'
import {
  type ListeningParticipant,
  type ListenOptions,
  participant,
} from '../../src/participant/participant.ts'
import type { ReceivedMessage } from '../../src/participant/received-message.ts'
import { refuse } from '../../src/participant/refusal.ts'
import { errorFromGrpc, errorToHttp } from '../../src/wire/errors.ts'
import {
  CheckBackRequestSchema,
  CheckBackResponseSchema,
  DeliverOutcome,
  DeliverRequestSchema,
  DeliverResponseSchema,
  StepOperation,
  StepOutcome,
  StepRequestSchema,
  StepResponseSchema,
} from '../../src/wire/gen/escrow/v1/participant_pb.ts'
import { failure, until } from './barrier-world.ts'

const open: ListeningParticipant[] = []
const clients: Client[] = []

afterEach(async () => {
  for (const client of clients.splice(0)) client.close()
  await Promise.all(open.splice(0).map((each) => each.close()))
})

let seen: ReceivedMessage | undefined
const service = participant(
  'inventory',
  {
    take: (message) => {
      seen = message
    },
    refuse: () => {
      throw refuse('no such article')
    },
    hang: () => new Promise(() => {}),
    reserve: {
      action: ({ sku }: { sku: string }) => {
        if (sku === '') throw refuse('no such article', 'noArticle')
        return { sku, seat: 12 }
      },
      compensation: () => later,
    },
  },
  { checkers: { stock: () => ({ resolution: 'commit', bodies: [{ index: 1, body: Buffer.from('b') }] }) } },
)

async function listen(options: ListenOptions = {}): Promise<ListeningParticipant> {
  const listening = await service.listen({ grpc: 0, http: 0 }, options)
  open.push(listening)
  return listening
}

async function post(
  port: number | undefined,
  path: string,
  body: unknown,
  more: RequestInit = {},
): Promise<{ status: number; json: unknown; code: string | null; connection: string | null }> {
  const response = await fetch(`http://127.0.0.1:${port}/escrow.v1.ParticipantService/${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: typeof body === 'string' ? body : JSON.stringify(body),
    ...more,
  })
  const header = (name: string) => response.headers.get(name)
  const { status } = response
  return {
    status,
    json: await response.json(),
    code: header('escrow-code'),
    connection: header('connection'),
  }
}

function call<I extends DescMessage, O extends DescMessage>(
  port: number | undefined,
  name: string,
  [input, output]: readonly [I, O],
  request: MessageInitShape<I> | Buffer,
): Promise<MessageShape<O>> {
  const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure())
  clients.push(client)
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      `/escrow.v1.ParticipantService/${name}`,
      (message: Buffer) => message,
      (bytes: Buffer) => fromBinary(output, bytes),
      request instanceof Buffer
        ? request
        : Buffer.from(toBinary(input, create(input, request as MessageInitShape<I>))),
      (error, response) =>
        error === null ? resolve(response as MessageShape<O>) : reject(errorFromGrpc(error)),
    )
  })
}

const DELIVER = [DeliverRequestSchema, DeliverResponseSchema] as const
const STEP = [StepRequestSchema, StepResponseSchema] as const
const CHECK_BACK = [CheckBackRequestSchema, CheckBackResponseSchema] as const

test('a message comes over HTTP with JSON', async () => {
  const { httpPort } = await listen()
  const body = Buffer.from('{"n":1}').toString('base64')
  const answer = await post(httpPort, 'Deliver', {
    executionId: 'x',
    handler: 'take',
    body,
    attempt: 2,
    newField: 1,
  })
  expect(answer).toMatchObject({ status: 200, json: { outcome: 'DELIVER_OUTCOME_DELIVERED' } })
  expect(seen?.json()).toEqual({ n: 1 })
  expect(seen?.attempt).toBe(2)
  expect((await post(httpPort, 'Deliver', { executionId: 'x', handler: 'refuse' })).json).toEqual({
    outcome: 'DELIVER_OUTCOME_REFUSED',
    error: 'no such article',
  })
  expect(
    (await post(httpPort, 'Deliver', { executionId: 'x', handler: 'hang', timeoutMs: '30' })).json,
  ).toEqual({ error: 'the handler did not answer within 30 ms' })
  expect((await post(httpPort, 'CheckBack', { executionId: 'x', checker: 'stock' })).json).toEqual({
    resolution: 'RESOLUTION_COMMIT',
    bodies: [{ index: 1, body: Buffer.from('b').toString('base64') }],
  })
})

test('a message comes over gRPC', async () => {
  const { grpcPort } = await listen()
  const answer = await call(grpcPort, 'Deliver', DELIVER, {
    executionId: 'x',
    handler: 'take',
    body: Buffer.from('1'),
  })
  expect(answer.outcome).toBe(DeliverOutcome.DELIVERED)
  expect(
    await call(grpcPort, 'CheckBack', CHECK_BACK, { executionId: 'x', checker: 'nobody' }),
  ).toMatchObject({ error: 'there is no checker nobody here' })
})

test('a step comes over HTTP with JSON, and over gRPC', async () => {
  const { httpPort, grpcPort } = await listen()
  const base64 = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64')
  const step = { executionId: 'x', step: 'reserve', operation: 'STEP_OPERATION_ACTION' }
  expect(
    (await post(httpPort, 'Step', { ...step, input: base64({ sku: 'A-1' }), newField: 1 })).json,
  ).toEqual({
    outcome: 'STEP_OUTCOME_DONE',
    result: base64({ sku: 'A-1', seat: 12 }),
  })
  expect((await post(httpPort, 'Step', { ...step, input: base64({ sku: '' }) })).json).toEqual({
    outcome: 'STEP_OUTCOME_REFUSED',
    code: 'noArticle',
    error: 'no such article',
  })
  const undo = { executionId: 'x', step: 'reserve', operation: StepOperation.COMPENSATION }
  expect(await call(grpcPort, 'Step', STEP, undo)).toMatchObject({ outcome: StepOutcome.LATER })
  expect((await failure(call(grpcPort, 'Step', STEP, { ...undo, operation: 0 }))).code).toBe(
    'invalidArgument',
  )
  for (const wrong of [
    { ...step, operation: 'STEP_OPERATION_PERHAPS' },
    { ...step, step: '' },
    { step: 'reserve' },
  ]) {
    expect(await post(httpPort, 'Step', wrong)).toMatchObject({ status: 400, code: 'invalidArgument' })
  }
})

test('bad requests get clear errors', async () => {
  const { httpPort, grpcPort } = await listen()
  const told = async (path: string, body: unknown, more?: RequestInit) => {
    const { status, code } = await post(httpPort, path, body, more)
    return [status, code]
  }
  expect(await told('Deliver', '{ no json')).toEqual([400, 'malformed'])
  expect(await told('Deliver', { body: '***' })).toEqual([400, 'malformed'])
  expect(await told('Deliver', { executionId: 'x' })).toEqual([400, 'invalidArgument'])
  expect(await told('CheckBack', { checker: 'stock' })).toEqual([400, 'invalidArgument'])
  expect(await told('Nothing', {})).toEqual([404, 'unsupported'])
  expect(await told('Deliver', {}, { headers: { 'content-type': 'text/plain' } })).toEqual([
    415,
    'unsupported',
  ])
  expect(await told('Deliver', { body: 'A'.repeat(5 << 20) })).toEqual([413, 'tooLarge'])
  const got = await fetch(`http://127.0.0.1:${httpPort}/escrow.v1.ParticipantService/Deliver`)
  expect([got.status, got.headers.get('allow')]).toEqual([405, 'POST'])
  expect(await told('Deliver', { executionId: 'x', handler: 'take' })).toEqual([200, null])
  expect((await failure(call(grpcPort, 'Deliver', DELIVER, Buffer.from([0xff, 0xff])))).code).toBe(
    'malformed',
  )
  expect((await failure(call(grpcPort, 'Deliver', DELIVER, { handler: 'take' }))).code).toBe(
    'invalidArgument',
  )
  expect((await failure(service.listen({}))).code).toBe('invalidArgument')
  expect((await failure(service.listen(grpcPort as number))).code).toBe('invalidArgument')
  expect((await failure(service.listen(httpPort as number, { protocol: 'http' }))).code).toBe(
    'invalidArgument',
  )
})

test('it makes itself known, and tries until the coordinator is there', async () => {
  const requests: unknown[] = []
  let refusals = 2
  const http = createServer(async (request, response) => {
    let text = ''
    for await (const chunk of request) text += chunk
    const error = errorToHttp(new EscrowError(refusals-- > 0 ? 'storeUnavailable' : 'unknownNamespace', 'no'))
    if (refusals >= 0 || text.includes('nowhere'))
      response.writeHead(error.httpStatus, error.headers).end(error.body)
    else {
      requests.push(request.url, JSON.parse(text))
      response.end('{}')
    }
  })
  await once(http.listen(0, '127.0.0.1'), 'listening')
  const register = `http://127.0.0.1:${(http.address() as AddressInfo).port}`
  const { grpcPort } = await listen({ register })
  expect(requests).toEqual([
    '/escrow.v1.CoordinatorService/Register',
    {
      namespace: 'default',
      service: 'inventory',
      url: `grpc://127.0.0.1:${grpcPort}`,
      handlers: ['take', 'refuse', 'hang'],
      steps: ['reserve'],
      checkers: ['stock'],
    },
  ])
  expect((await failure(service.listen(0, { register, namespace: 'nowhere' }))).code).toBe('unknownNamespace')
  http.close()
  http.closeAllConnections()
  await once(http, 'close')
  expect((await failure(service.listen(0, { register, registerTimeoutMs: 50 }))).code).toBe('disconnected')
})

test('it makes itself known over gRPC', async () => {
  const server = new Server()
  const urls: Buffer[] = []
  const raw = {
    requestStream: false,
    responseStream: false,
    requestSerialize: (b: Buffer) => b,
    requestDeserialize: (b: Buffer) => b,
    responseSerialize: (b: Buffer) => b,
    responseDeserialize: (b: Buffer) => b,
  }
  server.addService(
    { register: { path: '/escrow.v1.CoordinatorService/Register', ...raw } },
    {
      register: (received: { request: Buffer }, answer: (error: null, response: Buffer) => void) => {
        urls.push(received.request)
        answer(null, Buffer.alloc(0))
      },
    },
  )
  const port = await new Promise<number>((resolve) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (_, bound) => resolve(bound)),
  )
  await listen({ register: `grpc://127.0.0.1:${port}`, advertise: 'http://inventory:7002' })
  await listen({ register: `127.0.0.1:${port}` })
  expect(urls.length).toBe(2)
  expect(urls[0]?.includes('http://inventory:7002')).toBe(true)
  server.forceShutdown()
})

test('it answers what is under way before it closes, and takes nothing new', async () => {
  let end = () => {}
  const slow = participant('slow', { take: () => new Promise<void>((resolve) => (end = resolve)) })
  const listening = await slow.listen({ grpc: 0, http: 0 })
  const overHttp = post(listening.httpPort, 'Deliver', { executionId: 'x', handler: 'take' })
  await until(() => end.name !== 'end')
  const closed = listening.close()
  expect((await failure(post(listening.httpPort, 'Deliver', {}))).message).toContain('fetch failed')
  end()
  // A connection that is kept alive would hold up the end.
  expect(await overHttp).toMatchObject({
    json: { outcome: 'DELIVER_OUTCOME_DELIVERED' },
    connection: 'close',
  })
  await closed
  const hanging = await service.listen(0, { closeTimeoutMs: 50 })
  const lost = failure(call(hanging.grpcPort, 'Deliver', DELIVER, { executionId: 'x', handler: 'hang' }))
  await new Promise((resolve) => setTimeout(resolve, 100))
  await hanging.close()
  expect((await lost).code).toBeDefined()
})
