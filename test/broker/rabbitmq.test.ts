import { type Channel, connect } from 'amqplib'
import { afterEach, describe, expect, test } from 'vitest'
import type { BrokerMessage } from '../../src/broker/broker.ts'
import { RabbitConnection } from '../../src/broker/rabbitmq/connection.ts'
import { askQueue } from '../../src/broker/rabbitmq/topology.ts'
import { type RabbitmqOptions, rabbitmq } from '../../src/broker/rabbitmq.ts'
import { until } from '../harness/until.ts'
import { service } from '../services/require.ts'
import { brokerContract } from './contract.ts'
import { message, publish, published, rejected, TIMEOUT_MS } from './contract-world.ts'

const BYTES_MAX = 1_048_576
const server = await service('rabbitmq', { settings: [`max_message_size = ${BYTES_MAX}`] })

const wrong = (url: string) => url.replace('rabbit-secret', 'rabbit-wrong')

brokerContract(async () => ({
  open: (policy) =>
    rabbitmq({
      url: server.url,
      managementUrl: server.managementUrl,
      messageBytesMax: BYTES_MAX,
      ...policy,
    }),
  createTopic: (topic) => server.declareQueue(topic),
  service: server,
  notReplicated: /1 member, of 3 at least \(x-quorum-initial-group-size\)/,
  tooLargeBytes: BYTES_MAX + 1,
  openUnauthorized: () => rabbitmq({ url: wrong(server.url) }),
}))

const closing: { close(): Promise<void> }[] = []
afterEach(async () => {
  for (const each of closing.splice(0).reverse()) await each.close()
})

function open(options: Partial<RabbitmqOptions> = {}) {
  const broker = rabbitmq({ url: server.url, ...options })
  closing.push(broker)
  return broker
}

/** A channel past the proxy, for what the adapter doesn't do. */
async function channel(): Promise<Channel> {
  const model = await connect(server.directUrl)
  closing.push(model)
  return await model.createChannel()
}

const soon = () => AbortSignal.timeout(TIMEOUT_MS)
let names = 0
const newName = (base: string) => `${base}-${++names}-${Math.random().toString(36).slice(2, 8)}`

describe('what a queue is', () => {
  test.each([
    ['by AMQP alone', false],
    ['by the management API', true],
  ])('each setting that falls short is named: %s', async (_, isManaged) => {
    const broker = open(isManaged ? { managementUrl: server.managementUrl } : {})
    const admin = await channel()
    const shortfalls = async (options: Parameters<Channel['assertQueue']>[1]) => {
      const queue = newName('setting')
      await admin.assertQueue(queue, options)
      return (await broker.register(queue, soon())).shortfalls
    }
    const classic = expect.stringContaining('x-queue-type is classic')
    const members = expect.stringContaining('x-quorum-initial-group-size')
    const autoDelete = expect.stringContaining('auto_delete is true')
    expect(await shortfalls({ durable: true })).toEqual([classic])
    expect(await shortfalls({ durable: true, autoDelete: true })).toEqual([autoDelete, classic])
    expect(await shortfalls({ durable: false })).toEqual([
      expect.stringContaining('durable is false'),
      classic,
    ])
    const limits = { 'x-max-length': 5, 'x-dead-letter-exchange': 'dead', 'x-overflow': 'reject-publish' }
    expect(await shortfalls({ durable: true, arguments: limits })).toEqual([classic])
    const quorum = { ...limits, 'x-queue-type': 'quorum', 'x-delivery-limit': 7 }
    expect(await shortfalls({ durable: true, arguments: quorum })).toEqual([members])
  })

  test('asking what a queue is makes none and changes none', async () => {
    const admin = await channel()
    const queue = newName('asked')
    await admin.assertQueue(queue, { durable: true, messageTtl: 60_000 })
    await open().register(queue, soon())
    await admin.assertQueue(queue, { durable: true, messageTtl: 60_000 })
    await admin.deleteQueue(queue)
    await expect(open().register(queue, soon())).rejects.toMatchObject({ code: 'unknownDestination' })
    // As when it is deleted after it was seen, and before it is asked.
    const asking = new RabbitConnection({
      urls: [new URL(server.url)],
      tls: {},
      heartbeatSeconds: 10,
      connectTimeoutMs: 5_000,
    })
    closing.push(asking)
    expect(await askQueue(await asking.get(soon()), queue, soon())).toMatchObject({ type: undefined })
    expect(await server.control('list_queues', 'name')).not.toContain(queue)
  })

  test('a queue that is created is durable and of the type and delivery limit that were asked for', async () => {
    const queue = newName('created')
    const options = { missingTopics: 'create', deliveryLimit: 9, singleActiveConsumer: true } as const
    await open(options).register(queue, soon())
    const listed = await server.control(
      'list_queues',
      'name',
      'type',
      'durable',
      'arguments',
      '--formatter=json',
    )
    const row = (JSON.parse(listed) as { name: string }[]).find(({ name }) => name === queue)
    expect(row).toMatchObject({ type: 'quorum', durable: true })
    expect(JSON.stringify(row)).toMatch(/x-delivery-limit.*9.*x-single-active-consumer.*true/)
  })
})

