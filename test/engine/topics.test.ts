import { expect, test } from 'vitest'
import type { MessageText, Topic } from '../../src/broker/broker.ts'
import { EscrowError } from '../../src/core/errors.ts'
import { messageTo, openWorld, prepareOf } from './world.ts'

const FINE: Topic = { messageBytesMax: 10_000, isOrdered: true, shortfalls: [] }
const away = new EscrowError('brokerUnavailable', 'connection refused')
const missing = new EscrowError('unknownDestination', 'topic orders is not there')

/** A broker whose answer a test decides, and which tells what it was asked. */
class FakeBroker {
  readonly asked: string[] = []
  answer: Topic | EscrowError | 'silence' = FINE

  /** Carries no white space at the ends of what goes as a header. */
  faultOf({ key, headers }: MessageText): string | undefined {
    const odd = Object.entries({ ...headers, key }).find(([, value]) => value !== value.trim())
    return odd && `${odd[0]} ends with white space`
  }

  async register(topic: string): Promise<Topic> {
    this.asked.push(topic)
    if (this.answer === 'silence') return await new Promise(() => {})
    if (this.answer instanceof EscrowError) throw this.answer
    return this.answer
  }
}

async function open(broker = new FakeBroker()) {
  const world = await openWorld()
  const overrides = { brokers: new Map([['bus', broker]]) }
  await world.restart(0, overrides)
  return { world, broker, overrides }
}

const to = (destination: string, more: Partial<Parameters<typeof prepareOf>[0]> = {}) =>
  prepareOf({ messages: [messageTo(destination, 'x')], ...more })

test('a topic is looked at before the first message for it is taken, once for all who come at once', async () => {
  const { world, broker } = await open()
  const answers = Array.from({ length: 10 }, () => world.ask('prepare', to('bus:orders')))
  await world.clock.until(() => answers.every(({ count }) => count > 0))
  expect(answers.map(({ response }) => response?.status)).toEqual(Array(10).fill('prepared'))
  await world.call('prepare', to('bus:orders'))
  expect(broker.asked).toEqual(['orders'])
})

test('several new topics of one transaction are all looked at', async () => {
  const { world, broker } = await open()
  const messages = ['bus:a', 'bus:b', 'bus:a', 'bus:c'].map((each) => messageTo(each, 'x'))
  await world.call('prepare', prepareOf({ messages }))
  expect(broker.asked).toEqual(['a', 'b', 'c'])
})

test('a topic that was registered once is known for ever, also while its broker is away', async () => {
  const { world, broker, overrides } = await open()
  await world.call('prepare', to('bus:orders'))
  broker.answer = away
  await world.restart(0, overrides)
  expect((await world.call('prepare', to('bus:orders'))).status).toBe('prepared')
  expect(await world.codeOf('prepare', to('bus:new'))).toBe('brokerUnavailable')
})

test('what a broker refuses is refused at the door, and asked again a second later', async () => {
  const { world, broker } = await open()
  broker.answer = missing
  for (let times = 0; times < 5; times++) {
    expect(await world.codeOf('prepare', to('bus:orders'))).toBe('unknownDestination')
  }
  expect(broker.asked.length).toBe(1)
  broker.answer = FINE
  await world.clock.advance(1_000)
  expect(await world.codeOf('prepare', to('bus:orders'))).toBe('none')
})

test('a broker that does not answer is waited for, with a bound', async () => {
  const { world, broker } = await open()
  broker.answer = 'silence'
  const answer = world.ask('prepare', to('bus:orders'))
  await world.clock.advance(9_900)
  expect(answer.count).toBe(0)
  await world.clock.advance(200)
  expect(answer.error).toMatchObject({ code: 'brokerUnavailable', retryable: true })
})

test('a message over the limit of its topic is refused at prepare, with the limit', async () => {
  const { world, broker } = await open()
  broker.answer = { ...FINE, messageBytesMax: 1_000 }
  const of = (size: number) => to('bus:orders', { messages: [messageTo('bus:orders', 'x'.repeat(size))] })
  expect(await world.codeOf('prepare', of(400))).toBe('none')
  const answer = world.ask('prepare', of(600))
  await world.clock.until(() => answer.count > 0)
  expect(answer.error).toMatchObject({ code: 'tooLarge', details: { max: '1000', limit: 'bus:orders' } })
  // Headers count.
  const headers = { large: 'x'.repeat(200) }
  const withHeaders = [messageTo('bus:orders', 'x'.repeat(400), { headers })]
  expect(await world.codeOf('prepare', prepareOf({ messages: withHeaders }))).toBe('tooLarge')
})

const LATER = { body: undefined, bodyAtCommit: true }
const bodiesOf = (size: number) => ({ bodies: [{ index: 0, body: Buffer.alloc(size) }] })

test('a body over the limit of its topic is refused at commit, with the limit; a smaller one is taken', async () => {
  const { world, broker } = await open()
  broker.answer = { ...FINE, messageBytesMax: 1_000 }
  const messages = [messageTo('bus:orders', '', { ...LATER, headers: { large: 'x'.repeat(100) } })]
  const { id } = await world.call('prepare', prepareOf({ messages }))
  const answer = world.ask('commit', { id, ...bodiesOf(400) })
  await world.clock.until(() => answer.count > 0)
  expect(answer.error).toMatchObject({
    code: 'tooLarge',
    message: 'a message of 1017 bytes, its headers among them, is over the limit of 1000 of bus:orders',
    details: { max: '1000', actual: '1017', limit: 'bus:orders' },
  })
  expect(await world.status(id)).toBe('prepared')
  expect(await world.codeOf('commit', { id, ...bodiesOf(300) })).toBe('none')
  // Of what was taken the size is no question any more.
  broker.answer = { ...FINE, messageBytesMax: 600 }
  await world.restart(0, { brokers: new Map([['bus', broker]]) })
  await world.clock.advance(100)
  expect(await world.codeOf('commit', { id, ...bodiesOf(300) })).toBe('none')
})

