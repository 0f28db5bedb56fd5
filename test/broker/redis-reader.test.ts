/** Readers of a group of a Redis stream, and those that died. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Broker } from '../../src/broker/broker.ts'
import { type RedisOptions, redis } from '../../src/broker/redis.ts'
import { until } from '../harness/until.ts'
import { service } from '../services/require.ts'
import { message, publish } from './contract-world.ts'
import { staysInOrder } from './order-through-trouble.ts'
import { redisCommand } from './redis-command.ts'

const server = await service('redis')
const CLAIM_IDLE_MS = 600

const open: Broker[] = []
let topic = ''
let topics = 0
beforeEach(async () => {
  topic = `read-${++topics}`
  await redisCommand(server, ['XGROUP', 'CREATE', topic, 'g', '0', 'MKSTREAM'])
})
afterEach(async () => {
  await Promise.all(open.splice(0).map((broker) => broker.close()))
})

function connect(options: RedisOptions = {}): Broker {
  const { host, port, password } = server
  const broker = redis({
    url: `redis://:${password}@${host}:${port}`,
    claimIdleMs: CLAIM_IDLE_MS,
    ...options,
  })
  open.push(broker)
  return broker
}

/** As a reader that dies before it has handled anything. */
async function takeAndDie(consumer: string, count: number): Promise<void> {
  await redisCommand(server, [
    'XREADGROUP',
    'GROUP',
    'g',
    consumer,
    'COUNT',
    String(count),
    'STREAMS',
    topic,
    '>',
  ])
}

async function consumers(): Promise<unknown[]> {
  return ((await redisCommand(server, ['XINFO', 'CONSUMERS', topic, 'g'])) as unknown[][]).map(
    (each) => each[1],
  )
}

test('in order for each key, whatever happens to the server', async () => {
  await staysInOrder(connect(), topic, server)
})

test('what a dead reader held comes to another one, and its name is removed', async () => {
  const broker = connect()
  await publish(broker, [message(topic, 'held', 'k')])
  await takeAndDie('escrow-dead', 1)
  const got: string[] = []
  await broker.subscribe({ topic, group: 'g' }, async ({ id }) => {
    got.push(id)
  })
  await until('it comes', () => got.includes('held'))
  await until('the name is gone', async () => !(await consumers()).includes('escrow-dead'))
  await until('all is acknowledged', async () => (await broker.lag(topic, 'g')) === 0)
})

test('a reader with the name of the dead one goes on at once, in order', async () => {
  const broker = connect({ consumer: 'one', claimIdleMs: 3_600_000 })
  await publish(
    broker,
    ['a', 'b'].map((id) => message(topic, id, 'k')),
  )
  await takeAndDie('one', 2)
  await publish(broker, [message(topic, 'c', 'k')])
  const got: string[] = []
  await broker.subscribe({ topic, group: 'g' }, async ({ id }) => {
    got.push(id)
  })
  await until('all come', () => got.length >= 3)
  expect(got).toEqual(['a', 'b', 'c'])
})

test('what a dead reader held comes before what is behind it', async () => {
  const broker = connect()
  await publish(
    broker,
    ['a', 'b'].map((id) => message(topic, id, 'k')),
  )
  await takeAndDie('escrow-dead', 2)
  await publish(broker, [message(topic, 'c', 'k')])
  const got: string[] = []
  await broker.subscribe({ topic, group: 'g' }, async ({ id }) => {
    got.push(id)
  })
  await until('all come', () => got.length >= 3)
  expect(got).toEqual(['a', 'b', 'c'])
})

test('a message that takes long is not taken from its reader', async () => {
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
  await sleep(CLAIM_IDLE_MS * 4)
  expect(got).toEqual(['long'])
  finish()
  await until('it is acknowledged', async () => (await one.lag(topic, 'g')) === 0)
})

test('a reader that ends leaves no name behind', async () => {
  const broker = connect()
  const subscription = await broker.subscribe({ topic, group: 'g' }, async () => {})
  await until('it reads', async () => (await consumers()).length === 1)
  await subscription.close()
  expect(await consumers()).toEqual([])
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

test('a stream that was trimmed under a reader stops nobody', async () => {
  const broker = connect({ consumer: 'one', claimIdleMs: 3_600_000 })
  await publish(
    broker,
    ['a', 'b'].map((id) => message(topic, id, 'k')),
  )
  await takeAndDie('one', 1)
  await redisCommand(server, ['XTRIM', topic, 'MAXLEN', '=', '1'])
  const got: string[] = []
  await broker.subscribe({ topic, group: 'g' }, async ({ id }) => {
    got.push(id)
  })
  await until('what is left is handled', async () => (await broker.lag(topic, 'g')) === 0)
  expect(got).toEqual(['b'])
})

test('a stubborn key keeps the others waiting for nothing', async () => {
  const broker = connect()
  const got: string[] = []
  await broker.subscribe({ topic, group: 'g', concurrencyMax: 1 }, async ({ id }) => {
    if (id === 'never') throw new Error('no')
    got.push(id)
  })
  await publish(broker, [
    message(topic, 'never', 'k'),
    message(topic, 'behind', 'k'),
    message(topic, 'other', 'l'),
  ])
  await until('the other key goes on', () => got.includes('other'))
  expect(got).toEqual(['other'])
})
