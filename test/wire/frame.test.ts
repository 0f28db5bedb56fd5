import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { EscrowError } from '../../src/core/errors.ts'
import { coordinatorCodec, detach, type FrameCodec, serviceCodec } from '../../src/wire/frame.ts'
import { ConnectRequestSchema, ConnectResponseSchema } from '../../src/wire/gen/escrow/v1/session_pb.ts'
import type { CoordinatorItem, ServiceItem } from '../../src/wire/items.ts'
import { coordinatorItem, serviceItem } from './arbitrary.ts'
import {
  protoCoordinatorFrame,
  protoCoordinatorItems,
  protoServiceFrame,
  protoServiceItems,
} from './proto-frames.ts'

function encode<Sent>(
  codec: FrameCodec<Sent, unknown>,
  items: readonly Sent[],
  frameBytesMax = 3 << 20,
): Buffer[] {
  const frames: Buffer[] = []
  const encoder = codec.encoder(frameBytesMax, (frame) => frames.push(frame))
  for (const item of items) encoder.append(item)
  encoder.flush()
  return frames
}

const decode = <Received>(codec: FrameCodec<never, Received>, frame: Uint8Array) =>
  codec.decoder().decode(frame)

/** Comparable and alike whoever made it: no errors as objects, no Buffers, no undefined fields. */
const plain = (value: unknown): unknown => {
  if (value instanceof Uint8Array) return `bytes ${Buffer.from(value).toString('hex')}`
  if (value instanceof EscrowError)
    return { code: value.code, message: value.message, details: plain(value.details) }
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== 'object' || value === null) return value
  return Object.entries(value)
    .filter(([, part]) => part !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, part]) => [name, plain(part)])
}
const wellFormed = (value: unknown): unknown =>
  typeof value === 'string' ? value.toWellFormed() : Array.isArray(value) ? value.map(wellFormed) : value
const seen = (value: unknown) => wellFormed(plain(value))

const byClass = <Item extends { type: string }>(order: string[], items: readonly Item[]) =>
  order.flatMap((type) => items.filter((item) => type.split(' ').includes(item.type)))
const SERVICE_ORDER = [
  'command unreadableCommand',
  'deliveryAnswer',
  'checkBackAnswer',
  'stepAnswer',
  'register',
  'noSession',
  'hello',
]
const COORDINATOR_ORDER = [
  'reply failure',
  'delivery',
  'checkBack',
  'step',
  'registered',
  'welcome',
  'drain',
  'routings',
]

/** At most one of what a protobuf message holds once. */
const once = <Item extends { type: string }>(items: readonly Item[], ...types: string[]) =>
  items.filter(
    (item, at) => !types.includes(item.type) || items.findIndex(({ type }) => type === item.type) === at,
  )

const runs = { numRuns: 300 }

