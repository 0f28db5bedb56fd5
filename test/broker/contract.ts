/** What every broker's adapter promises (`src/broker/broker.ts`), with a real server: one row of it is a file beside this one. */
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { Broker, BrokerMessage } from '../../src/broker/broker.ts'
import type { ErrorCode } from '../../src/core/errors.ts'
import { until } from '../harness/until.ts'
import { inTrouble } from './contract-trouble.ts'
import { type BrokerRow, ContractWorld, message, publish, rejected, TIMEOUT_MS } from './contract-world.ts'

/** What callers may send, and some broker has trouble with. */
const ODD_TEXTS: [string, Partial<BrokerMessage>][] = [
  ['an empty header', { headers: { note: '' } }],
  ['a header with white space at its ends', { headers: { note: ' one\t' } }],
  ['a header with a tab', { headers: { note: 'one\ttwo' } }],
  ['a header with a line break', { headers: { note: 'one\ntwo' } }],
  ['a header with U+0000', { headers: { note: 'one\0two' } }],
  ['a header with U+0001 and U+0002', { headers: { note: 'one\u0001two\u0002' } }],
  ['a header with U+0085', { headers: { note: 'one\u0085two' } }],
  ['a header with a colon in its name', { headers: { 'no:te': 'one' } }],
  ["a header of NATS' own", { headers: { 'Nats-Rollup': 'all' } }],
  ["a header of RocketMQ's own", { headers: { KEYS: 'one' } }],
  ['a header named as a field of a stream', { headers: { body: 'one' } }],
  ['many headers', { headers: Object.fromEntries(Array.from({ length: 100 }, (_, i) => [`h${i}`, 'x'])) }],
  ['a key with white space at its end', { key: 'k ' }],
  ['a key with U+0001', { key: 'k\u0001' }],
  ['a content type with white space at its end', { contentType: 'text/plain ' }],
]

/** Declares the suite for one adapter. `start` runs once, before the tests; the service that it returned is stopped at the end. */
export function brokerContract(start: () => Promise<BrokerRow>): void {
  const world = new ContractWorld(start)
  describe('publishing', () => publishing(world))
  describe('registering', () => registering(world))
  describe('limits', () => limits(world))
  describe('receiving', () => receiving(world))
  describe('a broker in trouble', () => inTrouble(world))
}

function publishing(world: ContractWorld): void {
  test('a message arrives as it was sent: id, key, bytes, headers, content type', async () => {
    const { broker, topic } = await world.withTopic()
    const sent: BrokerMessage = {
      topic,
      id: 'e-1.0',
      key: 'customer 7 ü',
      body: Uint8Array.from([0, 255, 10, 13, 128]),
      headers: {
        traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
        'x-shop': 'größe',
      },
      contentType: 'application/octet-stream',
    }
    const { got } = await world.collect(broker, topic)
    expect(await publish(broker, [sent])).toEqual(['published'])
    await until('the message arrives', () => got.length >= 1 || undefined, TIMEOUT_MS)
    expect({ ...got[0], body: [...(got[0]?.body ?? [])] }).toEqual({ ...sent, body: [...sent.body] })
  })

  test('without a key, a body, headers', async () => {
    const { broker, topic } = await world.withTopic()
    const sent = { ...message(topic, 'e-2.0', ''), body: new Uint8Array(0) }
    const { got } = await world.collect(broker, topic)
    expect(await publish(broker, [sent])).toEqual(['published'])
    await until('the message arrives', () => got.length >= 1 || undefined, TIMEOUT_MS)
    expect(got[0]).toMatchObject({ topic, id: 'e-2.0', headers: {} })
    expect(got[0]?.body.length).toBe(0)
  })

  test('batches arrive whole, and in order within each key', async () => {
    const { broker, topic } = await world.withTopic()
    const { got } = await world.collect(broker, topic)
    const ids: string[] = []
    for (let batch = 0; batch < 5; batch++) {
      const messages = Array.from({ length: 300 }, (_, at) =>
        message(topic, `b${batch}-${at}`, `key-${at % 7}`),
      )
      ids.push(...messages.map(({ id }) => id))
      expect(new Set(await publish(broker, messages))).toEqual(new Set(['published']))
    }
    await until('all arrive', () => got.length >= ids.length || undefined, TIMEOUT_MS)
    expect(got.map(({ id }) => id).sort()).toEqual(ids.toSorted())
    for (let key = 0; key < 7; key++) {
      const ofKey = (id: string) => Number(id.split('-')[1]) % 7 === key
      expect(got.filter((each) => each.key === `key-${key}`).map(({ id }) => id)).toEqual(ids.filter(ofKey))
    }
  })

  test('two topics at once do not mix', async () => {
    const { broker, topic } = await world.withTopic()
    const other = await world.newTopic()
    await broker.register(other, AbortSignal.timeout(TIMEOUT_MS))
    const [one, two] = [await world.collect(broker, topic), await world.collect(broker, other)]
    await Promise.all([
      publish(broker, [message(topic, 'one', 'k')]),
      publish(broker, [message(other, 'two', 'k')]),
    ])
    await until('both arrive', () => (one.got.length >= 1 && two.got.length >= 1) || undefined, TIMEOUT_MS)
    expect([one.got.map(({ id }) => id), two.got.map(({ id }) => id)]).toEqual([['one'], ['two']])
  })
}

