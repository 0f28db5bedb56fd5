import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { EscrowError } from '../../src/core/errors.ts'
import { coordinatorCodec, serviceCodec } from '../../src/wire/frame.ts'
import { coordinatorItem, serviceItem } from './arbitrary.ts'

const requests = coordinatorCodec.decoder()
const responses = serviceCodec.decoder()

/** The code of the error that reading ends in; undefined if the bytes were read. */
function codeOf(decoder: { decode(bytes: Uint8Array): unknown }, bytes: Uint8Array): string | undefined {
  try {
    decoder.decode(bytes)
    return undefined
  } catch (error) {
    expect(error).toBeInstanceOf(EscrowError)
    return (error as EscrowError).code
  }
}

function frameOf(append: (writer: BinaryWriter) => BinaryWriter): Uint8Array {
  return append(new BinaryWriter().tag(1, WireType.Varint).uint32(1)).finish()
}

const nested = (field: number, bytes: Uint8Array | number[]) => (writer: BinaryWriter) =>
  writer.tag(field, WireType.LengthDelimited).bytes(Uint8Array.from(bytes))
const raw =
  (...bytes: number[]) =>
  (writer: BinaryWriter) =>
    writer.raw(Uint8Array.from(bytes))
const withHeader = (...bytes: number[]) => Uint8Array.from([8, 1, ...bytes])

const MALFORMED: Record<string, Uint8Array> = {
  'no bytes at all': new Uint8Array(0),
  'a format that is not known': Uint8Array.from([8, 2]),
  'no format': frameOf((writer) => writer).subarray(2),
  'a format that changes its mind': withHeader(8, 7),
  'a tag that is cut off': withHeader(0x80),
  'field number 0': withHeader(0x02, 0),
  'field number 0 in two bytes': withHeader(0x82, 0x00, 0),
  'wire type 6': withHeader(0xa6, 0x06, 0),
  'wire type 7': withHeader(0xa7, 0x06, 0),
  'a group that ends before it begins': withHeader(0xa4, 0x06),
  'a group that never ends': withHeader(0xa3, 0x06),
  'a group in a group in a group …': withHeader(...Array(40).fill([0xa3, 0x06]).flat()),
  'field number 0 in a group': withHeader(0xa3, 0x06, 0x00, 0x00, 0xa4, 0x06),
  'forty groups, each in another one': withHeader(
    ...Array(40).fill([0xa3, 0x06]).flat(),
    ...Array(40).fill([0xa4, 0x06]).flat(),
  ),
  'a nested message that reaches into what follows its parent': withHeader(
    ...[0x22, 4, 0x22, 6, 0x12, 1],
    ...[97, 0x12, 1, 98],
  ),
  'text that reaches into what follows its message': withHeader(0x22, 4, 0x22, 2, 0x12, 3, 97, 98, 99),
  'a varint of eleven bytes': withHeader(0xa0, 0x06, ...Array(10).fill(0x80), 0),
  'a varint of 65 bits': withHeader(0xa0, 0x06, ...Array(9).fill(0x80), 2),
  'a varint that is cut off': withHeader(0xa0, 0x06, 0x80),
  'a length beyond the end': withHeader(0x22, 100, 1, 2),
  'a length of four gigabytes': withHeader(0x22, 0xff, 0xff, 0xff, 0xff, 0x0f),
  'a nested length beyond its message': frameOf(nested(4, [0x22, 50, 0x12, 1, 97])),
  'a nested message that its parent cuts off': frameOf(nested(4, [0x22, 2, 0x12])),
  'a fixed field that is cut off': withHeader(0xa1, 0x06, 1, 2, 3),
  'a command with the wire type of a number': withHeader(0x20, 1),
  'a command id with the wire type of text': frameOf(nested(4, [0x0a, 1, 49])),
  'an id with the wire type of a number': frameOf(nested(4, [0x22, 2, 0x10, 1])),
  'text that is no UTF-8': frameOf(nested(4, [0x22, 4, 0x12, 2, 0xff, 0xfe])),
  'text that ends within a character': frameOf(nested(4, [0x22, 3, 0x12, 1, 0xc3])),
  'a surrogate in UTF-8': frameOf(nested(4, [0x22, 5, 0x12, 3, 0xed, 0xa0, 0x80])),
  'a command id above 2^53': frameOf(nested(4, [0x08, ...Array(9).fill(0xff), 1])),
  'a hello that is none': frameOf(nested(3, [0x0a, 5])),
  'a get that is none': frameOf(nested(4, [0x3a, 2, 0x0a, 5])),
  'a byte too many': frameOf(raw(1)),
}

