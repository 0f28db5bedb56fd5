import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ByteReader, ByteWriter } from '../../src/store/binary.ts'

describe('bytes', () => {
  test('every number comes back, NaN and infinities too', () => {
    fc.assert(
      fc.property(
        fc.array(fc.oneof(fc.double(), fc.maxSafeNat(), fc.constantFrom(0, 1, 2 ** 52 - 1, 2 ** 52, -1))),
        (numbers) => {
          const writer = new ByteWriter(64)
          for (const number of numbers) writer.number(number)
          const reader = new ByteReader(writer.copy(), 'test')
          // -0 is 0 here: nothing counts from below.
          for (const number of numbers) expect(reader.number()).toBe(number + 0)
          expect(reader.remaining).toBe(0)
        },
      ),
    )
  })

  test('every length comes back', () => {
    fc.assert(
      fc.property(fc.array(fc.maxSafeNat()), (lengths) => {
        const writer = new ByteWriter(64)
        for (const length of lengths) writer.varint(length)
        const reader = new ByteReader(writer.copy(), 'test')
        for (const length of lengths) expect(reader.varint()).toBe(length)
      }),
    )
  })

  test('text comes back, whatever its length and script', () => {
    const text = fc.oneof(fc.string({ unit: 'binary', maxLength: 300 }), fc.string({ maxLength: 300 }))
    fc.assert(
      fc.property(fc.array(text), (texts) => {
        const writer = new ByteWriter(64)
        for (const each of texts) writer.text(each)
        const reader = new ByteReader(writer.copy(), 'test')
        for (const each of texts) expect(reader.text()).toBe(each)
      }),
    )
  })

  test('a blob is a copy: it does not keep the bytes that it came in', () => {
    const writer = new ByteWriter()
    writer.blob(Buffer.from('abc'))
    const bytes = writer.copy()
    const blob = new ByteReader(bytes, 'test').blob()
    bytes.fill(0)
    expect(Buffer.from(blob).toString()).toBe('abc')
  })

  test('a count that no bytes can hold is storeCorrupt, not a long loop', () => {
    const writer = new ByteWriter()
    writer.varint(2 ** 50)
    expect(() => new ByteReader(writer.copy(), 'test').count()).toThrow(/items in 0 bytes/)
  })

  test('truncating takes the last record back', () => {
    const writer = new ByteWriter(64)
    writer.text('kept')
    const { length } = writer
    writer.text('x'.repeat(10_000))
    writer.truncate(length)
    expect(new ByteReader(writer.written(), 'test').text()).toBe('kept')
    expect(writer.length).toBe(length)
  })
})
