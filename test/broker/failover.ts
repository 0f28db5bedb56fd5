/**
 * What the whole promises while a broker fails: each committed message reaches it, no rolled-back one does, and those of one
 * key come in the order of their commits, whatever dies in between.
 */
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished } from 'vitest'
import { type BrokerKind, brokerAt } from '../../examples/shop/broker.ts'
import { type Broker, connect } from '../../src/index.ts'
import { CoordinatorProcess } from '../harness/coordinator-process.ts'
import { seeded } from '../harness/seed.ts'
import { until } from '../harness/until.ts'
import type { StartedBroker } from '../services/brokers.ts'

const KEYS = 50
const ROLLED_BACK = 0.2
const DONE_MS_MAX = 240_000
/** After the last message that was missing, so long nothing may come that is too much. */
const QUIET_MS = 1_500
const KILLS_MAX = 3

/** What a run is made of. */
export interface Failover {
  readonly kind: BrokerKind
  readonly broker: StartedBroker
  readonly count: number
  /** Troubles the broker, again and again, until everything is settled or it has had enough. */
  readonly trouble: (broker: StartedBroker, isOver: () => boolean) => Promise<string>
}

/** Sends transactions through the trouble, and compares what a consumer then sees with what was committed. */
export async function survives({ kind, broker, count, trouble }: Failover): Promise<void> {
  const { random } = seeded(`failover ${kind}`)
  const consumer = await brokerAt(kind, broker.url)
  onTestFinished(() => consumer.close())
  await consumer.register('failover', AbortSignal.timeout(DONE_MS_MAX))
  await broker.topicMade?.()
  const coordinator = await CoordinatorProcess.start({
    config: join(import.meta.dirname, 'failover.config.ts'),
    env: { BROKER_KIND: kind, BROKER_URL: broker.url },
  })
  onTestFinished(() => coordinator[Symbol.asyncDispose]())
  const session = await connect(coordinator.grpc, { service: 'failover' })
  onTestFinished(() => session.close())
  await session.registerChecker('failover', () => 'unknown')

  const committed = new Map<string, string[]>()
  let settled = 0
  const chain = async (key: string): Promise<void> => {
    const ids: string[] = []
    committed.set(key, ids)
    for (let number = 0; number < count / KEYS; number++) {
      const body = `${key}/${number}`
      const messages = [{ destination: `${kind}:failover`, body: Buffer.from(body) }]
      const { id } = await session.prepare({ checker: 'failover', orderingKey: key, messages })
      if (random() < ROLLED_BACK) await session.rollback({ id })
      else {
        await session.commit({ id })
        ids.push(body)
      }
      settled += 1
    }
  }
  const startedAt = performance.now()
  const keys = Array.from({ length: KEYS }, (_, at) => `customer-${at}`)
  const all = Promise.all(keys.map(chain))
  await until('the first are settled', () => settled > 0)
  const what = trouble(broker, () => settled >= count)
  await all
  console.log(
    `${kind}: ${await what}; ${settled} settled after ${Math.round(performance.now() - startedAt)} ms`,
  )
  await seen(consumer, kind, committed, startedAt)
}

/** Kills the broker and starts it again, a few times. */
export async function killed({ service }: StartedBroker, isOver: () => boolean): Promise<string> {
  const { between } = seeded('kills of the broker')
  let kills = 0
  for (; kills < KILLS_MAX && !isOver(); kills++) {
    await sleep(between(100, 800))
    await service.kill()
    await sleep(between(0, 2_000))
    await service.start()
  }
  expect(kills).toBeGreaterThanOrEqual(1)
  return `killed ${kills} times`
}

/** Reads the topic, and compares. */
async function seen(
  consumer: Broker,
  kind: BrokerKind,
  committed: ReadonlyMap<string, readonly string[]>,
  startedAt: number,
): Promise<void> {
  const firstSeen = new Map<string, Set<string>>()
  const idOf = new Map<string, string>()
  let count = 0
  let distinct = 0
  await consumer.subscribe({ topic: 'failover', group: 'audit' }, async ({ key, id, body }) => {
    count += 1
    const text = Buffer.from(body).toString()
    const ofKey = firstSeen.get(key) ?? new Set()
    firstSeen.set(key, ofKey.add(text))
    if (!idOf.has(text)) distinct += 1
    // The id by which consumers deduplicate is the same each time.
    expect(idOf.get(text) ?? id).toBe(id)
    idOf.set(text, id)
  })
  const wanted = [...committed.values()].reduce((sum, ids) => sum + ids.length, 0)
  await until(`all ${wanted} arrive`, () => distinct >= wanted, DONE_MS_MAX)
  const doneAt = performance.now()
  await sleep(QUIET_MS)
  console.log(
    `${kind}: ${wanted} committed, all seen ${Math.round(doneAt - startedAt)} ms after the start, ${count - distinct} duplicates`,
  )
  // Every one that was committed, no other, and for each key in the order of the commits.
  for (const [key, ids] of committed) expect([...(firstSeen.get(key) ?? [])], key).toEqual(ids)
  expect(distinct).toBe(wanted)
}