describe('frames and protobuf-es read each other', () => {
  test('what a service writes by hand, protobuf-es reads', () => {
    fc.assert(
      fc.property(fc.array(serviceItem, { maxLength: 6 }), (given) => {
        const items = once(given, 'hello')
        const [frame] = encode(serviceCodec, items)
        const read = frame === undefined ? [] : protoServiceItems(frame)
        expect(seen(read)).toEqual(seen(byClass(SERVICE_ORDER, items)))
      }),
      runs,
    )
  })

  test('what protobuf-es writes for a service, is read by hand', () => {
    fc.assert(
      fc.property(fc.array(serviceItem, { maxLength: 6 }), (given) => {
        const items = once(given, 'hello')
        const read = decode(coordinatorCodec, protoServiceFrame(items))
        expect(seen(byClass(SERVICE_ORDER, read))).toEqual(seen(byClass(SERVICE_ORDER, items)))
      }),
      runs,
    )
  })

  test('what a coordinator writes by hand, protobuf-es reads', () => {
    fc.assert(
      fc.property(fc.array(coordinatorItem, { maxLength: 6 }), (given) => {
        const items = once(given, 'welcome', 'drain')
        const [frame] = encode(coordinatorCodec, items)
        const read = frame === undefined ? [] : protoCoordinatorItems(frame)
        expect(seen(read)).toEqual(seen(byClass(COORDINATOR_ORDER, items)))
      }),
      runs,
    )
  })

  test('what protobuf-es writes for a coordinator, is read by hand', () => {
    fc.assert(
      fc.property(fc.array(coordinatorItem, { maxLength: 6 }), (given) => {
        const items = once(given, 'welcome', 'drain')
        const read = decode(serviceCodec, protoCoordinatorFrame(items))
        expect(seen(byClass(COORDINATOR_ORDER, read))).toEqual(seen(byClass(COORDINATOR_ORDER, items)))
      }),
      runs,
    )
  })

  test('what is written by hand is minimal: protobuf-es never takes fewer bytes for the same', () => {
    fc.assert(
      fc.property(serviceItem, coordinatorItem, (service, coordinator) => {
        const [request] = encode(serviceCodec, [service])
        const [response] = encode(coordinatorCodec, [coordinator])
        // It may take more: of a map's entry it writes empty fields, too.
        expect(request!.length).toBeLessThanOrEqual(
          toBinary(ConnectRequestSchema, fromBinary(ConnectRequestSchema, request!)).length,
        )
        expect(response!.length).toBeLessThanOrEqual(
          toBinary(ConnectResponseSchema, fromBinary(ConnectResponseSchema, response!)).length,
        )
      }),
      runs,
    )
  })

  test('a decoder that has seen other frames reads the same', () => {
    const decoder = coordinatorCodec.decoder()
    fc.assert(
      fc.property(fc.array(serviceItem, { maxLength: 4 }), (items) => {
        for (const frame of encode(serviceCodec, items)) {
          expect(seen(decoder.decode(frame))).toEqual(seen(decode(coordinatorCodec, frame)))
        }
      }),
      runs,
    )
  })
})

