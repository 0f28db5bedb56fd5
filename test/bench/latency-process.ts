/** One transaction at a time, and between two of them one append to a log of its own on the same disk. */
import { once } from 'node:events'
import { connect } from '../../src/participant/connect.ts'
import { openBareLog } from './bare-log.ts'
import { percentile } from './figures.ts'

/** What a latency process is asked to do. */
export interface LatencyPlan {
  readonly port: number
  readonly folder: string
  readonly warmUpMs: number
  readonly windowMs: number
}

/** Medians, in milliseconds. */
export interface Latency {
  readonly appendMs: number
  readonly prepareMs: number
  readonly commitMs: number
  readonly transactions: number
}

/** About what a prepare of one small message makes durable; the disk writes whole pages of 4 KiB anyway. */
const SEGMENT_BYTES = 500

const [plan] = (await once(process, 'message')) as [LatencyPlan]
const session = await connect(`127.0.0.1:${plan.port}`, { service: 'bench' })
await session.registerChecker('bench', () => 'unknown')
await session.registerHandlers({ take() {} })
const log = openBareLog(plan.folder)
const segment = Buffer.alloc(SEGMENT_BYTES, 'x')
const request = { checker: 'bench', messages: [{ destination: 'bench/take', body: Buffer.alloc(200, 'x') }] }
const appends: number[] = []
const prepares: number[] = []
const commits: number[] = []

const beginAt = performance.now() + plan.warmUpMs
const endAt = beginAt + plan.windowMs
for (let now = performance.now(); now < endAt; ) {
  const isCounted = now >= beginAt
  await log.append(segment)
  const appended = performance.now()
  const { id } = await session.prepare(request)
  const prepared = performance.now()
  await session.commit({ id })
  const committed = performance.now()
  // Until its delivery is durable, too: nothing of one transaction is in the way of the next.
  await session.wait({ id })
  if (isCounted) {
    appends.push(appended - now)
    prepares.push(prepared - appended)
    commits.push(committed - prepared)
  }
  now = performance.now()
}

const p50 = (times: number[]): number => percentile(Float64Array.from(times).sort(), 0.5)
const latency: Latency = {
  appendMs: p50(appends),
  prepareMs: p50(prepares),
  commitMs: p50(commits),
  transactions: appends.length,
}
process.send?.(latency)
await once(process, 'disconnect')
await log.close()
process.exit()
