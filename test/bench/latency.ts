/** One transaction at a time, held against single appends to the same disk. */
import type { Bench, BenchOptions } from './bench.ts'
import { Child } from './child.ts'
import { startCoordinator } from './coordinator.ts'
import { type Row, row } from './figures.ts'
import { dropFolder, freshFolder } from './folders.ts'
import type { Latency, LatencyPlan } from './latency-process.ts'

const WARM_UP_MS = 2_000
const WINDOW_MS = 4_000

/** What is measured, and what each part of a transaction may take: so many appends, and so much beside them. */
interface LatencyKind {
  readonly name: string
  readonly about: string
  readonly of: LatencyPlan['of']
  readonly parts: readonly [Part, Part]
}

interface Part {
  readonly name: string
  readonly appends: number
  readonly overMs: number
}

/** One at a time against a store of its own, and a bare log on the same disk: in a folder, or in the database given. */
export async function runLatency(of: LatencyPlan['of'], url?: string): Promise<Latency> {
  const folders = [freshFolder(), freshFolder()] as const
  const [store, bare] = url === undefined ? folders : [url, url]
  const coordinator = await startCoordinator(store, of === 'saga' ? 'saga-config.ts' : undefined)
  const client = new Child('latency-process.ts')
  const plan: LatencyPlan = {
    of,
    port: coordinator.port,
    folder: bare,
    warmUpMs: WARM_UP_MS,
    windowMs: WINDOW_MS,
  }
  const latency = await client.ask<Latency>(plan)
  await client.stop()
  await coordinator.process.signal('SIGTERM')
  for (const folder of folders) dropFolder(folder)
  return latency
}

async function run({ name, of, parts }: LatencyKind, options: BenchOptions): Promise<readonly Row[]> {
  const all: Latency[] = []
  const names = ['append', ...parts.map((part) => part.name)].join(', ')
  for (let at = 1; at <= options.runs; at++) {
    const latency = await runLatency(of)
    all.push(latency)
    const figures = [latency.appendMs, ...latency.partsMs].map((ms) => ms.toFixed(2)).join(', ')
    options.note(
      `run ${at} of ${options.runs}: ${names} ${figures} ms over ${latency.transactions} transactions`,
    )
  }
  return [
    ...parts.map((part, at) =>
      row(
        `${name} ${part.name} p50`,
        'ms',
        all.map(({ partsMs }) => partsMs[at]!),
        {
          limits: all.map(({ appendMs }) => part.appends * appendMs + part.overMs),
          wanted: `at most ${part.appends === 1 ? "the append's p50" : `${part.appends} appends' p50`} + ${part.overMs} ms`,
        },
      ),
    ),
    row(
      `${name} append p50`,
      'ms',
      all.map(({ appendMs }) => appendMs),
    ),
  ]
}

const latencyBench = (kind: LatencyKind): Bench => ({
  name: kind.name,
  about: kind.about,
  run: (options) => run(kind, options),
})

export const messageEmbeddedLatency: Bench = latencyBench({
  name: 'message-embedded-latency',
  about: 'prepare and commit one at a time, beside single appends to the same disk',
  of: 'message',
  parts: [
    { name: 'prepare', appends: 1, overMs: 0.7 },
    { name: 'commit', appends: 1, overMs: 0.7 },
  ],
})

export const sagaEmbeddedLatency: Bench = latencyBench({
  name: 'saga-embedded-latency',
  about: 'sagas of two steps one at a time, until they have ended, beside single appends to the same disk',
  of: 'saga',
  parts: [
    { name: 'start', appends: 1, overMs: 0.7 },
    { name: 'start to end', appends: 3, overMs: 1.5 },
  ],
})
