import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { EscrowError } from '../../src/core/errors.ts'
import { transactionKey } from '../../src/core/ids.ts'
import { ByteReader, ByteWriter } from '../../src/store/binary.ts'
import { applyRecord, decodeImage, decodeRecord, encodeImage, encodeRecord } from '../../src/store/record.ts'
import { anyImage, anyState } from './images-arbitrary.ts'

const record = (
  ...args: [Parameters<typeof encodeRecord>[1], Parameters<typeof encodeRecord>[2]]
): Uint8Array => {
  const writer = new ByteWriter(64)
  encodeRecord(writer, ...args)
  return writer.copy()
}

const image = (value: Parameters<typeof encodeImage>[1], bodies: boolean): Uint8Array => {
  const writer = new ByteWriter(64)
  encodeImage(writer, value, { bodies })
  return writer.copy()
}

/** Runs a decoder on bytes that may be damaged: it may succeed or say so, and nothing else. */
const survives = (decode: () => unknown): void => {
  try {
    decode()
  } catch (error) {
    expect(error).toBeInstanceOf(EscrowError)
    expect((error as EscrowError).code).toBe('storeCorrupt')
  }
}

describe('records', () => {
  test('a full record gives the image back', () => {
    fc.assert(
      fc.property(anyImage, (next) => {
        const decoded = decodeRecord(new ByteReader(record(undefined, next), 'test'))
        expect(decoded.key).toBe(transactionKey(next.head.namespace, next.head.id))
        expect(applyRecord(undefined, decoded)).toEqual(next)
      }),
    )
  })

  test('a record under the same head is its state alone, and applies to the image before', () => {
    fc.assert(
      fc.property(anyImage, anyState, (previous, state) => {
        const bytes = record(previous, { head: previous.head, state })
        const decoded = decodeRecord(new ByteReader(bytes, 'test'))
        expect(decoded.head).toBeUndefined()
        expect(applyRecord(previous, decoded)).toEqual({ head: previous.head, state })
        expect(() => applyRecord(undefined, decoded)).toThrow(/is stored, but not what it changes/)
      }),
    )
  })

  test('a record under another head is whole', () => {
    fc.assert(
      fc.property(anyImage, anyImage, (previous, next) => {
        expect(decodeRecord(new ByteReader(record(previous, next), 'test')).head).toEqual(next.head)
      }),
    )
  })

  test('records follow one another in one buffer', () => {
    fc.assert(
      fc.property(fc.array(anyImage, { maxLength: 8 }), (images) => {
        const writer = new ByteWriter(64)
        for (const each of images) encodeRecord(writer, undefined, each)
        const reader = new ByteReader(writer.copy(), 'test')
        for (const each of images) expect(applyRecord(undefined, decodeRecord(reader))).toEqual(each)
        expect(reader.remaining).toBe(0)
      }),
    )
  })

  test('cut anywhere, a record is storeCorrupt', () => {
    fc.assert(
      fc.property(anyImage, fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), (next, at) => {
        const bytes = record(undefined, next)
        const cut = bytes.subarray(0, Math.floor(bytes.length * at))
        expect(() => decodeRecord(new ByteReader(cut, 'test'))).toThrow(EscrowError)
      }),
    )
  })

  test('no flipped bits end in anything but storeCorrupt', () => {
    const flips = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 })), {
      minLength: 1,
      maxLength: 4,
    })
    fc.assert(
      fc.property(anyImage, flips, (next, places) => {
        const bytes = record(undefined, next)
        for (const [at, mask] of places) bytes[at % bytes.length]! ^= mask
        survives(() => decodeRecord(new ByteReader(bytes, 'test')))
        survives(() => decodeImage(bytes))
      }),
      { numRuns: 2_000 },
    )
  })

  test('no random bytes end in anything but storeCorrupt', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) =>
        survives(() => decodeRecord(new ByteReader(bytes, 'test'))),
      ),
      { numRuns: 2_000 },
    )
  })
})

describe('images', () => {
  test('an image with its bodies comes back as it was', () => {
    fc.assert(
      fc.property(anyImage, (value) => {
        expect(decodeImage(image(value, true))).toEqual(value)
      }),
    )
  })

  test('an image without its bodies comes back as it was but for them', () => {
    fc.assert(
      fc.property(anyImage, (value) => {
        const messages = value.head.messages.map((message) => ({ ...message, body: undefined }))
        expect(decodeImage(image(value, false))).toEqual({ ...value, head: { ...value.head, messages } })
      }),
    )
  })

  test('bytes after an image are storeCorrupt', () => {
    fc.assert(
      fc.property(anyImage, (value) => {
        expect(() => decodeImage(Buffer.concat([image(value, true), Buffer.from([0])]))).toThrow(/too many/)
      }),
    )
  })

  test('a format, a key id or a kind that is not known is storeCorrupt, and says which', () => {
    const [value] = fc.sample(anyImage, 1) as [Parameters<typeof encodeImage>[1]]
    const changed = (at: number, byte: number): Uint8Array => {
      const bytes = image(value, true)
      bytes[at] = byte
      return bytes
    }
    expect(() => decodeImage(changed(0, 9))).toThrow(/format 9/)
    expect(() => decodeImage(changed(1, 1))).toThrow(/encrypted under the key/)
    expect(() => decodeImage(changed(2, 8))).toThrow(/kind 4/)
  })
})
