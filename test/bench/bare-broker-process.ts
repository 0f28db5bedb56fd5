/** A broker's own client and nothing else: publishes batches of bodies, one batch after the other, and measures a window. */
import { once } from 'node:events'
import type { BrokerKind } from '../../examples/shop/broker.ts'
import { bareClients } from './bare-brokers.ts'

/** What a bare client is asked to do. */
export interface BarePlan {
  readonly kind: BrokerKind
  readonly url: string
  readonly topic: string
  readonly bodyBytes: number
  /** Messages in a batch. */
  readonly batch: number
  readonly warmUpMs: number
  readonly windowMs: number
}

const [plan] = (await once(process, 'message')) as [BarePlan]
const client = await bareClients[plan.kind](plan.url, plan.topic)
const body = Buffer.alloc(plan.bodyBytes, 'x')
let count = 0
let isOver = false

async function publish(): Promise<void> {
  let key = 0
  while (!isOver) {
    const batch = Array.from({ length: plan.batch }, () => ({ key: String(key++ % 1_024), body }))
    await client.publish(batch)
    count += batch.length
  }
}

const publishing = publish()
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
await Promise.race([pause(plan.warmUpMs), publishing])
const [from, before] = [performance.now(), count]
await Promise.race([pause(plan.windowMs), publishing])
const perSecond = (1_000 * (count - before)) / (performance.now() - from)
isOver = true
await publishing
process.send?.({ perSecond })
await once(process, 'disconnect')
await client.close()
process.exit()