describe('frames written by other versions', () => {
  const commit = { type: 'command', commandId: 7, timeoutMs: 9, op: 'commit', request: { id: 'a' } } as const

  test('fields that are not known are skipped, wherever they stand', () => {
    const unknown = new BinaryWriter()
      .tag(100, WireType.Varint)
      .uint64(2n ** 64n - 1n)
      .tag(101, WireType.Bit64)
      .fixed64(1n)
      .tag(102, WireType.LengthDelimited)
      .string('new')
      .tag(103, WireType.Bit32)
      .fixed32(1)
      .tag(104, WireType.StartGroup)
      .tag(1, WireType.Varint)
      .uint32(1)
      .tag(104, WireType.EndGroup)
      .finish()
    const nested = new BinaryWriter()
      .raw(unknown)
      .tag(2, WireType.LengthDelimited)
      .string('a')
      .raw(unknown)
      .finish()
    const command = new BinaryWriter()
      .raw(unknown)
      .tag(4, WireType.LengthDelimited)
      .bytes(nested)
      .tag(1, WireType.Varint)
      .uint64(7)
      .raw(unknown)
      .finish()
    const frame = new BinaryWriter()
      .raw(unknown)
      .tag(4, WireType.LengthDelimited)
      .bytes(command)
      .raw(unknown)
      .tag(1, WireType.Varint)
      .uint32(1)
      .finish()
    expect(seen(decode(coordinatorCodec, frame))).toEqual(seen([{ ...commit, timeoutMs: 0 }]))
  })

  test('of an operation that is given several times the last one counts, and the same one is merged', () => {
    const ref = (id: string) => new BinaryWriter().tag(2, WireType.LengthDelimited).string(id).finish()
    const scope = new BinaryWriter().tag(1, WireType.LengthDelimited).string('shop').finish()
    const command = new BinaryWriter()
      .tag(5, WireType.LengthDelimited)
      .bytes(ref('rolled back'))
      .tag(4, WireType.LengthDelimited)
      .bytes(ref('a'))
      .tag(4, WireType.LengthDelimited)
      .bytes(scope)
      .finish()
    const get = new BinaryWriter()
      .tag(4, WireType.LengthDelimited)
      .bytes(ref('a'))
      .tag(7, WireType.LengthDelimited)
      .bytes(ref('b'))
      .tag(7, WireType.LengthDelimited)
      .bytes(scope)
      .finish()
    const frame = new BinaryWriter()
      .tag(1, WireType.Varint)
      .uint32(1)
      .tag(4, WireType.LengthDelimited)
      .bytes(command)
      .tag(4, WireType.LengthDelimited)
      .bytes(get)
      .finish()
    expect(seen(decode(coordinatorCodec, frame))).toEqual(seen(protoServiceItems(frame)))
    expect(decode(coordinatorCodec, frame)).toMatchObject([
      { op: 'commit', request: { namespace: 'shop', id: 'a' } },
      { op: 'get', request: { namespace: 'shop', id: 'b' } },
    ])
  })

  test('a command that only a newer version knows is answered alone, as are numbers that the API cannot carry', () => {
    const frame = toBinary(
      ConnectRequestSchema,
      create(ConnectRequestSchema, {
        format: 1,
        commands: [
          { commandId: 1n },
          {
            commandId: 2n,
            operation: {
              case: 'prepare',
              value: { checker: 'c', messages: [{ destination: 'a/b', deliverAtMs: 2n ** 60n }] },
            },
          },
          {
            commandId: 3n,
            operation: { case: 'prepare', value: { checkBack: { onExhausted: 9 as never } } },
          },
          { commandId: 4n, operation: { case: 'list', value: { statuses: [77 as never] } } },
          { commandId: 5n, operation: { case: 'commit', value: { id: 'a' } } },
          { commandId: 6n, operation: { case: 'startSaga', value: { timeoutMs: 2n ** 60n } } },
        ],
      }),
    )
    const read = decode(coordinatorCodec, frame)
    expect(read.map((item) => (item.type === 'unreadableCommand' ? item.error.code : item.type))).toEqual([
      'malformed',
      'invalidArgument',
      'invalidArgument',
      'invalidArgument',
      'command',
      'invalidArgument',
    ])
    expect(read.map((item) => 'commandId' in item && item.commandId)).toEqual([1, 2, 3, 4, 5, 6])
  })

  test('an outcome or a resolution that is not said, or not known, is unknown', () => {
    const frame = toBinary(
      ConnectRequestSchema,
      create(ConnectRequestSchema, {
        format: 1,
        deliveryAnswers: [
          { callId: 1n },
          { callId: 2n, response: {} },
          { callId: 3n, response: { outcome: 9 as never } },
        ],
        checkBackAnswers: [
          { callId: 1n },
          { callId: 2n, response: {} },
          { callId: 3n, response: { resolution: 9 as never } },
        ],
        stepAnswers: [
          { callId: 1n },
          { callId: 2n, response: { result: new Uint8Array([0x37]) } },
          { callId: 3n, response: { outcome: 9 as never } },
        ],
      }),
    )
    const read = decode(coordinatorCodec, frame) as Extract<
      ServiceItem,
      { callId: number; response: unknown }
    >[]
    expect(
      read.map(({ response }) => ('outcome' in response ? response.outcome : response.resolution)),
    ).toEqual(Array(9).fill('unknown'))
  })

  test('a call of a step that does not say what to do, or asks for what is not known, is malformed: nothing may be done', () => {
    for (const operation of [0, 9]) {
      const request = { executionId: 'x', step: 'reserve', operation: operation as never }
      const frame = create(ConnectResponseSchema, { format: 1, steps: [{ callId: 1n, request }] })
      expect(() => decode(serviceCodec, toBinary(ConnectResponseSchema, frame))).toThrow('operation')
    }
  })

  test('a reply that only a newer version knows is uncertain, and so is a status', () => {
    const frame = toBinary(
      ConnectResponseSchema,
      create(ConnectResponseSchema, {
        format: 1,
        replies: [
          { commandId: 1n },
          { commandId: 2n, result: { case: 'commit', value: { status: 77 as never } } },
          { commandId: 3n, result: { case: 'error', value: { code: 'new', message: 'm', retryable: true } } },
          { commandId: 4n, result: { case: 'error', value: { code: 'new', message: 'm' } } },
        ],
      }),
    )
    const read = decode(serviceCodec, frame) as Extract<CoordinatorItem, { type: 'failure' }>[]
    expect(read.map(({ type, error }) => [type, error.code])).toEqual([
      ['failure', 'uncertain'],
      ['failure', 'uncertain'],
      ['failure', 'uncertain'],
      ['failure', 'internal'],
    ])
  })
})

