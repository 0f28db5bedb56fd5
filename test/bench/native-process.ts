/** Transactions whose half messages RocketMQ holds, so many in flight: by `rocketmqNative`, or by the bare client. */
import { once } from 'node:events'
import { Producer } from 'rocketmq-client-nodejs'
import { rocketmqNative } from '../../src/broker/rocketmq-native.ts'

/** What is measured. */
export interface NativePlan {
  readonly by: 'escrow' | 'client'
  readonly url: string
  readonly topic: string
  readonly bodyBytes: number
  readonly inFlight: number
  readonly warmUpMs: number
  readonly windowMs: number
}

const [plan] = (await once(process, 'message')) as [NativePlan]
const { host, username, password } = new URL(plan.url)
const { topic } = plan
const body = Buffer.alloc(plan.bodyBytes, 'x')
const transaction = plan.by === 'escrow' ? await byEscrow() : await byClient()
let count = 0
let isOver = false

async function byEscrow(): Promise<() => Promise<unknown>> {
  const native = await rocketmqNative({
    endpoints: host,
    credentials: { accessKey: username, accessSecret: password },
    topics: [topic],
    checker: () => 'commit',
  })
  return () => native.sendInTransaction({ topic, body }, async () => {})
}

async function byClient(): Promise<() => Promise<unknown>> {
  const producer = new Producer({
    endpoints: host,
    namespace: '',
    topics: [topic],
    sessionCredentials: { accessKey: username, accessSecret: password },
    checker: { check: async () => 1 },
  })
  await producer.startup()
  return async () => {
    const begun = producer.beginTransaction()
    await producer.send({ topic, body }, begun)
    await begun.commit()
  }
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
const workers = Array.from({ length: plan.inFlight }, async () => {
  while (!isOver) {
    await transaction()
    count += 1
  }
})
await Promise.race([pause(plan.warmUpMs), ...workers])
const [from, before] = [performance.now(), count]
await Promise.race([pause(plan.windowMs), ...workers])
const perSecond = (1_000 * (count - before)) / (performance.now() - from)
isOver = true
await Promise.all(workers)
process.send?.({ perSecond })
await once(process, 'disconnect')
process.exit()
