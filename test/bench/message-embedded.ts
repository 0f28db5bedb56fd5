import { setTimeout as pause } from 'node:timers/promises'
import type { Packing } from './bare-frame.ts'
import type { Bench, BenchOptions } from './bench.ts'
import { Child } from './child.ts'
import { startCoordinator } from './coordinator.ts'
import type { SelfTimes } from './cpu-profile.ts'
import { type Row, row } from './figures.ts'
import type { Load, LoadPlan } from './flight.ts'
import { dropFolder, freshFolder } from './folders.ts'

export const IN_FLIGHT = 1_024
const BODY_BYTES = 200
const WARM_UP_MS = 3_000
const WINDOW_MS = 5_000

const plan = (port: number, serverPid: number): LoadPlan => ({
  port,
  serverPid,
  inFlight: IN_FLIGHT,
  bodyBytes: BODY_BYTES,
  warmUpMs: WARM_UP_MS,
  windowMs: WINDOW_MS,
})

/** The bare loop, once. */
async function runBare(packing: Packing): Promise<Load & { readonly appends: number }> {
  const folder = freshFolder()
  const server = new Child('bare-server.ts', { args: [folder, packing] })
  const { port } = await server.answer<{ readonly port: number }>()
  const client = new Child('bare-client.ts', { args: [packing] })
  const load = await client.ask<Load>(plan(port, server.pid))
  const { appends } = await server.ask<{ readonly appends: number }>('appends')
  await client.stop()
  await server.stop()
  dropFolder(folder)
  return { ...load, appends }
}

/** The real thing, once. */
async function runReal(): Promise<Load & { readonly appends: number }> {
  const folder = freshFolder()
  const coordinator = await startCoordinator(folder)
  const client = new Child('load-process.ts')
  const load = await client.ask<Load>(plan(coordinator.port, coordinator.pid))
  await client.stop()
  const { appends } = await coordinator.process.ask<{ readonly appends: number }>('appends')
  await coordinator.process.signal('SIGTERM')
  dropFolder(folder)
  return { ...load, appends }
}

/** The real thing, once, under a profiler on both sides. */
export async function runProfiled(): Promise<{ load: Load; server: SelfTimes; client: SelfTimes }> {
  const folder = freshFolder()
  const coordinator = await startCoordinator(folder)
  const client = new Child('load-process.ts')
  const measured = client.ask<Load>({
    ...plan(coordinator.port, coordinator.pid),
    isProfiled: true,
  } satisfies LoadPlan)
  await pause(WARM_UP_MS)
  await coordinator.process.ask('sample')
  await pause(WINDOW_MS)
  const server = await coordinator.process.ask<SelfTimes>('sampled')
  const load = await measured
  await client.stop()
  await coordinator.process.signal('SIGTERM')
  dropFolder(folder)
  return { load, server, client: load.selfTimes! }
}

const cpuUs = (used: number, { transactions }: Load): number => (1_000 * used) / transactions
const perSecond = (loads: readonly Load[]): readonly number[] => loads.map((load) => load.perSecond)

function rowsOf(name: string, loads: readonly (Load & { readonly appends: number })[]): readonly Row[] {
  const figures = (
    what: string,
    unit: string,
    of: (load: Load & { readonly appends: number }) => number,
  ): Row => row(`${name} ${what}`, unit, loads.map(of))
  return [
    figures('server CPU', 'µs/tx', (load) => cpuUs(load.used.serverCpuMs, load)),
    figures('client CPU', 'µs/tx', (load) => cpuUs(load.used.clientCpuMs, load)),
    figures('p50', 'ms', ({ p50Ms }) => p50Ms),
    figures('p99', 'ms', ({ p99Ms }) => p99Ms),
    figures('appends', '/s', (load) => (load.appends / load.transactionsInAll) * load.perSecond),
    figures('records per append', '', (load) => (3 * load.transactionsInAll) / load.appends),
    figures('written', 'bytes/tx', ({ used, transactions }) => used.writtenBytes / transactions),
    figures('other CPU', 'cores', ({ used }) => used.othersCpuMs / 1_000 / used.seconds),
  ]
}

async function run({ runs, note }: BenchOptions): Promise<readonly Row[]> {
  const loads: Record<'packed' | 'protocol' | 'real', (Load & { readonly appends: number })[]> = {
    packed: [],
    protocol: [],
    real: [],
  }
  for (let at = 1; at <= runs; at++) {
    const kinds = ['packed', 'protocol', 'real'] as const
    for (const kind of kinds) {
      const load = kind === 'real' ? await runReal() : await runBare(kind)
      loads[kind].push(load)
      note(`run ${at} of ${runs}, ${kind}: ${Math.round(load.perSecond)}/s`)
    }
  }
  const { packed, protocol, real } = loads
  return [
    row('message-embedded', 'tx/s', perSecond(real), {
      limits: perSecond(protocol),
      wanted: 'at least 20,000/s (aim 30,000) and 0.40 of the bare loop',
    }),
    row('message-embedded by packed', 'tx/s', perSecond(real), { limits: perSecond(packed) }),
    ...rowsOf('message-embedded', real),
    row('bare-embedded', 'tx/s', perSecond(protocol)),
    ...rowsOf('bare-embedded', protocol),
    row('bare-embedded packed', 'tx/s', perSecond(packed)),
  ]
}

export const messageEmbedded: Bench = {
  name: 'message-embedded',
  about: `prepare, commit and delivery of a ${BODY_BYTES}-byte message, ${IN_FLIGHT} in flight, beside a bare loop`,
  run,
}
