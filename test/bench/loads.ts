/** One process puts a load on another: a coordinator, or the bare loop that it is held against. */
import { setTimeout as pause } from 'node:timers/promises'
import type { BrokerKind } from '../../examples/shop/broker.ts'
import type { BareLoop } from './bare-frame.ts'
import { Child } from './child.ts'
import { type RunningCoordinator, startCoordinator } from './coordinator.ts'
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
  /** Where messages go instead of to the load itself: a broker, by the URL of its server. */
  readonly broker?: { readonly kind: BrokerKind; readonly url: string; readonly arrivalsPort: number }
}

export interface CountedLoad extends Load {
  readonly appended: Appended
}

const WARM_UP_MS = 3_000
const WINDOW_MS = 5_000
const SHARED_MS = 3_000

const planOf = (
  { broker, ...kind }: LoadKind,
  port: number,
  serverPid: number,
  databasePid?: number,
): LoadPlan => ({
  ...kind,
  broker: broker && { destination: `${broker.kind}:bench`, arrivalsPort: broker.arrivalsPort },
  port,
  serverPids: [serverPid],
  databasePid,
  warmUpMs: WARM_UP_MS,
  windowMs: WINDOW_MS,
})

const clientOf = ({ saga }: LoadKind): Child =>
  new Child(saga === undefined ? 'load-process.ts' : 'saga-load-process.ts')

/** A coordinator as this load needs it. */
function startFor({ saga, broker }: LoadKind, where: string): Promise<RunningCoordinator> {
  if (broker === undefined) return startCoordinator(where, saga === undefined ? undefined : 'saga-config.ts')
  return startCoordinator(where, 'broker-config.ts', {
    BENCH_BROKER: broker.kind,
    BENCH_BROKER_URL: broker.url,
    BENCH_ARRIVALS: String(broker.arrivalsPort),
  })
}

/** Where a load is made durable. */
export interface Place {
  /** A folder, or the URL of a PostgreSQL. */
  readonly where: string
  /** Of that PostgreSQL's server. */
  readonly databasePid?: number
}

/** A bare loop, once. */
export async function runBare(loop: BareLoop, kind: LoadKind, place?: Place): Promise<CountedLoad> {
  const folder = freshFolder()
  const { where, databasePid } = place ?? { where: folder }
  const server = new Child('bare-server.ts', { args: [where, loop] })
  const { port } = await server.answer<{ readonly port: number }>()
  const client = new Child('bare-client.ts', { args: [loop] })
  const load = await client.ask<Load>(planOf(kind, port, server.pid, databasePid))
  const appended = await server.ask<Appended>('appended')
  await client.stop()
  await server.stop()
  dropFolder(folder)
  return { ...load, appended }
}

/** The real thing, once. */
export async function runReal(kind: LoadKind, place?: Place): Promise<CountedLoad> {
  const folder = freshFolder()
  const { where, databasePid } = place ?? { where: folder }
  const coordinator = await startFor(kind, where)
  const client = clientOf(kind)
  const load = await client.ask<Load>(planOf(kind, coordinator.port, coordinator.pid, databasePid))
  const appended = await coordinator.process.ask<Appended>('appended')
  await client.stop()
  await coordinator.process.signal('SIGTERM')
  dropFolder(folder)
  return { ...load, appended }
}

/** Several coordinators that share a store, each with its part of the load, once. */
export async function runTogether(kind: LoadKind, place: Place, nodes: number): Promise<CountedLoad> {
  const coordinators = await Promise.all(Array.from({ length: nodes }, () => startFor(kind, place.where)))
  // Until each has its share: by then the sessions mint ids of logs that their node has.
  await pause(SHARED_MS)
  const clients = coordinators.map(() => clientOf(kind))
  const loads = await Promise.all(
    clients.map((client, at) => {
      const { port, pid } = coordinators[at]!
      const plan = planOf({ ...kind, inFlight: kind.inFlight / nodes }, port, pid, place.databasePid)
      return client.ask<Load>(plan)
    }),
  )
  const appended = await Promise.all(coordinators.map(({ process }) => process.ask<Appended>('appended')))
  await Promise.all(clients.map((client) => client.stop()))
  await Promise.all(coordinators.map(({ process }) => process.signal('SIGTERM')))
  const sum = (of: (load: Load) => number): number => loads.reduce((total, load) => total + of(load), 0)
  const [first] = loads as [Load]
  return {
    ...first,
    used: {
      ...first.used,
      serverCpuMs: sum(({ used }) => used.serverCpuMs),
      clientCpuMs: sum(({ used }) => used.clientCpuMs),
      writtenBytes: sum(({ used }) => used.writtenBytes),
    },
    transactions: sum(({ transactions }) => transactions),
    perSecond: sum(({ perSecond }) => perSecond),
    p50Ms: Math.max(...loads.map(({ p50Ms }) => p50Ms)),
    p99Ms: Math.max(...loads.map(({ p99Ms }) => p99Ms)),
    transactionsInAll: sum(({ transactionsInAll }) => transactionsInAll),
    appended: {
      appends: appended.reduce((total, { appends }) => total + appends, 0),
      bytes: appended.reduce((total, { bytes }) => total + bytes, 0),
    },
  }
}

/** The real thing under a profiler, once: where the main threads of both sides spend the window. */
export interface Profiled {
  readonly load: Load
  readonly server: SelfTimes
  readonly client: SelfTimes
}

export async function runProfiled(kind: LoadKind): Promise<Profiled> {
  const folder = freshFolder()
  const coordinator = await startFor(kind, folder)
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