describe('the limits of frames', () => {
  const item = (commandId: number, bytes: number): ServiceItem => ({
    type: 'command',
    commandId,
    timeoutMs: 0,
    op: 'prepare',
    request: { checker: 'c', messages: [{ destination: 'a/b', body: new Uint8Array(bytes) }] },
  })

  test('no frame is longer than its limit, none could have taken the next item, and the order is kept', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 900 }), { maxLength: 60 }), (sizes) => {
        const items = sizes.map((bytes, at) => item(at + 1, bytes))
        const frames = encode(serviceCodec, items, 1000)
        for (const frame of frames) expect(frame.length).toBeLessThanOrEqual(1000)
        for (let at = 1; at < frames.length; at++) {
          const [first] = decode(coordinatorCodec, frames[at] as Buffer)
          const size = encode(serviceCodec, [first as ServiceItem])[0]!.length - 2
          expect((frames[at - 1] as Buffer).length + size).toBeGreaterThan(1000)
        }
        const read = frames.flatMap((frame) => decode(coordinatorCodec, frame)) as { commandId: number }[]
        expect(read.map(({ commandId }) => commandId)).toEqual(items.map((_, at) => at + 1))
      }),
      { numRuns: 50 },
    )
  })

  test('an item longer than a frame is tooLarge, and what stood before it is not touched', () => {
    const frames: Buffer[] = []
    const encoder = serviceCodec.encoder(1000, (frame) => frames.push(frame))
    encoder.append(item(1, 10))
    for (const bytes of [1000, 100_000, 50 << 20]) {
      expect(() => encoder.append(item(2, bytes))).toThrow(expect.objectContaining({ code: 'tooLarge' }))
    }
    encoder.append(item(3, 10))
    encoder.flush()
    expect(frames.flatMap((frame) => decode(coordinatorCodec, frame))).toMatchObject([
      { commandId: 1 },
      { commandId: 3 },
    ])
  })

  test('a number that no field can hold is invalidArgument, and leaves nothing behind', () => {
    const frames: Buffer[] = []
    const encoder = serviceCodec.encoder(1000, (frame) => frames.push(frame))
    for (const deliverAtMs of [Number.NaN, 0.5, 2 ** 60, Number.POSITIVE_INFINITY]) {
      const broken: ServiceItem = {
        ...item(1, 1),
        request: { checker: 'c', messages: [{ destination: 'a/b', deliverAtMs }] },
      } as ServiceItem
      expect(() => encoder.append(broken)).toThrow(expect.objectContaining({ code: 'invalidArgument' }))
    }
    expect(() => encoder.append({ ...item(1, 1), timeoutMs: -1 } as ServiceItem)).toThrow(
      expect.objectContaining({ code: 'invalidArgument' }),
    )
    encoder.flush()
    expect(frames).toEqual([])
  })

  test('what was handed out as a frame is not changed by what is written next', () => {
    const frames: Buffer[] = []
    const encoder = serviceCodec.encoder(1000, (frame) => frames.push(frame))
    encoder.append(item(1, 10))
    encoder.flush()
    const before = Buffer.from(frames[0] as Buffer)
    encoder.append(item(2, 500))
    encoder.flush()
    expect(frames[0]).toEqual(before)
  })

  test('a small body keeps no more than 64 KiB alive, or 16 times its size, and detach frees it of that', () => {
    const small = encode(serviceCodec, [item(1, 200), item(2, 2 << 20), item(3, 400_000)])[0] as Buffer
    const read = decode(coordinatorCodec, small) as unknown as {
      request: { messages: { body: Uint8Array }[] }
    }[]
    for (const { request } of read) {
      const [{ body }] = request.messages as [{ body: Uint8Array }]
      expect(body.buffer.byteLength).toBeLessThanOrEqual(Math.max(64 << 10, body.length * 16))
      expect(detach(body).buffer.byteLength).toBeLessThanOrEqual(body.length * 2)
      expect(Buffer.from(detach(body))).toEqual(Buffer.from(body))
    }
  })
})
