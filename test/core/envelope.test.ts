import { expect, test } from 'vitest'
import {
  checkBodies,
  DEFAULT_LIMITS,
  type HalfMessageInput,
  NO_TRACE,
  parseHalfMessages,
  parseTrace,
  traceHeaders,
} from '../../src/core/envelope.ts'
import { EscrowError } from '../../src/core/errors.ts'

const limits = {
  ...DEFAULT_LIMITS,
  bodyBytesMax: 100,
  headerBytesMax: 50,
  messagesMax: 3,
  transactionBytesMax: 400,
}
const message: HalfMessageInput = { destination: 'shop/receive', body: Buffer.alloc(10) }
const parse = (inputs: readonly HalfMessageInput[], orderingKey = '') =>
  parseHalfMessages(inputs, orderingKey, limits)

function refusal(act: () => unknown): EscrowError {
  try {
    act()
  } catch (error) {
    return EscrowError.from(error)
  }
  throw new Error('not refused')
}

test.each([
  ['bodyBytesMax', 100, 101, () => parse([{ ...message, body: Buffer.alloc(101) }])],
  ['headerBytesMax', 50, 51, () => parse([{ ...message, headers: { a: 'x'.repeat(50) } }])],
  ['messagesMax', 3, 4, () => parse([message, message, message, message])],
  [
    'transactionBytesMax',
    400,
    492,
    () => parse([100, 100, 100].map((size) => ({ ...message, body: Buffer.alloc(size) }))),
  ],
  ['keyBytesMax', 1024, 1026, () => parse([{ ...message, key: 'é'.repeat(513) }])],
  ['bodyBytesMax', 100, 101, () => checkBodies([{ body: Buffer.alloc(101) }], limits)],
  ['transactionBytesMax', 400, 500, () => checkBodies(Array(5).fill({ body: Buffer.alloc(100) }), limits)],
])('%s of %d is named in the error about %d', (limit, max, actual, act) => {
  const error = refusal(act)
  expect(error).toMatchObject({
    code: 'tooLarge',
    details: { limit, max: String(max), actual: String(actual) },
  })
  expect(error.message).toContain(limit)
  expect(error.message).toContain(String(max))
})

test('what is exactly at its limit is taken', () => {
  const full = { ...message, body: Buffer.alloc(86), headers: { a: 'x'.repeat(49) }, key: 'k'.repeat(1024) }
  expect(
    parse([
      { ...full, headers: {} },
      { ...message, body: Buffer.alloc(100), headers: { a: 'x'.repeat(22) } },
    ]),
  ).toHaveLength(2)
  expect(parse([full])[0]?.headers).toEqual({ a: 'x'.repeat(49) })
  checkBodies(Array(4).fill({ body: Buffer.alloc(100) }), limits)
})

test.each([
  ['no message at all', () => parse([])],
  ['a destination that is none', () => parse([{ ...message, destination: 'nowhere' }])],
  ['a header name with a blank', () => parse([{ ...message, headers: { 'a b': '' } }])],
  ['an empty header name', () => parse([{ ...message, headers: { '': 'x' } }])],
  ['half a millisecond', () => parse([{ ...message, deliverAtMs: 0.5 }])],
  ['a negative time', () => parse([{ ...message, deliverAtMs: -1 }])],
  ['a content type with a line break', () => parse([{ ...message, contentType: 'a\nb' }])],
  ['an ordering key that is too long', () => parse([message], 'x'.repeat(129))],
])('%s is refused as invalidArgument', (_, act) => {
  expect(refusal(act).code).toBe('invalidArgument')
})

test('the ordering key is the key of every message, and no other may stand beside it', () => {
  expect(parse([message, { ...message, key: 'k1' }], 'k1').map(({ key }) => key)).toEqual(['k1', 'k1'])
  expect(refusal(() => parse([{ ...message, key: 'k2' }], 'k1')).code).toBe('orderingKeyMismatch')
})

test('a message is completed: content type, empty body, or none yet where it is fixed at commit', () => {
  const [plain, later] = parse([{ destination: 'shop/receive' }, { ...message, bodyAtCommit: true }])
  expect(plain).toMatchObject({
    body: new Uint8Array(0),
    contentType: 'application/json',
    deliverAtMs: 0,
    key: '',
  })
  expect(later?.body).toBeUndefined()
})

test('the headers of a trace are what a header can have', () => {
  const trace = { traceparent, tracestate: ' v=1\t', baggage: 'k=v\r\nx: y' }
  expect(traceHeaders(trace)).toEqual({ traceparent, tracestate: 'v=1' })
  expect(traceHeaders({ traceparent, tracestate: '', baggage: 'k=ü' })).toEqual({ traceparent })
})

const traceparent = `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01`

test('a trace context that is not well formed, or too large, is dropped and nothing else with it', () => {
  const trace = { traceparent, tracestate: 'v=1', baggage: 'k=v' }
  expect(parseTrace(trace)).toEqual(trace)
  expect(parseTrace({ ...trace, traceparent: 'nonsense' })).toEqual({
    traceparent: '',
    tracestate: '',
    baggage: 'k=v',
  })
  expect(parseTrace({ ...trace, traceparent: '', baggage: '' })).toEqual(NO_TRACE)
  expect(parseTrace({ ...trace, baggage: 'x'.repeat(9_000) })).toEqual({
    traceparent,
    tracestate: '',
    baggage: '',
  })
  expect(parseTrace({ ...trace, traceparent: `${traceparent}-${'x'.repeat(1_000_000)}` }).traceparent).toBe(
    '',
  )
  expect(parseTrace({ ...trace, traceparent: `cc${traceparent.slice(2)}-more` }).traceparent).toContain(
    'more',
  )
})
