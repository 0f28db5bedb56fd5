/** What a broker's adapter promises while its server is killed, paused or cut off. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import type { Broker, PublishOutcome } from '../../src/broker/broker.ts'
import type { ErrorCode } from '../../src/core/errors.ts'
import { until } from '../harness/until.ts'
import type { BrokerService } from '../services/broker-service.ts'
import { type ContractWorld, message, publish, published, rejected, TIMEOUT_MS } from './contract-world.ts'

/** Declares those tests. */
export function inTrouble(world: ContractWorld): void {
  inTheMiddle(world)
  goneAndBack(world)
  readersAndEnds(world)
}

function inTheMiddle(world: ContractWorld): void {
  test('killed and started again in the middle: nothing confirmed is lost', async (context) => {
    await survives(
      world,
      async (service) => {
        await service.kill()
        await sleep(500)
        await service.start()
      },
      context,
    )
  })

  test('connections that are reset again and again: nothing confirmed is lost', async (context) => {
    await survives(
      world,
      async ({ proxy }) => {
        for (let times = 0; times < 10; times++) {
          await sleep(60)
          proxy.reset()
        }
      },
      context,
    )
  })

  test('a confirmation that is cut off is no confirmation', async (context) => {
    await survives(
      world,
      async ({ proxy }) => {
        for (let times = 0; times < 3; times++) {
          await Promise.race([proxy.cutAfter(200 + times * 333, 'down'), sleep(2_000)])
          proxy.heal()
        }
      },
      context,
    )
  })
}

function goneAndBack(world: ContractWorld): void {
  test('paused: what is unconfirmed at its time-out has failed, and what comes after works', async (context) => {
    const { service } = world.row
    if (service === undefined) return context.skip('this broker has no server')
    const { broker, topic } = await world.withTopic()
    await publish(broker, [message(topic, 'before', 'k')])
    await service.pause()
    try {
      const from = performance.now()
      const [outcome] = await broker.publish([message(topic, 'during', 'k')], AbortSignal.timeout(1_500))
      expect(['failed', 'unreachable']).toContain(outcome?.outcome)
      expect(performance.now() - from).toBeLessThan(6_000)
    } finally {
      await service.resume()
    }
    await published(broker, message(topic, 'after', 'k'))
  })

  test('gone: nothing is sent, which is no attempt; back: it is published without a restart', async (context) => {
    const { service } = world.row
    if (service === undefined) return context.skip('this broker has no server')
    const { broker, topic } = await world.withTopic()
    await publish(broker, [message(topic, 'before', 'k')])
    await service.kill()
    const late = await world.connect()
    try {
      // The first may have been on its way when the connection broke; then it is known that there is none.
      await broker.publish([message(topic, 'at once', 'k')], AbortSignal.timeout(5_000))
      const outcomes = await broker.publish([message(topic, 'gone', 'k')], AbortSignal.timeout(5_000))
      expect(outcomes).toMatchObject([{ outcome: 'unreachable' }])
      const error = await rejected(late.register(topic, AbortSignal.timeout(5_000)))
      expect(error).toMatchObject({ code: 'brokerUnavailable' satisfies ErrorCode, retryable: true })
    } finally {
      await service.start()
    }
    await published(broker, message(topic, 'back', 'k'))
    await published(late, message(topic, 'back too', 'k'))
  })
}

function readersAndEnds(world: ContractWorld): void {
  test('a reader goes on where it was after the connection broke', async (context) => {
    const { service } = world.row
    if (service === undefined) return context.skip('this broker has no server')
    const { broker, topic } = await world.withTopic()
    const { got } = await world.collect(broker, topic, 'steadfast')
    await publish(broker, [message(topic, 'one', 'k')])
    await until('the first comes', () => got.length >= 1 || undefined, TIMEOUT_MS)
    service.proxy.reset()
    await published(broker, message(topic, 'two', 'k'))
    await until('the second comes', () => got.some(({ id }) => id === 'two') || undefined, TIMEOUT_MS)
    await service.kill()
    await service.start()
    await published(broker, message(topic, 'three', 'k'))
    await until('the third comes', () => got.some(({ id }) => id === 'three') || undefined, TIMEOUT_MS)
  })

  test('closed while it publishes: every message has an outcome', async () => {
    const { broker, topic } = await world.withTopic()
    const messages = Array.from({ length: 500 }, (_, at) => message(topic, `c${at}`, 'k'))
    const publishing = broker.publish(messages, AbortSignal.timeout(10_000))
    await broker.close()
    expect((await publishing).length).toBe(messages.length)
    const [outcome] = await broker.publish([message(topic, 'late', 'k')], AbortSignal.timeout(2_000))
    expect(outcome?.outcome).not.toBe('published')
    await broker.close()
  })
}

/** Publishes batches until `isOver`, each again until it is published; answers all ids and how often each outcome came. */
async function publishThrough({ row }: ContractWorld, broker: Broker, topic: string, isOver: () => boolean) {
  const ids: string[] = []
  const counts: Record<PublishOutcome['outcome'], number> = {
    published: 0,
    failed: 0,
    unreachable: 0,
    refused: 0,
  }
  for (let batch = 0; !isOver(); batch++) {
    const messages = Array.from({ length: row.batch ?? 200 }, (_, at) =>
      message(topic, `${batch}-${at}`, `k${at % 5}`),
    )
    ids.push(...messages.map(({ id }) => id))
    let left = messages
    while (left.length > 0) {
      const outcomes = await broker.publish(left, AbortSignal.timeout(10_000))
      expect(outcomes.length).toBe(left.length)
      for (const { outcome } of outcomes) counts[outcome] += 1
      left = left.filter((_, at) => outcomes[at]?.outcome !== 'published')
      if (left.length > 0) await sleep(50)
    }
  }
  return { ids, counts }
}

async function allArrive(
  world: ContractWorld,
  broker: Broker,
  topic: string,
  ids: readonly string[],
): Promise<void> {
  const { got } = await world.collect(broker, topic, 'after-the-trouble')
  const missing = () => {
    const seen = new Set(got.map(({ id }) => id))
    return ids.filter((id) => !seen.has(id))
  }
  await until('all arrive', () => missing().length === 0 || undefined, TIMEOUT_MS).catch((error: Error) => {
    throw new Error(
      `${error.message}; missing ${missing().length} of ${ids.length}: ${missing().slice(0, 20)}`,
    )
  })
  console.log(
    `${topic}: ${ids.length} published, ${got.length - new Set(got.map(({ id }) => id)).size} duplicates`,
  )
}

/** Troubles the server while batches are published, and sees that all of them arrive. */
async function survives(
  world: ContractWorld,
  trouble: (service: BrokerService) => Promise<void>,
  context: { skip(why: string): void },
) {
  const { service } = world.row
  if (service === undefined) return context.skip('this broker has no server')
  const { broker, topic } = await world.withTopic()
  let isOver = false
  const publishing = publishThrough(world, broker, topic, () => isOver)
  await sleep(300)
  await trouble(service)
  await sleep(300)
  isOver = true
  const { ids, counts } = await publishing
  expect(counts.refused).toBe(0)
  console.log(`${topic}: outcomes`, counts)
  await allArrive(world, broker, topic, ids)
}
