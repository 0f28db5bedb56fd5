/** A real coordinator on real sockets in this process, and every door that leads to it. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  type DescMessage,
  fromBinary,
  fromJsonString,
  type MessageShape,
  toBinary,
  toJsonString,
} from '@bufbuild/protobuf'
import { Client, credentials } from '@grpc/grpc-js'
import { expect, onTestFinished } from 'vitest'
import type { Operation, Operations } from '../../src/core/api.ts'
import { ERROR_CODES } from '../../src/core/errors.ts'
import {
  type ConnectOptions,
  type Coordinator,
  type CoordinatorDependencies,
  connect,
  createCoordinator,
  type ErrorCode,
  EscrowError,
  type EscrowOptions,
  type PrepareRequest,
  type Session,
} from '../../src/index.ts'
import {
  OPERATION_SCHEMAS,
  type ProtoResponse,
  requestToProto,
  responseFromProto,
} from '../../src/wire/convert.ts'
import { errorFromGrpc, errorFromHttp } from '../../src/wire/errors.ts'
import { openGrpcStream } from '../../src/wire/grpc-stream.ts'
import type { CoordinatorItem, HelloItem, ServiceStream } from '../../src/wire/items.ts'
import { until } from '../harness/until.ts'

/** Asks for an operation, by whatever way. */
export type Ask = <Op extends Operation>(
  op: Op,
  request: Operations[Op]['request'],
) => Promise<Operations[Op]['response']>

export interface World {
  readonly coordinator: Coordinator
  /** `host:port` of gRPC. */
  readonly grpc: string
  /** `http://host:port`. */
  readonly http: string
  /** Session, unary gRPC, HTTP with JSON, and the library: each must refuse, and with the same words. */
  readonly doors: readonly { readonly name: string; readonly ask: Ask }[]
  connect(options?: Partial<ConnectOptions>): Promise<Session>
}

/** Starts it; it ends with the test. Known from the start: checker `orders`, handler `shop/take`. */
export async function world(
  options: EscrowOptions = {},
  dependencies: CoordinatorDependencies = {},
): Promise<World> {
  const folder = mkdtempSync(join(tmpdir(), 'escrow-faults-'))
  const any = { host: '127.0.0.1', port: 0 }
  const coordinator = createCoordinator(
    { store: { path: folder }, grpc: any, http: any, drainMsMax: 0, ...options },
    { log: () => {}, ...dependencies },
  )
  await coordinator.start()
  const { addresses } = coordinator
  const grpc = `127.0.0.1:${addresses.grpc?.port}`
  const http = `http://127.0.0.1:${addresses.http?.port}`
  const sessions: Session[] = []
  const open = async (more: Partial<ConnectOptions> = {}): Promise<Session> => {
    const session = await connect(grpc, { service: 'shop', closeTimeoutMs: 0, ...more })
    sessions.push(session)
    return session
  }
  onTestFinished(async () => {
    await Promise.all(sessions.map((session) => session.close()))
    await coordinator.stop()
    rmSync(folder, { recursive: true, force: true })
  })
  const names = await open({ service: 'shop' })
  await names.registerChecker('orders', () => 'unknown')
  await names.registerHandlers({ take: () => {} })
  await names.close()
  const caller = await open({ service: 'caller' })
  return {
    coordinator,
    grpc,
    http,
    doors: [
      { name: 'session', ask: (op, request) => caller[op](request as never) as never },
      { name: 'gRPC', ask: (op, request) => askGrpc(grpc, op, request) },
      { name: 'HTTP', ask: (op, request) => askHttp(http, op, request) },
      { name: 'library', ask: (op, request) => coordinator[op](request as never) as never },
    ],
    connect: open,
  }
}

async function askGrpc<Op extends Operation>(
  address: string,
  op: Op,
  request: Operations[Op]['request'],
): Promise<Operations[Op]['response']> {
  const schemas = OPERATION_SCHEMAS[op] as { request: DescMessage; response: DescMessage }
  const bytes = toBinary(schemas.request, requestToProto(op, request) as MessageShape<DescMessage>)
  const asIs = (each: Buffer): Buffer => each
  const path = `/escrow.v1.CoordinatorService/${op[0]?.toUpperCase()}${op.slice(1)}`
  const client = new Client(address, credentials.createInsecure())
  try {
    const answer = await new Promise<Buffer>((resolve, reject) => {
      const done = (error: Error | null, response?: Buffer) =>
        error === null ? resolve(response as Buffer) : reject(errorFromGrpc(error))
      client.makeUnaryRequest(path, asIs, asIs, Buffer.from(bytes), { deadline: Date.now() + 10_000 }, done)
    })
    return responseFromProto(op, fromBinary(schemas.response, answer) as ProtoResponse<Op>)
  } finally {
    client.close()
  }
}

