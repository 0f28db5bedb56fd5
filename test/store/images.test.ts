import fc from 'fast-check'
import { expect, test } from 'vitest'
import { compareKeys } from '../../src/store/images.ts'

test('keys are sorted by the bytes of their UTF-8, whatever characters they are of', () => {
  const unit = fc.constantFrom('a', 'b', '~', 'é', '\ud7ff', '\ue000', '\uffff', '\u{10000}', '\u{10ffff}')
  const text = fc.string({ unit, maxLength: 6 })
  fc.assert(
    fc.property(fc.array(text, { maxLength: 20 }), (keys) => {
      const sorted = keys.toSorted(compareKeys)
      const bytes = keys.map((key) => Buffer.from(key)).sort(Buffer.compare)
      expect(sorted).toEqual(bytes.map(String))
    }),
  )
})