test.each([
  [
    'TLS, where none is spoken',
    () => ({ url: server.url.replace('amqp:', 'amqps:') }),
    /wrong version number/,
  ],
  ['a virtual host that is not there', () => ({ url: `${server.url}/absent` }), /virtual host is not there/],
  [
    'a wrong password of the management API',
    () => ({ managementUrl: wrong(server.managementUrl) }),
    /answers 401/,
  ],
])('%s is refused, and says so', async (_, options, says) => {
  const queue = newName('refused')
  await (await channel()).assertQueue(queue, { durable: true })
  const error = await rejected(open(options()).register(queue, soon()))
  expect(error).toMatchObject({ code: 'brokerRefused', message: expect.stringMatching(says) })
  expect(error.message).not.toContain('rabbit-')
})

describe('what does not arrive', () => {
  test('a queue that was deleted since: failed with the reason, and published once it is back', async () => {
    const queue = newName('deleted')
    const admin = await channel()
    await admin.assertQueue(queue, { durable: true })
    const broker = open()
    expect(await publish(broker, [message(queue, 'before', 'k')])).toEqual(['published'])
    await admin.deleteQueue(queue)
    const outcomes = await broker.publish(
      ['one', 'two'].map((id) => message(queue, id, 'k')),
      soon(),
    )
    const failed = { outcome: 'failed', error: `queue "${queue}": NO_ROUTE` }
    expect(outcomes).toEqual([failed, failed])
    await admin.assertQueue(queue, { durable: true })
    expect(await publish(broker, [message(queue, 'one', 'k')])).toEqual(['published'])
  })

  test('an exchange that was deleted closes the channel of its topic, and disturbs no other', async () => {
    const admin = await channel()
    const [exchange, queue, other] = [newName('exchange'), newName('bound'), newName('other')]
    const bind = async () => {
      await admin.assertExchange(exchange, 'topic', { durable: true })
      await admin.assertQueue(queue, { durable: true })
      await admin.bindQueue(queue, exchange, 'orders.#')
    }
    await bind()
    await admin.assertQueue(other, { durable: true })
    const broker = open()
    const topic = `${exchange}/orders.placed`
    expect((await broker.register(topic, soon())).shortfalls.join()).toMatch(/exchange .* is not checked/)
    expect(await publish(broker, [message(topic, 'first', 'k')])).toEqual(['published'])
    expect(await broker.publish([message(`${exchange}/refunds`, 'lost', 'k')], soon())).toEqual([
      { outcome: 'failed', error: `exchange "${exchange}", routing key "refunds": NO_ROUTE` },
    ])
    await admin.deleteExchange(exchange)
    const many = Array.from({ length: 500 }, (_, at) => message(other, `o${at}`, 'k'))
    const [gone, rest] = await Promise.all([
      broker.publish([message(topic, 'second', 'k')], soon()),
      publish(broker, many),
    ])
    expect(gone).toEqual([{ outcome: 'failed', error: expect.stringMatching(/404.*no exchange/) }])
    expect(new Set(rest)).toEqual(new Set(['published']))
    await expect(broker.register(topic, soon())).rejects.toMatchObject({ code: 'unknownDestination' })
    await bind()
    expect(await publish(broker, [message(topic, 'third', 'k')])).toEqual(['published'])
  })

  test('a message above a limit that only the server knew is refused, and the limit is kept', async () => {
    const queue = newName('large')
    await (await channel()).assertQueue(queue, { durable: true })
    const broker = open()
    expect((await broker.register(queue, soon())).messageBytesMax).toBe(134_217_728)
    const large = { ...message(queue, 'large', 'k'), body: new Uint8Array(BYTES_MAX + 1) }
    const [first, second] = await publish(broker, [large, message(queue, 'small', 'k')])
    expect([first, second]).toEqual(['refused', 'failed'])
    expect(await publish(broker, [large, message(queue, 'small', 'k')])).toEqual(['refused', 'published'])
    expect((await broker.register(queue, soon())).messageBytesMax).toBe(BYTES_MAX)
  })

  test('headers that can not be encoded are refused, and their neighbours are published', async () => {
    const queue = newName('headers')
    await (await channel()).assertQueue(queue, { durable: true })
    const heavy: BrokerMessage = { ...message(queue, 'heavy', 'k'), headers: { x: 'x'.repeat(70_000) } }
    const heaviest: BrokerMessage = { ...heavy, id: 'heaviest', headers: { x: 'x'.repeat(64_472) } }
    const broker = open()
    expect(broker.faultOf?.(heaviest)).toBeUndefined()
    expect(broker.faultOf?.({ ...heaviest, headers: { x: 'x'.repeat(64_473) } })).toMatch(/65537 bytes/)
    expect(broker.faultOf?.(heavy)).toMatch(/over the 65536 that fit/)
    const batch = [message(queue, 'before', 'k'), heavy, heaviest, message(queue, 'after', 'k')]
    expect(await publish(broker, batch)).toEqual(['published', 'refused', 'published', 'published'])
  })

  test('a queue that is full says no: failed, not lost', async () => {
    const queue = newName('full')
    const full = { 'x-max-length': 1, 'x-overflow': 'reject-publish' }
    await (await channel()).assertQueue(queue, { durable: true, arguments: full })
    const broker = open()
    expect(await publish(broker, [message(queue, 'one', 'k')])).toEqual(['published'])
    await until(
      'it is full',
      async () => {
        const [outcome] = await broker.publish([message(queue, 'two', 'k')], soon())
        return outcome?.outcome === 'failed' && outcome.error.includes('it is full')
      },
      TIMEOUT_MS,
    )
  })
})

