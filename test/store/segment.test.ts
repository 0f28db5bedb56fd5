import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { MessageImage } from '../../src/core/message.ts'
import {
  isSameSegment,
  readSegment,
  SEGMENT_BYTES_MAX,
  SegmentBuilder,
  type SegmentSeal,
  segmentIdentity,
} from '../../src/store/segment.ts'
import { applyTransactionRecord } from '../../src/store/transaction-record.ts'
import { anyImage } from './images-arbitrary.ts'

const seal = (sequence: number, nonce = Buffer.alloc(16, 7)): SegmentSeal => ({
  nonce,
  epoch: 3,
  sequence,
  clock: { wallMs: 1_700_000_000_123, logMs: 4567.5 },
})

describe('segments', () => {
  test('a segment gives back its header and its records in order', () => {
    fc.assert(
      fc.property(fc.array(anyImage, { maxLength: 6 }), fc.maxSafeNat(), (images, sequence) => {
        const builder = new SegmentBuilder()
        for (const image of images) expect(builder.add(undefined, image)).toBe(true)
        expect(builder.records).toBe(images.length)
        const { bytes } = builder.finish(seal(sequence))
        const { header, records } = readSegment(bytes)
        expect({ ...header, nonce: Buffer.from(header.nonce) }).toEqual({
          ...seal(sequence),
          records: images.length,
        })
        expect(Array.from(records(), (record) => applyTransactionRecord(undefined, record))).toEqual(images)
        expect(builder.records).toBe(0)
      }),
    )
  })

  test('the bytes of a finished segment stay as they are while the next one collects', () => {
    const [image] = fc.sample(anyImage, 1) as [MessageImage]
    const builder = new SegmentBuilder()
    builder.add(undefined, image)
    const first = builder.finish(seal(1))
    const before = Buffer.from(first.bytes)
    for (let i = 0; i < 100; i++) builder.add(undefined, image)
    builder.finish(seal(2))
    expect(Buffer.compare(before, first.bytes)).toBe(0)
  })

  test('any damage anywhere is storeCorrupt', () => {
    fc.assert(
      fc.property(
        fc.array(anyImage, { maxLength: 3 }),
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        (images, at, mask) => {
          const builder = new SegmentBuilder()
          for (const image of images) builder.add(undefined, image)
          const { bytes } = builder.finish(seal(1))
          bytes[at % bytes.length]! ^= mask
          expect(() => readSegment(bytes, 'segment 1')).toThrow(/segment 1: its checksum is wrong/)
          expect(() => readSegment(bytes.subarray(0, at % bytes.length), 'segment 1')).toThrow(/segment 1/)
        },
      ),
    )
  })

  test('a full builder refuses the record and keeps what it has; a record beyond all room is tooLarge', () => {
    const [{ head, state }] = fc.sample(anyImage, 1) as [MessageImage]
    const withBody = (bytes: number): MessageImage => ({
      head: {
        ...head,
        messages: [
          {
            destination: 'a/b' as never,
            body: new Uint8Array(bytes),
            headers: {},
            key: '',
            deliverAtMs: 0,
            contentType: 'x',
          },
        ],
      },
      state,
    })
    const builder = new SegmentBuilder()
    expect(() => builder.add(undefined, withBody(SEGMENT_BYTES_MAX))).toThrow(
      expect.objectContaining({ code: 'tooLarge' }),
    )
    expect(builder.records).toBe(0)
    let added = 0
    while (builder.add(undefined, withBody(1 << 20))) added += 1
    expect(added).toBe(3)
    const { bytes } = builder.finish(seal(1))
    expect(bytes.length).toBeLessThanOrEqual(SEGMENT_BYTES_MAX)
    expect(Array.from(readSegment(bytes).records())).toHaveLength(3)
  })

  test('what identifies a segment differs for another writer, epoch, sequence or content', () => {
    const identity = (change: Partial<SegmentSeal>): ReturnType<typeof segmentIdentity> =>
      segmentIdentity(new SegmentBuilder().finish({ ...seal(1), ...change }).bytes)
    const own = identity({})
    expect(isSameSegment(own, identity({}))).toBe(true)
    // A checksum may agree by chance.
    expect(isSameSegment(own, { ...own, nonce: Buffer.alloc(16, 8) })).toBe(false)
    expect(isSameSegment(own, { ...own, epoch: 4 })).toBe(false)
    expect(isSameSegment(own, { ...own, sequence: 2 })).toBe(false)
    expect(isSameSegment(own, { ...own, checksum: own.checksum ^ 1 })).toBe(false)
    for (const change of [
      { nonce: Buffer.alloc(16, 8) },
      { epoch: 4 },
      { sequence: 2 },
      { clock: { wallMs: 1, logMs: 1 } },
    ]) {
      expect(isSameSegment(own, identity(change))).toBe(false)
    }
  })
})
