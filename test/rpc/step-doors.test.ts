/** The operations on sagas by unary RPC, and steps of participants that are called. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { createClient } from '@connectrpc/connect'
import { createConnectTransport } from '@connectrpc/connect-node'
import {
  Server as GrpcServer,
  ServerCredentials,
  type ServerUnaryCall,
  type sendUnaryData,
} from '@grpc/grpc-js'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { StepRequest } from '../../src/core/api.ts'
import { NO_TRACE } from '../../src/core/envelope.ts'
import type { StepOutcome } from '../../src/engine/step-outlet.ts'
import { ListenerCaller } from '../../src/rpc/callers.ts'
import { HttpServer } from '../../src/rpc/http-server.ts'
import { unaryMethods } from '../../src/rpc/unary.ts'
import { systemRuntime } from '../../src/runtime.ts'
import { CoordinatorService } from '../../src/wire/gen/escrow/v1/coordinator_pb.ts'
import {
  StepOutcome as Outcome,
  StepRequestSchema,
  StepResponseSchema,
} from '../../src/wire/gen/escrow/v1/participant_pb.ts'
import { FakeCoordination } from './fake-coordination.ts'

const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

describe('the operations on sagas over HTTP', () => {
  let fake: FakeCoordination
  let base: string
  beforeEach(async () => {
    fake = new FakeCoordination()
    const methods = unaryMethods({
      coordination: fake,
      runtime: systemRuntime,
      inFlightMax: 4,
      isStopping: () => false,
    })
    const server = new HttpServer({
      host: '127.0.0.1',
      port: 0,
      methods,
      coordination: fake,
      requestBytesMax: 100_000,
      connectionsMax: 100,
    })
    base = `http://127.0.0.1:${(await server.start()).port}`
    closers.push(() => server.stop(1000))
  })

  test.each([true, false])(
    'the protocol’s own client is understood (binary: %s)',
    async (useBinaryFormat) => {
      const transport = createConnectTransport({ baseUrl: base, httpVersion: '1.1', useBinaryFormat })
      const client = createClient(CoordinatorService, transport)
      const input = Buffer.from('{"sku":"A-1"}')
      expect(await client.startSaga({ saga: 'place-order', input, tags: { shop: '7' } })).toMatchObject({
        id: 'order-17',
        status: 6,
        version: 2,
      })
      expect(await client.signalSaga({ id: 'order-17', signal: 'paid' })).toMatchObject({ status: 6 })
      expect(await client.cancelSaga({ id: 'order-17' })).toMatchObject({ status: 8 })
      const response = { outcome: Outcome.DONE, result: Buffer.from('7') }
      expect(
        await client.completeStep({ id: 'order-17', executionId: 'x.1', attempt: 3, response }),
      ).toMatchObject({
        status: 6,
      })
      expect(await client.migrateSaga({ id: 'order-17', toVersion: 3 })).toMatchObject({ status: 6 })
      expect(fake.requests.map(({ op, request }) => ({ op, request }))).toMatchObject([
        {
          op: 'startSaga',
          request: { saga: 'place-order', tags: { shop: '7' } },
        },
        { op: 'signal', request: { signal: 'paid', payload: undefined } },
        { op: 'cancel', request: { id: 'order-17' } },
        { op: 'complete', request: { executionId: 'x.1', attempt: 3, response: { outcome: 'done' } } },
        { op: 'migrateSaga', request: { id: 'order-17', toVersion: 3 } },
      ])
      const started = fake.requests[0] as { request: { input: Uint8Array } } | undefined
      expect(Buffer.from(started?.request.input ?? []).toString()).toBe(input.toString())
      await client.register({ service: 'inventory', steps: ['reserve'] })
      expect(fake.registered[0]?.registration.steps).toEqual(['reserve'])
      await expect(client.register({ service: 'inventory', steps: ['No Name'] })).rejects.toThrow('step')
    },
  )

  test('a saga goes on with the trace of the request that starts it', async () => {
    const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
    const answer = await fetch(`${base}/escrow.v1.CoordinatorService/StartSaga`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', traceparent },
      body: '{"saga":"place-order","input":"e30="}',
    })
    expect(await answer.json()).toEqual({
      id: 'order-17',
      executionId: 'x1',
      status: 'TRANSACTION_STATUS_RUNNING',
      version: 2,
    })
    expect(fake.requests[0]).toMatchObject({ request: { trace: { traceparent } } })
  })
})

describe('a step of a participant that listens', () => {
  const CALL: StepRequest = {
    namespace: 'default',
    transactionId: 'order-17',
    executionId: 'x.1',
    attempt: 2,
    service: 'inventory',
    step: 'reserve',
    operation: 'compensation',
    input: '{}',
    result: '7',
    isActionDone: true,
    saga: 'place-order',
    trace: NO_TRACE,
    timeoutMs: 2000,
  }

  const ask = (url: string) => {
    const caller = new ListenerCaller(url, { now: () => Date.now() })
    closers.push(() => caller.close())
    return new Promise<StepOutcome>((resolve) => caller.step(CALL, resolve))
  }

  async function http(answer: (response: ServerResponse, body: string) => void): Promise<string> {
    const server = createServer(async (request: IncomingMessage, response) => {
      let text = ''
      for await (const chunk of request) text += chunk
      expect(request.url).toBe('/escrow.v1.ParticipantService/Step')
      answer(response, text)
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    closers.push(() => server.close())
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  test('is one request with the whole call, and its outcome is the word in the answer', async () => {
    let asked: unknown
    const url = await http((response, body) => {
      asked = JSON.parse(body)
      response.end('{"outcome":"STEP_OUTCOME_DONE","result":"Nw==","new":1}')
    })
    expect(await ask(url)).toEqual({ outcome: 'done', result: new Uint8Array([0x37]), code: '', error: '' })
    expect(asked).toMatchObject({
      executionId: 'x.1',
      step: 'reserve',
      operation: 'STEP_OPERATION_COMPENSATION',
      isActionDone: true,
      result: 'Nw==',
    })
  })

  test.each([
    ['{"outcome":"STEP_OUTCOME_REFUSED","code":"soldOut","error":"why"}', 'refused'],
    ['{"outcome":"STEP_OUTCOME_FAILED"}', 'failed'],
    ['{"outcome":"STEP_OUTCOME_LATER"}', 'later'],
    ['{"outcome":"STEP_OUTCOME_UNSPECIFIED"}', 'unknown'],
    ['{"outcome":"STEP_OUTCOME_PERHAPS"}', 'unknown'],
    ['{"outcome":99}', 'unknown'],
    ['{"outcome":true}', 'unknown'],
    ['{"result":"Nw=="}', 'unknown'],
    ['{}', 'unknown'],
    ['', 'unknown'],
    ['OK', 'unknown'],
  ])('a 200 with %s is what it says, and unknown if it says nothing', async (body, outcome) => {
    expect(await ask(await http((response) => response.end(body)))).toMatchObject({ outcome })
  })

  test('an error is unknown, whatever its body says', async () => {
    const url = await http((response) => response.writeHead(500).end('{"outcome":"STEP_OUTCOME_DONE"}'))
    expect(await ask(url)).toMatchObject({ outcome: 'unknown' })
  })

  test('comes over gRPC too', async () => {
    const server = new GrpcServer()
    const bytes = (value: Buffer) => value
    const definition = {
      path: '/escrow.v1.ParticipantService/Step',
      requestStream: false,
      responseStream: false,
      requestSerialize: bytes,
      requestDeserialize: bytes,
      responseSerialize: bytes,
      responseDeserialize: bytes,
    }
    server.addService(
      { step: definition },
      {
        step: (call: ServerUnaryCall<Buffer, Buffer>, callback: sendUnaryData<Buffer>) => {
          const { step } = fromBinary(StepRequestSchema, call.request)
          const response = create(StepResponseSchema, { outcome: Outcome.REFUSED, code: step })
          callback(null, Buffer.from(toBinary(StepResponseSchema, response)))
        },
      },
    )
    const port = await new Promise<number>((resolve) =>
      server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (_, bound) => resolve(bound)),
    )
    closers.push(() => server.forceShutdown())
    expect(await ask(`grpc://127.0.0.1:${port}`)).toMatchObject({ outcome: 'refused', code: 'reserve' })
  })
})
