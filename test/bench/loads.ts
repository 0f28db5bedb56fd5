/** One process puts a load on another: a coordinator, or the bare loop that it is held against. */
import { setTimeout as pause } from 'node:timers/promises'
import type { BareLoop } from './bare-frame.ts'
import { Child } from './child.ts'
import { startCoordinator } from './coordinator.ts'
import type { SelfTimes } from './cpu-profile.ts'
import { type Row, row } from './figures.ts'
import type { Load, LoadPlan, SagaLoad } from './flight.ts'
import { dropFolder, freshFolder } from './folders.ts'
import type { Appended } from './instrument.ts'

/** What is put on a coordinator: messages, unless it says of which saga. */
export interface LoadKind {
  readonly inFlight: number
  readonly bodyBytes: number
  readonly saga?: SagaLoad
}

export interface CountedLoad extends Load {
  readonly appended: Appended
}

const WARM_UP_MS = 3_000
const WINDOW_MS = 5_000

const planOf = (kind: LoadKind, port: number, serverPid: number): LoadPlan => ({
  ...kind,
  port,
  serverPid,
  warmUpMs: WARM_UP_MS,
  windowMs: WINDOW_MS,
})

const clientOf = ({ saga }: LoadKind): Child =>
  new Child(saga === undefined ? 'load-process.ts' : 'saga-load-process.ts')

const configOf = ({ saga }: LoadKind): string | undefined =>
  saga === undefined ? undefined : 'saga-config.ts'

/** A bare loop, once. */
export async function runBare(loop: BareLoop, kind: LoadKind): Promise<CountedLoad> {
  const folder = freshFolder()
  const server = new Child('bare-server.ts', { args: [folder, loop] })
  const { port } = await server.answer<{ readonly port: number }>()
  const client = new Child('bare-client.ts', { args: [loop] })
  const load = await client.ask<Load>(planOf(kind, port, server.pid))
  const appended = await server.ask<Appended>('appended')
  await client.stop()
  await server.stop()
  dropFolder(folder)
  return { ...load, appended }
}

/** The real thing, once. */
export async function runReal(kind: LoadKind): Promise<CountedLoad> {
  const folder = freshFolder()
  const coordinator = await startCoordinator(folder, configOf(kind))
  const client = clientOf(kind)
  const load = await client.ask<Load>(planOf(kind, coordinator.port, coordinator.pid))
  const appended = await coordinator.process.ask<Appended>('appended')
  await client.stop()
  await coordinator.process.signal('SIGTERM')
  dropFolder(folder)
  return { ...load, appended }
}

/** The real thing under a profiler, once: where the main threads of both sides spend the window. */
export interface Profiled {
  readonly load: Load
  readonly server: SelfTimes
  readonly client: SelfTimes
}

export async function runProfiled(kind: LoadKind): Promise<Profiled> {
  const folder = freshFolder()
  const coordinator = await startCoordinator(folder, configOf(kind))
  const client = clientOf(kind)
  const measured = client.ask<Load>({
    ...planOf(kind, coordinator.port, coordinator.pid),
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

export const cpuUs = (used: number, { transactions }: Load): number => (1_000 * used) / transactions
export const perSecond = (loads: readonly Load[]): readonly number[] => loads.map((load) => load.perSecond)

/** What a load cost, for each of what was counted: `unit` names one of them, `records` is how many it makes durable. */
export function rowsOf(
  name: string,
  { unit, records }: { readonly unit: string; readonly records: number },
  loads: readonly CountedLoad[],
): readonly Row[] {
  const figures = (what: string, of: string, each: (load: CountedLoad) => number): Row =>
    row(`${name} ${what}`, of, loads.map(each))
  return [
    figures('server CPU', `µs/${unit}`, (load) => cpuUs(load.used.serverCpuMs, load)),
    figures('client CPU', `µs/${unit}`, (load) => cpuUs(load.used.clientCpuMs, load)),
    figures('p50', 'ms', ({ p50Ms }) => p50Ms),
    figures('p99', 'ms', ({ p99Ms }) => p99Ms),
    figures('appends', '/s', (load) => (load.appended.appends / load.transactionsInAll) * load.perSecond),
    figures('records per append', '', (load) => (records * load.transactionsInAll) / load.appended.appends),
    figures('appended', `bytes/${unit}`, (load) => load.appended.bytes / load.transactionsInAll),
    figures('written', `bytes/${unit}`, ({ used, transactions }) => used.writtenBytes / transactions),
    figures('other CPU', 'cores', ({ used }) => used.othersCpuMs / 1_000 / used.seconds),
  ]
}