test('short of memory the server blocks: nothing more is written, and it goes on by itself', async () => {
  const [queue, other] = [newName('blocked'), newName('other')]
  const admin = await channel()
  for (const name of [queue, other]) await admin.assertQueue(name, { durable: true })
  const broker = open()
  await published(broker, message(queue, 'before', 'k'))
  await server.control('set_vm_memory_high_watermark', 'absolute', '1MB')
  try {
    await until(
      'it is blocked',
      async () => {
        const [outcome] = await broker.publish([message(queue, 'blocked', 'k')], AbortSignal.timeout(500))
        return outcome?.outcome === 'unreachable'
      },
      TIMEOUT_MS,
    )
    const fresh = open()
    // A connection learns that it is blocked from its first message.
    await fresh.publish([message(queue, 'first', 'k')], AbortSignal.timeout(500))
    const outcomes = await fresh.publish([message(other, 'second', 'k')], AbortSignal.timeout(500))
    const error = expect.stringContaining('takes no messages now: low on memory')
    expect(outcomes).toEqual([{ outcome: 'unreachable', error }])
    // What only reads is not held up.
    expect(await fresh.lag(queue, '')).toBeGreaterThan(0)
    const waiting = broker.publish([message(queue, 'waited', 'k')], soon())
    await server.control('set_vm_memory_high_watermark', '0.4')
    expect(await waiting).toEqual([{ outcome: 'published' }])
  } finally {
    await server.control('set_vm_memory_high_watermark', '0.4')
  }
})