test('a body over the limit of its topic that a checker gives is taken: its delivery parks, and no other', async () => {
  const { world, broker } = await open()
  broker.answer = { ...FINE, messageBytesMax: 1_000 }
  world.participants.comes('bus:orders')
  world.participants.deliver = (_, destination) =>
    destination === 'bus:orders'
      ? { outcome: 'refused', error: 'over max.message.bytes' }
      : { outcome: 'delivered', error: '' }
  world.participants.check = () => ({ resolution: 'commit', ...bodiesOf(600), error: '' })
  const messages = [messageTo('bus:orders', '', LATER), messageTo('shop/receive', 'x')]
  const { id } = await world.call('prepare', prepareOf({ messages }))
  expect(await world.codeOf('commit', { id, ...bodiesOf(600) })).toBe('tooLarge')
  await world.call('requestCheckBack', { id })
  await world.clock.advance(1_000)
  expect(await world.call('get', { id })).toMatchObject({
    status: 'parked',
    settledBy: 'checkBack',
    deliveries: [{ status: 'parked', error: 'refused: over max.message.bytes' }, { status: 'delivered' }],
  })
})

test('what a broker can not carry is refused at prepare, with what and where, also while it is away', async () => {
  const { world, broker } = await open()
  await world.call('prepare', to('bus:orders'))
  broker.answer = away
  const fails = async (more: Parameters<typeof messageTo>[2], fault: string): Promise<void> => {
    const messages = [messageTo('shop/receive', 'x', more), messageTo('bus:orders', 'x', more)]
    const answer = world.ask('prepare', prepareOf({ messages }))
    await world.clock.until(() => answer.count > 0)
    expect(answer.error).toMatchObject({
      code: 'invalidArgument',
      message: `destination bus:orders can't carry it: ${fault}; change it, or leave it out`,
      details: { destination: 'bus:orders' },
    })
  }
  await fails({ headers: { note: 'one ' } }, 'note ends with white space')
  await fails({ key: 'k ' }, 'key ends with white space')
  await fails(
    { headers: { note: 'one ' }, bodyAtCommit: true, body: undefined },
    'note ends with white space',
  )
  expect(await world.codeOf('prepare', to('shop/receive'))).toBe('none')
})

test('a trace goes with a message: its size counts, and one that no header carries is left out', async () => {
  const { world, broker } = await open()
  broker.answer = { ...FINE, messageBytesMax: 1_000 }
  const traceparent = `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01`
  const trace = (baggage: string) => ({ trace: { traceparent, tracestate: '', baggage } })
  expect(await world.codeOf('prepare', to('bus:orders', trace('k=v ')))).toBe('none')
  expect(await world.codeOf('prepare', to('bus:orders', trace('k='.padEnd(500, 'v'))))).toBe('tooLarge')
})

test('an ordering key is refused for a topic that keeps no order', async () => {
  const { world, broker } = await open()
  broker.answer = { ...FINE, isOrdered: false }
  expect(await world.codeOf('prepare', to('bus:orders', { orderingKey: 'customer-1' }))).toBe(
    'invalidArgument',
  )
  expect(await world.codeOf('prepare', to('bus:orders'))).toBe('none')
})

test('what a topic falls short of is told when it is registered', async () => {
  const { world, broker } = await open()
  broker.answer = { ...FINE, shortfalls: ['min.insync.replicas is 1'] }
  await world.call('prepare', to('bus:orders'))
  expect(world.logged).toContain('warn: bus:orders may lose what it has confirmed: min.insync.replicas is 1')
})

test('at the next start a topic that has gone is told, and refused until it is there again', async () => {
  const { world, broker, overrides } = await open()
  await world.call('prepare', to('bus:orders'))
  broker.answer = missing
  await world.restart(0, overrides)
  await world.clock.advance(1_000)
  expect(world.logged.join()).toContain('bus:orders: topic orders is not there; nothing more is taken for it')
  expect(await world.codeOf('prepare', to('bus:orders'))).toBe('unknownDestination')
  broker.answer = FINE
  await world.clock.advance(1_000)
  expect(await world.codeOf('prepare', to('bus:orders'))).toBe('none')
})

test('a limit that has changed counts from the next start on', async () => {
  const { world, broker, overrides } = await open()
  await world.call('prepare', to('bus:orders'))
  broker.answer = { ...FINE, messageBytesMax: 500 }
  await world.restart(0, overrides)
  await world.clock.advance(100)
  expect(await world.codeOf('prepare', to('bus:orders'))).toBe('tooLarge')
})

test('a request that waited for a topic is looked up, though it came as new: it may have been sent again meanwhile', async () => {
  const { world } = await open()
  await world.call('prepare', to('bus:orders', { id: 'order-1' }))
  await world.call('rollback', { id: 'order-1' })
  // It is in a row by then, and in memory no more.
  await world.clock.advance(5_000)
  const answer = world.ask('prepare', to('bus:new', { id: 'order-1' }), { fresh: true })
  await world.clock.until(() => answer.count > 0)
  expect(answer.error).toMatchObject({ code: 'idReused' })
})
