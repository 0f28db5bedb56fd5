import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  destinationParts,
  ID_BYTES_MAX,
  mintedCounter,
  mintedIdParts,
  mintTransactionId,
  type Namespace,
  orderingKeyRouting,
  parseClientId,
  parseDestination,
  parseName,
  parseNamespace,
  parseTransactionId,
  routingPart,
  routingsOf,
  SLOTS,
  slotOf,
  type TransactionId,
  transactionKey,
  transactionKeyParts,
} from '../../src/core/ids.ts'

const unicode = fc.string({ unit: 'grapheme', maxLength: 40 })

/** CRC-16/XMODEM, bit by bit, as its definition has it. */
function crc16(bytes: Uint8Array): number {
  let crc = 0
  for (const byte of bytes) {
    crc ^= byte << 8
    for (let bit = 0; bit < 8; bit++)
      crc = crc & 0x8000 ? ((crc << 1) ^ 0x1021) & 0xffff : (crc << 1) & 0xffff
  }
  return crc
}

test('the slot is CRC-16/XMODEM as Redis Cluster has it, modulo 4,096, for ever', () => {
  expect(slotOf('123456789')).toBe(0x31c3 % SLOTS)
  // The key slots of Redis for these, modulo 4,096.
  expect([slotOf('foo'), slotOf('bar'), slotOf('hello')]).toEqual([12182 % SLOTS, 5061 % SLOTS, 866 % SLOTS])
  fc.assert(
    fc.property(unicode, (id) => {
      expect(slotOf(id)).toBe(crc16(Buffer.from(routingPart(id))) % SLOTS)
    }),
  )
})

test.each([
  ['{user1000}.following', 'user1000'],
  ['foo{}{bar}', 'foo{}{bar}'],
  ['foo{{bar}}zap', '{bar'],
  ['foo{bar}{zap}', 'bar'],
  ['plain', 'plain'],
  ['open{only', 'open{only'],
  ['close}first{x}', 'x'],
  ['{}', '{}'],
])('the routing part of %s is %s, as in the Redis Cluster specification', (id, part) => {
  expect(routingPart(id)).toBe(part)
})

test('a minted id comes back as what it was made of, and lands in the slot of its routing part', () => {
  fc.assert(
    fc.property(
      unicode.filter((key) => key !== '' && Buffer.byteLength(key) <= 128),
      fc.nat(),
      (key, counter) => {
        const routing = orderingKeyRouting(key)
        const startedAtMs = 1_790_000_000_000
        const id = mintTransactionId(routing, `${startedAtMs.toString(36)}-z9`, counter)
        expect(parseTransactionId(id)).toBe(id)
        expect(Buffer.byteLength(id)).toBeLessThanOrEqual(ID_BYTES_MAX)
        expect(mintedIdParts(id)).toEqual({
          session: `${startedAtMs.toString(36)}-z9`,
          counter,
          sessionStartedAtMs: startedAtMs,
        })
        expect(routingPart(id)).toBe(routing)
        expect(slotOf(id)).toBe(slotOf(routing))
      },
    ),
  )
})

test('the counter of a minted id is told to the session that minted it, and to nobody else', () => {
  const session = `${(1_790_000_000_000).toString(36)}-z9`
  fc.assert(
    fc.property(
      unicode.filter((key) => key !== '' && Buffer.byteLength(key) <= 128),
      fc.nat(),
      (key, counter) => {
        const id = mintTransactionId(orderingKeyRouting(key), session, counter)
        expect(mintedCounter(id, session)).toBe(counter)
        for (const other of [`${session}9`, session.slice(0, -1), `${session.slice(0, -1)}8`, 'abc-1', ''])
          expect(mintedCounter(id, other), other).toBeUndefined()
      },
    ),
  )
  for (const id of [
    '',
    'order-7',
    session,
    `${session}.1`,
    `{a}${session}.1`,
    `{a}~${session}`,
    `{a}~${session}.`,
  ])
    expect(mintedCounter(id, session), id).toBeUndefined()
})

