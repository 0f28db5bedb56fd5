import type { Bench, BenchOptions } from './bench.ts'
import { Child } from './child.ts'
import { startCoordinator } from './coordinator.ts'
import { type Row, row } from './figures.ts'
import { dropFolder, freshFolder } from './folders.ts'
import type { Latency, LatencyPlan } from './latency-process.ts'

const WARM_UP_MS = 2_000
const WINDOW_MS = 4_000
/** What an answer may take beside its append. */
const OVER_APPEND_MS = 0.7

async function runOnce(): Promise<Latency> {
  const [store, bare] = [freshFolder(), freshFolder()]
  const coordinator = await startCoordinator(store)
  const client = new Child('latency-process.ts')
  const plan: LatencyPlan = {
    port: coordinator.port,
    folder: bare,
    warmUpMs: WARM_UP_MS,
    windowMs: WINDOW_MS,
  }
  const latency = await client.ask<Latency>(plan)
  await client.stop()
  await coordinator.process.signal('SIGTERM')
  dropFolder(store)
  dropFolder(bare)
  return latency
}

async function run({ runs, note }: BenchOptions): Promise<readonly Row[]> {
  const all: Latency[] = []
  for (let at = 1; at <= runs; at++) {
    const latency = await runOnce()
    all.push(latency)
    const { appendMs, prepareMs, commitMs, transactions } = latency
    const figures = [appendMs, prepareMs, commitMs].map((ms) => ms.toFixed(2))
    note(
      `run ${at} of ${runs}: append, prepare, commit ${figures.join(', ')} ms over ${transactions} transactions`,
    )
  }
  const limits = all.map(({ appendMs }) => appendMs + OVER_APPEND_MS)
  const wanted = `at most the append's p50 + ${OVER_APPEND_MS} ms`
  return [
    row(
      'message-embedded-latency prepare p50',
      'ms',
      all.map(({ prepareMs }) => prepareMs),
      { limits, wanted },
    ),
    row(
      'message-embedded-latency commit p50',
      'ms',
      all.map(({ commitMs }) => commitMs),
      { limits, wanted },
    ),
    row(
      'message-embedded-latency append p50',
      'ms',
      all.map(({ appendMs }) => appendMs),
    ),
  ]
}

export const messageEmbeddedLatency: Bench = {
  name: 'message-embedded-latency',
  about: 'prepare and commit one at a time, beside single appends to the same disk',
  run,
}
