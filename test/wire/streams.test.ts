import { EventEmitter, once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { type Client, Server, ServerCredentials, type ServerDuplexStream } from '@grpc/grpc-js'
import { afterEach, describe, expect, test } from 'vitest'
import { NO_TRACE } from '../../src/core/envelope.ts'
import { EscrowError } from '../../src/core/errors.ts'
import { coordinatorStream, type GrpcStreamOptions, openGrpcStream } from '../../src/wire/grpc-stream.ts'
import type {
  CoordinatorItem,
  CoordinatorStream,
  ItemStream,
  ServiceItem,
  ServiceStream,
} from '../../src/wire/items.ts'
import { localStreamPair } from '../../src/wire/local-stream.ts'
import { SESSION_SERVICE } from '../../src/wire/session-service.ts'
import { until } from '../rpc/fake-coordination.ts'

const defer = setImmediate as (callback: () => void) => void
const cleanUps: (() => unknown)[] = []
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp()
})

interface Pair {
  readonly service: ServiceStream
  readonly coordinator: CoordinatorStream
}

/** A server whose streams are handed to `take`. */
async function serve(
  take: (stream: CoordinatorStream) => void,
  options: Partial<GrpcStreamOptions> = {},
): Promise<string> {
  const server = new Server({ 'grpc.max_receive_message_length': 4 << 20 })
  server.addService(SESSION_SERVICE, {
    connect: (call: ServerDuplexStream<Buffer, Buffer>) =>
      take(coordinatorStream(call, { defer, ...options })),
  })
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    ),
  )
  cleanUps.push(() => server.forceShutdown())
  return `127.0.0.1:${port}`
}

async function grpcPair(options: Partial<GrpcStreamOptions> = {}): Promise<Pair> {
  let taken: CoordinatorStream | undefined
  const target = await serve((stream) => {
    taken = stream
  }, options)
  const service = openGrpcStream(target)
  cleanUps.push(() => service.close())
  service.send(HELLO)
  await until(() => taken !== undefined, 'the server took the stream')
  return { service, coordinator: taken as CoordinatorStream }
}

const HELLO: ServiceItem = {
  type: 'hello',
  namespace: '',
  service: 'orders',
  deliveriesMax: 1,
  checkBacksMax: 1,
  stepsMax: 1,
  previousSession: '',
  registration: { checkers: [], handlers: [], databaseId: '' },
}
const answer = (callId: number, error = ''): ServiceItem => ({
  type: 'deliveryAnswer',
  callId,
  response: { outcome: 'delivered', error },
})
const reply = (commandId: number): CoordinatorItem => ({
  type: 'reply',
  commandId,
  op: 'commit',
  response: { status: 'committed' },
})
const delivery = (callId: number, body: Uint8Array): CoordinatorItem => ({
  type: 'delivery',
  callId,
  request: {
    namespace: 'default',
    transactionId: 't',
    executionId: 'x',
    attempt: 1,
    service: 's',
    handler: 'h',
    body,
    headers: { a: 'b' },
    key: '',
    contentType: '',
    trace: NO_TRACE,
    timeoutMs: 1,
  },
})

/** What a stream receives and how it ends, written down. */
function recorded<Received>(stream: ItemStream<never, Received>) {
  const record = {
    batches: [] as (readonly Received[])[],
    items: [] as Received[],
    ends: [] as (EscrowError | undefined)[],
  }
  stream.onItems((items) => {
    record.batches.push(items)
    record.items.push(...items)
  })
  stream.onClose((error) => record.ends.push(error))
  return record
}