test('an ordering key is percent-encoded, so that nothing of it ends its place in an id', () => {
  expect(orderingKeyRouting('a{b}~c')).toBe('a%7Bb%7D%7Ec')
  expect(orderingKeyRouting('Zoë 日')).toBe('Zo%C3%AB%20%E6%97%A5')
  fc.assert(
    fc.property(
      unicode.filter((key) => key !== '' && Buffer.byteLength(key) <= 128),
      (key) => {
        const routing = orderingKeyRouting(key)
        expect(routing).toMatch(/^[\w.!*'()%-]+$/)
        expect(decodeURIComponent(routing)).toBe(key)
      },
    ),
  )
})

test('an ordering key of 0 or 129 bytes, or half a surrogate pair, is refused', () => {
  expect(orderingKeyRouting('x'.repeat(128))).toBe('x'.repeat(128))
  for (const key of ['', 'x'.repeat(129), 'é'.repeat(65), '\ud800']) {
    expect(() => orderingKeyRouting(key)).toThrow(expect.objectContaining({ code: 'invalidArgument' }))
  }
})

test('two different ordering keys never share a routing part', () => {
  fc.assert(
    fc.property(unicode, unicode, (one, other) => {
      fc.pre(one !== other && one !== '' && other !== '')
      fc.pre(Buffer.byteLength(one) <= 128 && Buffer.byteLength(other) <= 128)
      expect(orderingKeyRouting(one)).not.toBe(orderingKeyRouting(other))
    }),
  )
})

test.each([
  ['', 'empty'],
  ['a b', 'white space'],
  ['a\u0000b', 'a control character'],
  ['a~b', 'the mark of minted ids'],
  ['a\ud800b', 'half a surrogate pair'],
  ['x'.repeat(513), 'too long'],
  ['é'.repeat(257), 'too long in bytes'],
])('an id that a caller chose is refused: %#, %s', (id) => {
  expect(() => parseClientId(id)).toThrow(expect.objectContaining({ code: 'invalidArgument' }))
  expect(() => parseTransactionId(id)).toThrow(expect.objectContaining({ code: 'invalidArgument' }))
})

test.each(['{a b}~k-1.2', '{é}~k-1.2', '{a}~k.1', '{}~k-1.2', '{a}~K-1.2', `{${'x'.repeat(510)}}~k-1.2`])(
  'what only looks like a minted id is refused: %s',
  (id) => {
    expect(() => parseTransactionId(id)).toThrow(expect.objectContaining({ code: 'invalidArgument' }))
    expect(parseTransactionId('{a}~k-1.2')).toBe('{a}~k-1.2')
  },
)

test('a key comes apart into namespace and id, whatever slashes the id has', () => {
  const key = transactionKey('default' as Namespace, 'a/b/c' as TransactionId)
  expect(transactionKeyParts(key)).toEqual({ namespace: 'default', id: 'a/b/c' })
})

test('names, namespaces and destinations have one form each', () => {
  expect(parseNamespace('')).toBe('default')
  expect(parseName('service', `a${'-'.repeat(62)}`)).toHaveLength(63)
  for (const name of ['', '-a', 'A', 'a_b', 'a'.repeat(64), 'a/b', 'ä']) {
    expect(() => parseName('service', name)).toThrow(expect.objectContaining({ code: 'invalidArgument' }))
  }
  expect(destinationParts(parseDestination('shop/receive'))).toEqual({
    kind: 'participant',
    service: 'shop',
    handler: 'receive',
  })
  expect(destinationParts(parseDestination('kafka:a/b:c'))).toEqual({
    kind: 'broker',
    broker: 'kafka',
    topic: 'a/b:c',
  })
  for (const destination of ['', 'shop', 'shop/', '/x', 'shop/a/b', 'kafka:', ':x', 'kafka: x', 'Kafka:x']) {
    expect(() => parseDestination(destination)).toThrow(expect.objectContaining({ code: 'invalidArgument' }))
  }
})

test('routing parts are spread over all slots, one in each equal range', () => {
  const routings = routingsOf(8)
  expect(routings.map((routing) => Math.floor((slotOf(`{${routing}}~k-1.2`) * 8) / SLOTS))).toEqual([
    0, 1, 2, 3, 4, 5, 6, 7,
  ])
})