function registering(world: ContractWorld): void {
  test('a topic that is not there is refused, and says what to do', async (context) => {
    if (world.row.hasAllTopics === true) context.skip('a topic is there as soon as it is named')
    const broker = await world.connect()
    const topic = world.newName()
    const error = await rejected(broker.register(topic, AbortSignal.timeout(TIMEOUT_MS)))
    expect(error).toMatchObject({ code: 'unknownDestination' satisfies ErrorCode })
    expect(error.message).toContain(topic)
    expect(error.message).toContain('missingTopics')
  })

  test('a topic that is not there is created on request, once by many that ask', async () => {
    const brokers = [
      await world.connect({ missingTopics: 'create' }),
      await world.connect({ missingTopics: 'create' }),
    ]
    const topic = world.newName()
    await Promise.all(brokers.map((each) => each.register(topic, AbortSignal.timeout(TIMEOUT_MS))))
    const { got } = await world.collect(brokers[0] as Broker, topic)
    expect(await publish(brokers[1] as Broker, [message(topic, 'made', 'k')])).toEqual(['published'])
    await until('it arrives', () => got.length >= 1 || undefined, TIMEOUT_MS)
  })

  test('what falls short of being replicated is told, and refused on request with the setting', async (context) => {
    const { broker, topic } = await world.withTopic()
    const { notReplicated } = world.row
    const { shortfalls } = await broker.register(topic, AbortSignal.timeout(TIMEOUT_MS))
    if (notReplicated === undefined) context.skip('this broker needs no replicas')
    expect(shortfalls.join('; ')).toMatch(notReplicated as RegExp)
    const strict = await world.connect({ durability: 'replicated' })
    const error = await rejected(strict.register(topic, AbortSignal.timeout(TIMEOUT_MS)))
    expect(error).toMatchObject({ code: 'notDurable' satisfies ErrorCode })
    expect(error.message).toMatch(notReplicated as RegExp)
  })
}

