/** Readers of a group of a NATS stream, and those that died. */
import { setTimeout as sleep } from 'node:timers/promises'
import { jetstream } from '@nats-io/jetstream'
import { connect as connectNats } from '@nats-io/transport-node'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Broker, BrokerMessage } from '../../src/broker/broker.ts'
import { type NatsOptions, nats } from '../../src/broker/nats.ts'
import { until } from '../harness/until.ts'
import { service } from '../services/require.ts'
import { message, publish } from './contract-world.ts'
import { natsStreams } from './nats-streams.ts'
import { staysInOrder } from './order-through-trouble.ts'

const server = await service('nats')
const ACK_WAIT_MS = 1_000

const open: Broker[] = []
let topic = ''
let topics = 0
beforeEach(async () => {
  topic = `read-${++topics}`
  await natsStreams(server, (streams) => streams.add({ name: topic, subjects: [topic] }))
})
afterEach(async () => {
  server.proxy.heal()
  await Promise.all(open.splice(0).map((broker) => broker.close()))
})

function connect(options: NatsOptions = {}): Broker {
  const { host, port, user, password } = server
  const broker = nats({ servers: `${host}:${port}`, user, password, ackWaitMs: ACK_WAIT_MS, ...options })
  open.push(broker)
  return broker
}

/** As a reader that dies before it has handled anything. */
async function takeAndDie(count: number): Promise<void> {
  const { directPort, user, password: pass } = server
  const client = await connectNats({ servers: `127.0.0.1:${directPort}`, user, pass, reconnect: false })
  const consumer = await jetstream(client).consumers.get(topic, `g=${topic}`)
  let taken = 0
  for await (const _ of await consumer.fetch({ max_messages: count, expires: 5_000 })) taken += 1
  expect(taken).toBe(count)
  await client.close()
}

/** Makes the group. */
async function begin(broker: Broker): Promise<void> {
  const subscription = await broker.subscribe({ topic, group: 'g' }, async () => {})
  await subscription.close()
}

test('in order for each key, whatever happens to the server', async () => {
  await staysInOrder(connect(), topic, server)
})

test('what a dead reader held comes before what is behind it', async () => {
  const broker = connect()
  await begin(broker)
  await publish(
    broker,
    ['a', 'b'].map((id) => message(topic, id, 'k')),
  )
  await takeAndDie(2)
  await publish(broker, [message(topic, 'c', 'k')])
  const got: string[] = []
  await broker.subscribe({ topic, group: 'g' }, async ({ id }) => {
    got.push(id)
  })
  await until('all come', () => got.length >= 3)
  expect(got).toEqual(['a', 'b', 'c'])
  await until('all is acknowledged', async () => (await broker.lag(topic, 'g')) === 0)
})

test('what a dead reader held comes before what is behind it, however fast that comes', async () => {
  const [broker, other] = [connect({ ackWaitMs: 3_000 }), connect()]
  await begin(broker)
  await publish(other, [message(topic, '0', 'k')])
  await takeAndDie(1)
  const got: number[] = []
  await broker.subscribe({ topic, group: 'g' }, async ({ id }) => {
    got.push(Number(id))
  })
  let published = 1
  while (got.length === 0) await publish(other, [message(topic, String(published++), 'k')])
  await until('all come', () => got.length >= published)
  expect(got).toEqual(got.map((_, at) => at))
})

test('a message that takes long is not given to another reader', async () => {
  const [one, two] = [connect(), connect()]
  const got: string[] = []
  let finish = (): void => {}
  await one.subscribe({ topic, group: 'g' }, async ({ id }) => {
    got.push(id)
    await new Promise<void>((resolve) => {
      finish = resolve
    })
  })
  await publish(one, [message(topic, 'long', 'k')])
  await until('it is begun', () => got.length > 0)
  await two.subscribe({ topic, group: 'g' }, async ({ id }) => {
    got.push(`second ${id}`)
  })
  await sleep(ACK_WAIT_MS * 4)
  expect(got).toEqual(['long'])
  finish()
  await until('it is acknowledged', async () => (await one.lag(topic, 'g')) === 0)
})

test('from the latest on, a new group sees nothing older', async () => {
  const broker = connect()
  await publish(broker, [message(topic, 'old', 'k')])
  const got: string[] = []
  await broker.subscribe({ topic, group: 'late', from: 'latest' }, async ({ id }) => {
    got.push(id)
  })
  await publish(broker, [message(topic, 'new', 'k')])
  await until('the new one comes', () => got.includes('new'))
  expect(got).toEqual(['new'])
})

test('lag of a group that never read is all there is of its subject', async () => {
  const broker = connect()
  await publish(
    broker,
    ['a', 'b'].map((id) => message(topic, id, 'k')),
  )
  expect(await broker.lag(topic, 'nobody')).toBe(2)
})

test('a message that did not come from Escrow is handed over, with its place in the stream as its id', async () => {
  const { directPort, user, password: pass } = server
  const client = await connectNats({ servers: `127.0.0.1:${directPort}`, user, pass, reconnect: false })
  await jetstream(client).publish(topic, 'text')
  await client.close()
  const got: BrokerMessage[] = []
  await connect().subscribe({ topic, group: 'g' }, async (one) => {
    got.push(one)
  })
  await until('it comes', () => got.length > 0)
  expect({ ...got[0], body: String(Buffer.from(got[0]?.body ?? [])) }).toEqual({
    topic,
    id: `${topic}:1`,
    key: '',
    body: 'text',
    headers: {},
    contentType: '',
  })
})

test('a stream that is made anew is read from its beginning', async () => {
  const broker = connect()
  const got: string[] = []
  await broker.subscribe({ topic, group: 'g' }, async ({ id }) => {
    got.push(id)
  })
  await publish(broker, [message(topic, 'before', 'k')])
  await until('the first comes', () => got.includes('before'))
  await natsStreams(server, (streams) => streams.delete(topic))
  await natsStreams(server, (streams) => streams.add({ name: topic, subjects: [topic] }))
  await publish(broker, [message(topic, 'after', 'k')])
  await until('the other comes', () => got.includes('after'))
})
