import fc from 'fast-check'
import { expect, test } from 'vitest'
import { boundMs, fullJitterMs } from '../../src/core/backoff.ts'
import { ERROR_CODES, EscrowError, isErrorCode } from '../../src/core/errors.ts'

const hostile = [
  Object.create(null),
  {
    toString: () => {
      throw new Error('no text')
    },
  },
  new Proxy(
    {},
    {
      getPrototypeOf: () => {
        throw new Error('no prototype')
      },
    },
  ),
  Object.assign(new Error('x'), { message: Object.create(null) }),
  Symbol('s'),
  undefined,
  null,
  10n,
]

test('EscrowError.from is total: whatever was thrown, an EscrowError comes of it', () => {
  for (const thrown of hostile) expect(EscrowError.from(thrown).code).toBe('internal')
  fc.assert(
    fc.property(fc.anything({ withNullPrototype: true, withBigInt: true }), (thrown) => {
      const error = EscrowError.from(thrown)
      expect(error).toBeInstanceOf(EscrowError)
      expect(typeof error.message).toBe('string')
    }),
  )
})

test('an EscrowError stays itself, an Error keeps its message and is the cause', () => {
  const own = new EscrowError('notFound', 'x')
  expect(EscrowError.from(own)).toBe(own)
  const cause = new TypeError('broken')
  expect(EscrowError.from(cause)).toMatchObject({ code: 'internal', message: 'broken', cause })
})

test('every code has a family, a remedy and a word on whether to try again that fits the family', () => {
  for (const [code, { family, retryable, remedy }] of Object.entries(ERROR_CODES)) {
    expect(isErrorCode(code)).toBe(true)
    expect(retryable).toBe(family !== 'refused')
    expect(remedy).toMatch(/\.$/)
  }
  for (const word of ['nonsense', 'toString', '__proto__', '']) expect(isErrorCode(word)).toBe(false)
})

test('a pause is between 0 and its bound, the bound doubles up to its cap and never falls', () => {
  const backoff = fc.record({
    delayMs: fc.integer({ min: 1, max: 60_000 }),
    delayMsMax: fc.integer({ min: 60_000, max: 3e10 }),
  })
  fc.assert(
    fc.property(
      backoff,
      fc.integer({ min: 1, max: 1_000_000 }),
      fc.double({ min: 0, max: 0.9999999, noNaN: true }),
      (of, attempt, random) => {
        const bound = boundMs(of, attempt)
        expect(bound).toBe(Math.min(of.delayMsMax, of.delayMs * 2 ** (attempt - 1)))
        expect(boundMs(of, attempt + 1)).toBeGreaterThanOrEqual(bound)
        const pause = fullJitterMs(of, attempt, random)
        expect(Number.isSafeInteger(pause) && pause >= 0 && pause < bound).toBe(true)
      },
    ),
  )
  expect(fullJitterMs({ delayMs: 100, delayMsMax: 1_000 }, 3, 0.5)).toBe(200)
})
