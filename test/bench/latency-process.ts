/** One transaction at a time, and between two of them one append to a log of its own on the same disk. */
import { once } from 'node:events'
import { connect } from '../../src/participant/connect.ts'
import type { Session } from '../../src/participant/session.ts'
import { openBareLog } from './bare-log.ts'
import { percentile } from './figures.ts'
import { orderOf, twoSteps } from './saga-definitions.ts'

/** What a latency process is asked to do. */
export interface LatencyPlan {
  readonly of: 'message' | 'saga'
  readonly port: number
  readonly folder: string
  readonly warmUpMs: number
  readonly windowMs: number
}

/** Medians, in milliseconds. */
export interface Latency {
  readonly appendMs: number
  /** From the beginning of a transaction: to its prepare and from there to its commit, or to a saga's start and to its end. */
  readonly partsMs: readonly [number, number]
  readonly transactions: number
}

/** About what a prepare of one small message makes durable; the disk writes whole pages of 4 KiB anyway. */
const SEGMENT_BYTES = 500
const BODY_BYTES = 200

type Transaction = () => Promise<Latency['partsMs']>

async function messages(session: Session): Promise<Transaction> {
  await session.registerChecker('bench', () => 'unknown')
  await session.registerHandlers({ take() {} })
  const request = {
    checker: 'bench',
    messages: [{ destination: 'bench/take', body: Buffer.alloc(BODY_BYTES, 'x') }],
  }
  return async () => {
    const begunAt = performance.now()
    const { id } = await session.prepare(request)
    const preparedAt = performance.now()
    await session.commit({ id })
    const committedAt = performance.now()
    // Until its delivery is durable, too: nothing of one transaction is in the way of the next.
    await session.wait({ id })
    return [preparedAt - begunAt, committedAt - preparedAt]
  }
}

async function sagas(session: Session): Promise<Transaction> {
  await session.registerHandlers({ take: { action: () => ({ reservation: 12_345 }), compensation() {} } })
  const request = { saga: twoSteps, input: orderOf(0, BODY_BYTES) }
  return async () => {
    const begunAt = performance.now()
    const { id } = await session.startSaga(request)
    const startedAt = performance.now()
    const { status } = await session.wait({ id })
    if (status !== 'completed') throw new Error(`${id} ended as ${status}`)
    return [startedAt - begunAt, performance.now() - begunAt]
  }
}

const [plan] = (await once(process, 'message')) as [LatencyPlan]
const session = await connect(`127.0.0.1:${plan.port}`, { service: 'bench' })
const transaction = await (plan.of === 'message' ? messages(session) : sagas(session))
const log = await openBareLog(plan.folder)
const segment = Buffer.alloc(SEGMENT_BYTES, 'x')
const appends: number[] = []
const parts: [number[], number[]] = [[], []]

const beginAt = performance.now() + plan.warmUpMs
const endAt = beginAt + plan.windowMs
for (let now = performance.now(); now < endAt; ) {
  const isCounted = now >= beginAt
  await log.append(segment)
  const appended = performance.now()
  const [first, second] = await transaction()
  if (isCounted) {
    appends.push(appended - now)
    parts[0].push(first)
    parts[1].push(second)
  }
  now = performance.now()
}

const p50 = (times: number[]): number => percentile(Float64Array.from(times).sort(), 0.5)
const latency: Latency = {
  appendMs: p50(appends),
  partsMs: [p50(parts[0]), p50(parts[1])],
  transactions: appends.length,
}
process.send?.(latency)
await once(process, 'disconnect')
await log.close()
process.exit()