describe.each([
  ['over gRPC', () => grpcPair()],
  ['inside one process', async (): Promise<Pair> => localStreamPair(defer)],
])('a stream %s', (where, open) => {
  test('carries items both ways, in order, those of one turn together', async () => {
    const { service, coordinator } = await open()
    const [atService, atCoordinator] = [recorded(service), recorded(coordinator)]
    for (let i = 1; i <= 1000; i++) {
      service.send(answer(i))
      coordinator.send(reply(i))
    }
    expect(atService.items).toEqual([])
    expect(atCoordinator.items).toEqual([])
    const calls = () => atCoordinator.items.filter((item) => item.type === 'deliveryAnswer')
    await until(() => atService.items.length === 1000 && calls().length === 1000, 'all arrived')
    expect(atService.items).toMatchObject(Array.from({ length: 1000 }, (_, i) => reply(i + 1)))
    expect(calls()).toMatchObject(Array.from({ length: 1000 }, (_, i) => answer(i + 1)))
    expect(atService.batches.length).toBe(1)
  })

  test('closed in good order delivers what was sent before, and tells both sides once', async () => {
    const { service, coordinator } = await open()
    const [atService, atCoordinator] = [recorded(service), recorded(coordinator)]
    service.send(answer(1))
    service.close()
    service.send(answer(2))
    service.close()
    await until(() => atService.ends.length > 0 && atCoordinator.ends.length > 0, 'both were told')
    expect(atCoordinator.items.filter((item) => item.type === 'deliveryAnswer')).toMatchObject([answer(1)])
    expect([atService.ends, atCoordinator.ends]).toEqual([[undefined], [undefined]])
  })

  test('closed by the coordinator with an error tells it to the service', async () => {
    const { service, coordinator } = await open()
    const [atService, atCoordinator] = [recorded(service), recorded(coordinator)]
    coordinator.close(new EscrowError('shuttingDown', 'stop', { details: { a: 'b' } }))
    await until(() => atService.ends.length > 0 && atCoordinator.ends.length > 0, 'both were told')
    expect(atService.ends).toMatchObject([{ code: 'shuttingDown', message: 'stop', details: { a: 'b' } }])
    expect(atCoordinator.ends).toHaveLength(1)
  })

  test('what is sent belongs to the sender again, and what is received to the receiver', async () => {
    const { service, coordinator } = await open()
    const atService = recorded(service)
    const body = Buffer.from('before')
    coordinator.send(delivery(1, body))
    body.fill(0)
    await until(() => atService.items.length === 1, 'it arrived')
    const [item] = atService.items as Extract<CoordinatorItem, { type: 'delivery' }>[]
    expect(Buffer.from(item!.request.body).toString()).toBe('before')
    item!.request.body.fill(1)
    expect(body.every((byte) => byte === 0)).toBe(true)
  })

  test(`ends when a receiver throws, and nothing else does (${where})`, async () => {
    const { service, coordinator } = await open()
    const atService = recorded(service)
    coordinator.onItems(() => {
      throw new Error('a defect')
    })
    service.send(answer(1))
    await until(() => atService.ends.length > 0, 'the service was told')
    expect(atService.ends).toMatchObject([{ code: 'internal' }])
  })
})