describe('a frame that is broken is malformed, and nothing worse', () => {
  test.each(Object.entries(MALFORMED))('%s', (_, bytes) => {
    expect(codeOf(requests, bytes)).toBe('malformed')
  })

  test('a delivery without a request, or with a time beyond 2^53', () => {
    expect(codeOf(responses, frameOf(nested(5, [0x08, 1])))).toBe('malformed')
    const late = new BinaryWriter()
      .tag(12, WireType.Varint)
      .int64(2n ** 60n)
      .finish()
    expect(codeOf(responses, frameOf(nested(5, [0x12, late.length, ...late])))).toBe('malformed')
  })

  test('a welcome without limits', () => {
    expect(codeOf(responses, frameOf(nested(3, [])))).toBe('malformed')
  })

  test('a frame that names a key is unsupported', () => {
    expect(codeOf(requests, frameOf(nested(2, [107])))).toBe('unsupported')
    expect(codeOf(responses, frameOf(nested(2, [107])))).toBe('unsupported')
  })

  test('the error of an unknown format says what is read here and what to do', () => {
    expect(() => requests.decode(Uint8Array.from([8, 9]))).toThrow(
      /format 9 .* reads format 1, bring both sides/,
    )
  })

  test('the name that was read last does not make other bytes pass for it', () => {
    const decoder = coordinatorCodec.decoder()
    const commit = (bytes: number[]) =>
      frameOf(nested(4, [0x22, bytes.length + 5, 0x0a, bytes.length, ...bytes, 0x12, 1, 97]))
    decoder.decode(commit([...Buffer.from('é')]))
    expect(codeOf(decoder, commit([0xe9]))).toBe('malformed')
    decoder.decode(commit([...Buffer.from('shop')]))
    expect(decoder.decode(commit([...Buffer.from('shoq')]))).toMatchObject([
      { request: { namespace: 'shoq' } },
    ])
  })

  test('whatever the bytes are', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
        for (const decoder of [requests, responses]) {
          for (const frame of [bytes, withHeader(...bytes)]) {
            expect([undefined, 'malformed', 'unsupported']).toContain(codeOf(decoder, frame))
          }
        }
      }),
      { numRuns: 5000 },
    )
  })

  test('whatever is changed in a frame that was whole', () => {
    const change = fc.record({
      at: fc.double({ min: 0, max: 1, noNaN: true }),
      what: fc.constantFrom('set', 'cut', 'drop', 'insert', 'repeat'),
      byte: fc.nat(255),
    })
    const mutate = (
      frame: Buffer,
      { at, what, byte }: { at: number; what: string; byte: number },
    ): Buffer => {
      const index = Math.floor(at * frame.length)
      if (what === 'cut') return frame.subarray(0, index)
      if (what === 'drop') return Buffer.concat([frame.subarray(0, index), frame.subarray(index + 1)])
      if (what === 'insert')
        return Buffer.concat([frame.subarray(0, index), Buffer.of(byte), frame.subarray(index)])
      if (what === 'repeat') return Buffer.concat([frame, frame.subarray(index)])
      const copy = Buffer.from(frame)
      copy[index] = byte
      return copy
    }
    fc.assert(
      fc.property(
        fc.array(serviceItem, { minLength: 1, maxLength: 3 }),
        fc.array(coordinatorItem, { minLength: 1, maxLength: 3 }),
        fc.array(change, { minLength: 1, maxLength: 4 }),
        (service, coordinator, changes) => {
          let request: Buffer = Buffer.alloc(0)
          let response: Buffer = Buffer.alloc(0)
          const encoders = [
            serviceCodec.encoder(3 << 20, (frame) => {
              request = frame
            }),
            coordinatorCodec.encoder(3 << 20, (frame) => {
              response = frame
            }),
          ] as const
          for (const item of service) encoders[0].append(item)
          for (const item of coordinator) encoders[1].append(item)
          for (const encoder of encoders) encoder.flush()
          for (const each of changes) {
            request = mutate(request, each)
            response = mutate(response, each)
            expect([undefined, 'malformed', 'unsupported']).toContain(codeOf(requests, request))
            expect([undefined, 'malformed', 'unsupported']).toContain(codeOf(responses, response))
          }
        },
      ),
      { numRuns: 1500 },
    )
  })

  test('the time that a frame takes grows with its length, and no faster', () => {
    // Two million pieces of one operation: merged one by one they would be copied for hours.
    const pieces = Buffer.alloc(2 << 20)
    for (let at = 0; at < pieces.length; at += 4) pieces.set([0x3a, 2, 0x12, 0], at)
    const start = performance.now()
    expect(codeOf(requests, frameOf(nested(4, pieces)))).toBe(undefined)
    expect(performance.now() - start).toBeLessThan(5000)
  })

  test('groups that are opened by the million do not exhaust the stack', () => {
    const opened = Buffer.alloc(1 << 20)
    for (let at = 0; at < opened.length; at += 2) opened.set([0xa3, 0x06], at)
    expect(codeOf(requests, Buffer.concat([withHeader(), opened]))).toBe('malformed')
  })

  test('a length that nothing stands behind allocates nothing', () => {
    const before = process.memoryUsage().arrayBuffers
    for (let i = 0; i < 1000; i++) codeOf(requests, MALFORMED['a length of four gigabytes'] as Uint8Array)
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(10 << 20)
  })
})