async function askHttp<Op extends Operation>(
  http: string,
  op: Op,
  request: Operations[Op]['request'],
): Promise<Operations[Op]['response']> {
  const schemas = OPERATION_SCHEMAS[op] as { request: DescMessage; response: DescMessage }
  const body = toJsonString(schemas.request, requestToProto(op, request) as MessageShape<DescMessage>)
  const { status, text } = await post(http, op, body)
  if (status !== 200) throw errorFromHttp(status, text)
  return responseFromProto(op, fromJsonString(schemas.response, text) as ProtoResponse<Op>)
}

/** One HTTP request, whatever its body is. A refusal must tell its code and its remedy in the headers and in the body. */
export async function post(
  http: string,
  op: string,
  body: string | Uint8Array,
  headers: Readonly<Record<string, string>> = {},
): Promise<{ readonly status: number; readonly text: string; readonly code: string | null }> {
  const response = await fetch(`${http}/escrow.v1.CoordinatorService/${op[0]?.toUpperCase()}${op.slice(1)}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : new Uint8Array(body),
  })
  const text = await response.text()
  const code = response.headers.get('escrow-code')
  if (!response.ok) {
    const { remedy } = ERROR_CODES[code as ErrorCode]
    expect(response.headers.get('escrow-remedy')).toBe(remedy)
    expect(text).toContain(remedy)
  }
  return { status: response.status, text, code }
}

/** Holds one message to `shop/take`; a test changes what it is about. */
export function half(change: Partial<PrepareRequest> = {}): PrepareRequest {
  return { checker: 'orders', messages: [{ destination: 'shop/take', body: Buffer.from('{}') }], ...change }
}

/** The error of a request that must fail with this code: it has a remedy, and its message names what is wrong. */
export async function refusal(work: Promise<unknown>, code: ErrorCode, names: RegExp): Promise<EscrowError> {
  const error: unknown = await work.then(
    () => undefined,
    (thrown) => thrown,
  )
  expect(error).toBeInstanceOf(EscrowError)
  const refused = error as EscrowError
  expect(refused.code).toBe(code)
  expect(refused.remedy).toBe(ERROR_CODES[code].remedy)
  expect(refused.message).toMatch(names)
  return refused
}

/** Every door refuses the same request with the same code. */
export async function refusedEverywhere<Op extends Operation>(
  { doors }: World,
  op: Op,
  request: Operations[Op]['request'],
  [code, names]: readonly [code: ErrorCode, names: RegExp],
): Promise<void> {
  for (const { name, ask } of doors) {
    const error = await refusal(ask(op, request), code, names)
    expect(error.retryable, name).toBe(ERROR_CODES[code].retryable)
  }
}

/** A session whose frames the test writes itself. */
export interface RawSession {
  readonly stream: ServiceStream
  readonly items: readonly CoordinatorItem[]
  /** Undefined while it is open. */
  readonly ended: { readonly error: EscrowError | undefined } | undefined
  /** The `count`-th item of this type, from 1; waits for it. */
  next<Type extends CoordinatorItem['type']>(
    type: Type,
    count?: number,
  ): Promise<Extract<CoordinatorItem, { type: Type }>>
}

/** Opens it and says hello. */
export async function rawSession(grpc: string, hello: Partial<HelloItem> = {}): Promise<RawSession> {
  const stream = openGrpcStream(grpc)
  onTestFinished(() => stream.close(new EscrowError('disconnected', 'the test is over')))
  const items: CoordinatorItem[] = []
  let ended: { error: EscrowError | undefined } | undefined
  stream.onItems((received) => items.push(...received))
  stream.onClose((error) => {
    ended = { error }
  })
  const raw: RawSession = {
    stream,
    items,
    get ended() {
      return ended
    },
    next: (type, count = 1) =>
      until(
        `item ${count} of type ${type}`,
        () => items.filter((item) => item.type === type)[count - 1] as never,
      ),
  }
  const registration = { checkers: [], handlers: [], databaseId: '' }
  const first = {
    type: 'hello',
    namespace: '',
    service: 'shop',
    deliveriesMax: 64,
    checkBacksMax: 64,
    stepsMax: 64,
  } as const
  stream.send({ ...first, previousSession: '', registration, ...hello })
  await raw.next('welcome')
  return raw
}