describe('reading', () => {
  test('a queue that is deleted and made again is read again', async () => {
    const queue = newName('again')
    const admin = await channel()
    await admin.assertQueue(queue, { durable: true })
    const broker = open()
    const got: string[] = []
    await broker.subscribe({ topic: queue, group: '' }, async ({ id }) => {
      got.push(id)
    })
    await admin.deleteQueue(queue)
    await admin.assertQueue(queue, { durable: true })
    await published(broker, message(queue, 'after', 'k'))
    await until('it is read', () => got.includes('after'), TIMEOUT_MS)
  })

  test('each group of an exchange has a queue of its own, and a queue that is missing is told at once', async () => {
    const exchange = newName('exchange')
    await (await channel()).assertExchange(exchange, 'topic', { durable: true })
    const topic = `${exchange}/orders.placed`
    const strict = open()
    await expect(strict.subscribe({ topic, group: newName('absent') }, async () => {})).rejects.toMatchObject(
      {
        code: 'unknownDestination',
      },
    )
    const broker = open({ missingTopics: 'create' })
    const groups = [newName('audit'), newName('stock')]
    const got: string[] = []
    for (const group of groups)
      await broker.subscribe({ topic, group }, async ({ id, topic: from }) => {
        got.push(`${group} ${id} ${from}`)
      })
    await published(broker, message(topic, 'placed', 'k'))
    await until('both have it', () => got.length >= 2, TIMEOUT_MS)
    expect(got.sort()).toEqual(groups.map((group) => `${group} placed ${topic}`).sort())
    await until('none is left', async () => (await broker.lag(topic, groups[0]!)) === 0, TIMEOUT_MS)
  })

  test('a message that is not ours has its own id, and its headers as text', async () => {
    const queue = newName('foreign')
    const admin = await channel()
    await admin.assertQueue(queue, { durable: true })
    admin.sendToQueue(queue, Buffer.from('hello'), { messageId: 'theirs', headers: { count: 3 } })
    const got: BrokerMessage[] = []
    await open().subscribe({ topic: queue, group: '', concurrencyMax: 1 }, async (one) => {
      got.push(one)
    })
    await until('it is read', () => got.length > 0, TIMEOUT_MS)
    expect(got[0]).toMatchObject({ id: 'theirs', key: '', headers: { count: '3' }, contentType: '' })
  })
})

test('close leaves nothing that keeps the process alive', async () => {
  const held = () =>
    process.getActiveResourcesInfo().filter((name) => /TCPSocketWrap|Timeout/.test(name)).length
  const queue = newName('held')
  await (await channel()).assertQueue(queue, { durable: true })
  const before = held()
  // Past the proxy, whose own sockets would wait for the server that is paused.
  const broker = rabbitmq({ url: server.directUrl })
  await broker.subscribe({ topic: queue, group: '' }, async () => {})
  await published(broker, message(queue, 'one', 'k'))
  await server.pause()
  await broker.publish([message(queue, 'two', 'k')], AbortSignal.timeout(200))
  try {
    await broker.close()
    await until('nothing is held', () => held() <= before, 10_000)
  } finally {
    await server.resume()
  }
})