function limits(world: ContractWorld): void {
  test('a message over the limit is refused at once, and its neighbours are published', async (context) => {
    const { broker, topic } = await world.withTopic()
    const { tooLargeBytes } = world.row
    if (tooLargeBytes === undefined) context.skip('no body that Escrow takes is too large for this broker')
    const { messageBytesMax } = await broker.register(topic, AbortSignal.timeout(TIMEOUT_MS))
    expect(messageBytesMax).toBeLessThan(tooLargeBytes as number)
    const large = { ...message(topic, 'large', 'k'), body: new Uint8Array(tooLargeBytes as number) }
    const outcomes = await publish(broker, [
      message(topic, 'before', 'k'),
      large,
      message(topic, 'after', 'k'),
    ])
    expect(outcomes).toEqual(['published', 'refused', 'published'])
  })

  test.each(ODD_TEXTS)(
    '%s: carried as it is, or declared as what can not be, and refused',
    async (_, text) => {
      const { broker, topic } = await world.withTopic()
      const odd: BrokerMessage = { ...message(topic, 'odd', 'k'), ...text }
      const { got } = await world.collect(broker, topic)
      const fault = broker.faultOf?.(odd)
      const outcomes = await broker.publish(
        [odd, message(topic, 'after', 'k')],
        AbortSignal.timeout(TIMEOUT_MS),
      )
      expect(outcomes).toEqual([
        fault === undefined
          ? { outcome: 'published' }
          : { outcome: 'refused', error: `${broker.kind}: ${fault}` },
        { outcome: 'published' },
      ])
      const { key, contentType, headers } = odd
      const arriving = fault === undefined ? [{ id: 'odd', key, contentType, headers }] : []
      // Where their keys differ, they may lie in different partitions, and be in no order.
      await until('all arrive', () => got.length > arriving.length || undefined, TIMEOUT_MS)
      const sorted = got.toSorted((one, other) => (one.id < other.id ? 1 : -1))
      expect(sorted).toMatchObject([...arriving, { id: 'after' }])
    },
  )

  test('wrong credentials are refused by name, and no attempt is spent on them', async (context) => {
    if (world.row.openUnauthorized === undefined)
      context.skip('the server under test asks for no credentials')
    const topic = await world.newTopic()
    const broker = await (world.row.openUnauthorized as () => Broker | Promise<Broker>)()
    world.closeAfter(broker)
    const error = await rejected(broker.register(topic, AbortSignal.timeout(TIMEOUT_MS)))
    expect(error).toMatchObject({ code: 'brokerRefused' satisfies ErrorCode })
    expect(await publish(broker, [message(topic, 'never', 'k')])).toEqual(['unreachable'])
  })
}

function receiving(world: ContractWorld): void {
  test('what a handler rejects comes again, before what follows it under its key', async () => {
    const { broker, topic } = await world.withTopic()
    const seen: string[] = []
    let failures = 2
    await broker.subscribe({ topic, group: 'stubborn' }, async ({ id }) => {
      seen.push(id)
      if (id === 'first' && failures > 0) {
        failures -= 1
        throw new Error('not now')
      }
    })
    await publish(broker, [message(topic, 'first', 'k'), message(topic, 'second', 'k')])
    await until('both are handled', () => seen.includes('second') || undefined, TIMEOUT_MS)
    expect(seen).toEqual(['first', 'first', 'first', 'second'])
  })

  test('what was not acknowledged when a reader ended comes to the next one', async () => {
    const { broker, topic } = await world.withTopic()
    const reader = await world.connect()
    let began = 0
    await reader.subscribe({ topic, group: 'heirs' }, async () => {
      began += 1
      await new Promise(() => {})
    })
    await publish(broker, [message(topic, 'inherited', 'k')])
    await until('it is begun', () => began > 0 || undefined, TIMEOUT_MS)
    await Promise.race([reader.close(), sleep(5_000)])
    const { got } = await world.collect(broker, topic, 'heirs')
    await until('it comes again', () => got.length >= 1 || undefined, TIMEOUT_MS)
    expect(got[0]?.id).toBe('inherited')
  })

  test('lag counts what a group has not acknowledged', async () => {
    const { broker, topic } = await world.withTopic()
    const { got, subscription } = await world.collect(broker, topic, 'slow')
    await publish(broker, [message(topic, 'one', 'k')])
    await until('one is handled', () => got.length >= 1 || undefined, TIMEOUT_MS)
    await subscription.close()
    await until(
      'nothing is left',
      async () => (await broker.lag(topic, 'slow')) === 0 || undefined,
      TIMEOUT_MS,
    )
    await publish(
      broker,
      ['two', 'three'].map((id) => message(topic, id, 'k')),
    )
    await until(
      'two are counted',
      async () => (await broker.lag(topic, 'slow')) === 2 || undefined,
      TIMEOUT_MS,
    )
  })
}