describe('a stream over gRPC', () => {
  test('that nobody listens for is disconnected', async () => {
    // A port that is not among those that are given to whoever asks for any.
    const record = recorded(openGrpcStream('127.0.0.1:1'))
    await until(() => record.ends.length > 0, 'it was told')
    expect(record.ends).toMatchObject([{ code: 'disconnected' }])
  })

  test('to a server that is no coordinator is unsupported', async () => {
    const server = new Server()
    const port = await new Promise<number>((resolve) =>
      server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (_, bound) => resolve(bound)),
    )
    cleanUps.push(() => server.forceShutdown())
    const record = recorded(openGrpcStream(`127.0.0.1:${port}`))
    await until(() => record.ends.length > 0, 'it was told')
    expect(record.ends).toMatchObject([{ code: 'unsupported' }])
  })

  test('whose connection is cut is disconnected on both sides', async () => {
    const sockets: Socket[] = []
    let taken: CoordinatorStream | undefined
    const target = await serve((stream) => {
      taken = stream
    })
    const proxy = createServer((socket) => {
      const upstream = new (socket.constructor as typeof Socket)().connect(
        Number(target.split(':')[1]),
        '127.0.0.1',
      )
      sockets.push(socket, upstream)
      for (const each of [socket, upstream]) each.on('error', () => {})
      socket.pipe(upstream).pipe(socket)
    })
    await once(proxy.listen(0, '127.0.0.1'), 'listening')
    cleanUps.push(() => proxy.close())
    const service = openGrpcStream(`127.0.0.1:${(proxy.address() as { port: number }).port}`)
    service.send(HELLO)
    await until(() => taken !== undefined, 'the server took the stream')
    const [atService, atCoordinator] = [recorded(service), recorded(taken as CoordinatorStream)]
    for (const socket of sockets) socket.destroy()
    await until(() => atService.ends.length > 0 && atCoordinator.ends.length > 0, 'both were told')
    expect(atService.ends).toMatchObject([{ code: 'disconnected' }])
    expect(atCoordinator.ends).toMatchObject([{ code: 'disconnected' }])
  })

  test('to a peer that does not read is closed with overloaded at its bound, and frees what it held', async () => {
    let taken: CoordinatorStream | undefined
    const target = await serve(
      (stream) => {
        taken = stream
      },
      { queuedBytesMax: 4 << 20 },
    )
    const { Client, credentials } = await import('@grpc/grpc-js')
    const client: Client = new Client(target, credentials.createInsecure())
    const { path, requestSerialize, responseDeserialize } = SESSION_SERVICE.connect
    // Never reads: a call without a listener for its data.
    const call = client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize)
    call.on('error', () => {})
    cleanUps.push(
      () => client.close(),
      () => call.cancel(),
    )
    call.write(Buffer.from([8, 1]))
    await until(() => taken !== undefined, 'the server took the stream')
    const coordinator = taken as CoordinatorStream
    const record = recorded(coordinator)
    const body = new Uint8Array(64 << 10)
    let sent = 0
    while (sent < 1000 && record.ends.length === 0) {
      coordinator.send(delivery(++sent, body))
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(sent).toBeGreaterThan(60)
    expect(record.ends).toMatchObject([{ code: 'overloaded' }])
    // What it is told once it reads: the status, not the megabytes.
    let details = ''
    let frames = 0
    call.on('status', (status) => {
      details = status.details
    })
    call.on('data', () => frames++)
    await until(() => details !== '', 'the call ended')
    expect(details).toContain('overloaded')
    expect(frames).toBeLessThan(30)
  })

  test('takes no command beyond half of its bound, and goes on with answers', async () => {
    const { service, coordinator } = await grpcPair()
    const atCoordinator = recorded(coordinator)
    const body = new Uint8Array(1 << 20)
    const command = (commandId: number): ServiceItem => ({
      type: 'command',
      commandId,
      timeoutMs: 0,
      op: 'prepare',
      request: { checker: 'c', messages: [{ destination: 'a/b', body }] },
    })
    let sent = 0
    const flood = () => {
      for (; sent < 100; sent++) service.send(command(sent + 1))
    }
    expect(flood).toThrow(expect.objectContaining({ code: 'overloaded' }))
    expect(sent).toBeGreaterThan(30)
    service.send(answer(7))
    await until(
      () => atCoordinator.items.some((item) => item.type === 'deliveryAnswer'),
      'the answer arrived',
    )
    expect(atCoordinator.items.filter((item) => item.type === 'command')).toHaveLength(sent)
    service.send(command(101))
  })

  test('lets a frame leave at 64 KiB, without waiting for the end of the turn, and the rest at that end', () => {
    const written: Buffer[] = []
    const deferred: (() => void)[] = []
    const call = Object.assign(new EventEmitter(), { write: (frame: Buffer) => written.push(frame) })
    const stream = coordinatorStream(call as unknown as ServerDuplexStream<Buffer, Buffer>, {
      defer: (callback) => deferred.push(callback),
    })
    const body = new Uint8Array(1_000)
    let sent = 0
    while (written.length === 0 && sent < 100) stream.send(delivery(++sent, body))
    expect(sent).toBeGreaterThan(55)
    expect(sent).toBeLessThan(66)
    expect(written[0]?.length).toBeGreaterThanOrEqual(64 << 10)
    expect(written[0]?.length).toBeLessThan((64 << 10) + 1_200)
    stream.send(delivery(++sent, body))
    expect([written.length, deferred.length]).toEqual([1, 1])
    deferred[0]?.()
    expect(written.length).toBe(2)
    expect(written[1]?.length).toBeLessThan(1_200)
  })

  test('keeps to the frame limit of the welcome', async () => {
    const { service, coordinator } = await grpcPair()
    const atService = recorded(service)
    coordinator.send({
      type: 'welcome',
      session: 's',
      commandsMax: 1,
      routings: [],
      limits: {
        bodyBytesMax: 1,
        headerBytesMax: 1,
        messagesMax: 1,
        transactionBytesMax: 1,
        frameBytesMax: 1000,
      },
    })
    await until(() => atService.items.length === 1, 'the welcome arrived')
    expect(() => service.send(answer(1, 'x'.repeat(1000)))).toThrow(
      expect.objectContaining({ code: 'tooLarge' }),
    )
  })
})
