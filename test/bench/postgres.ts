/** The same loads on a PostgreSQL of the bench's own: Debian's, with fsync and synchronous_commit on. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import { nativePostgresBin, type PostgresProcess, startPostgres } from '../services/postgres.ts'
import type { Bench, BenchOptions } from './bench.ts'
import { startCoordinator } from './coordinator.ts'
import { type Row, row } from './figures.ts'
import { runLatency } from './latency.ts'
import {
  type CountedLoad,
  cpuUs,
  type LoadKind,
  type Place,
  perSecond,
  rowsOf,
  runBare,
  runReal,
  runTogether,
} from './loads.ts'
import { messageLoad } from './message-embedded.ts'
import { sagaLoad } from './saga-embedded.ts'

/** How many finished transactions are stored where nothing else is asked for, and how many wait beside them. */
export const STORED = 5_000_000
const WAITING_SHARE = 0.1
const RESTARTED_WITHIN_S = 5
const SERVER_CPU_US_MAX = 20

/** What the database did for a load, beside its CPU. */
interface Database {
  readonly walBytes: number
  readonly rows: number
}

type Measured = CountedLoad & { readonly database: Database }

/** Runs something on a server of its own, and ends it. */
async function onServer<T>(work: (server: PostgresProcess, pid: number) => Promise<T>): Promise<T> {
  const backend = nativePostgresBin() === undefined ? 'embedded' : 'native'
  const server = await startPostgres(backend, {
    // As somebody would set it on such a machine: the defaults are for a hundred megabytes.
    settings: {
      shared_buffers: '1GB',
      max_wal_size: '4GB',
      checkpoint_timeout: '15min',
      max_connections: 200,
    },
  })
  try {
    const pid = Number(readFileSync(join(server.dataDir, 'postmaster.pid'), 'utf8').split('\n')[0])
    return await work(server, pid)
  } finally {
    await server.stop()
  }
}

let databases = 0

/** Works in a database that nobody has used, and drops it: what it left to be vacuumed and written is nobody else's cost. */
async function inFresh<T>(
  server: PostgresProcess,
  databasePid: number,
  work: (place: Place) => Promise<T>,
): Promise<T> {
  databases += 1
  const name = `bench_${databases}`
  const where = await server.database(name)
  const result = await work({ where, databasePid })
  await query(server.url, `drop database ${name} with (force)`)
  return result
}

async function counted(place: Place, run: () => Promise<CountedLoad>): Promise<Measured> {
  const before = await stateOf(place.where)
  const load = await run()
  const after = await stateOf(place.where)
  return {
    ...load,
    database: { walBytes: after.walBytes - before.walBytes, rows: after.rows - before.rows },
  }
}

async function stateOf(url: string): Promise<Database> {
  const { rows } = await query<{ wal: string; tuples: string }>(
    url,
    `select pg_current_wal_lsn() - '0/0'::pg_lsn as wal, tup_inserted + tup_updated + tup_deleted as tuples
      from pg_stat_database where datname = current_database()`,
  )
  return { walBytes: Number(rows[0]?.wal), rows: Number(rows[0]?.tuples) }
}

async function query<Row extends pg.QueryResultRow>(url: string, text: string): Promise<pg.QueryResult<Row>> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    return await client.query<Row>(text)
  } finally {
    await client.end()
  }
}

const databaseUs = (load: CountedLoad): number => cpuUs(load.used.databaseCpuMs, load)
const allUs = (load: CountedLoad): number =>
  cpuUs(load.used.serverCpuMs + load.used.clientCpuMs, load) + databaseUs(load)

function databaseRows(
  name: string,
  unit: string,
  loads: readonly Measured[],
  wanted?: string,
): readonly Row[] {
  const figure = (what: string, of: string, each: (load: Measured) => number): Row =>
    row(`${name} ${what}`, of, loads.map(each))
  return [
    row(`${name} PostgreSQL CPU`, `µs/${unit}`, loads.map(databaseUs), {
      ...(wanted !== undefined && { limits: loads.map(() => SERVER_CPU_US_MAX), wanted }),
    }),
    figure('rows', `/${unit}`, ({ database, transactionsInAll }) => database.rows / transactionsInAll),
    figure(
      'WAL',
      `bytes/${unit}`,
      ({ database, transactionsInAll }) => database.walBytes / transactionsInAll,
    ),
  ]
}

interface PostgresLoad {
  readonly name: string
  readonly loop: 'saga' | 'message'
  readonly kind: LoadKind
  readonly unit: string
  readonly wanted: string
}

async function run(
  { name, loop, kind, unit, wanted }: PostgresLoad,
  { runs, note }: BenchOptions,
): Promise<readonly Row[]> {
  const own: Measured[] = []
  const plain: Measured[] = []
  const real: Measured[] = []
  await onServer(async (server, pid) => {
    const onFresh = (load: (place: Place) => Promise<CountedLoad>): Promise<Measured> =>
      inFresh(server, pid, (place) => counted(place, () => load(place)))
    for (let at = 1; at <= runs; at++) {
      own.push(await onFresh((place) => runBare(loop, kind, place)))
      plain.push(await onFresh((place) => runBare(`${loop}-plain`, kind, place)))
      real.push(await onFresh((place) => runReal(kind, place)))
      const [inOwn, bare, ours] = [own, plain, real].map((loads) => Math.round(loads.at(-1)?.perSecond ?? 0))
      note(`run ${at} of ${runs}: ${ours}/s, bare ${bare}/s, in own frames ${inOwn}/s`)
    }
  })
  return [
    row(name, `${unit}s/s`, perSecond(real), { limits: perSecond(plain), wanted }),
    row(`${name} beside own frames`, `${unit}s/s`, perSecond(real), { limits: perSecond(own) }),
    ...rowsOf(name, { unit, records: 3 }, real),
    ...databaseRows(name, unit, real, `at most ${SERVER_CPU_US_MAX} µs, checkpoints included`),
    row(`bare-${name}`, `${unit}s/s`, perSecond(plain)),
    ...rowsOf(`bare-${name}`, { unit, records: 3 }, plain),
    ...databaseRows(`bare-${name}`, unit, plain),
    row(`bare-${name} own frames`, `${unit}s/s`, perSecond(own)),
    ...rowsOf(`bare-${name} own frames`, { unit, records: 3 }, own),
    ...databaseRows(`bare-${name} own frames`, unit, own),
  ]
}

const loadBench = (load: PostgresLoad, about: string): Bench => ({
  name: load.name,
  about,
  run: (options) => run(load, options),
})

export const sagaPostgres: Bench = loadBench(
  {
    name: 'saga-postgres',
    loop: 'saga',
    kind: sagaLoad,
    unit: 'saga',
    wanted: 'at least 0.35 of the bare loop (aim 20,000/s)',
  },
  'sagas of two steps on PostgreSQL, beside bare loops on the same server',
)

export const messagePostgres: Bench = loadBench(
  {
    name: 'message-postgres',
    loop: 'message',
    kind: messageLoad,
    unit: 'tx',
    wanted: 'at least 0.35 of the bare loop',
  },
  'prepare, commit and delivery on PostgreSQL, beside bare loops on the same server',
)

export const sagaPostgresLatency: Bench = {
  name: 'saga-postgres-latency',
  about: 'sagas of two steps one at a time on PostgreSQL, beside single commits to the same server',
  async run({ runs, note }) {
    const all = await onServer(async (server, pid) => {
      const found: Awaited<ReturnType<typeof runLatency>>[] = []
      for (let at = 1; at <= runs; at++) {
        const latency = await inFresh(server, pid, ({ where }) => runLatency('saga', where))
        found.push(latency)
        note(
          `run ${at} of ${runs}: ${latency.partsMs[1].toFixed(2)} ms, a commit ${latency.appendMs.toFixed(2)} ms`,
        )
      }
      return found
    })
    return [
      row(
        'saga-postgres-latency p50',
        'ms',
        all.map(({ partsMs }) => partsMs[1]),
        {
          limits: all.map(({ appendMs }) => 3 * appendMs + 2),
          wanted: "at most 3 commits' p50 + 2 ms",
        },
      ),
      row(
        'saga-postgres-latency commit p50',
        'ms',
        all.map(({ appendMs }) => appendMs),
      ),
    ]
  },
}

export const sagaPostgresTwoNodes: Bench = {
  name: 'saga-postgres-two-nodes',
  about: 'the same load on two coordinators that share a PostgreSQL, each with half of it, beside one',
  async run({ runs, note }) {
    const one: CountedLoad[] = []
    const two: CountedLoad[] = []
    await onServer(async (server, pid) => {
      for (let at = 1; at <= runs; at++) {
        one.push(await inFresh(server, pid, (place) => runReal(sagaLoad, place)))
        two.push(await inFresh(server, pid, (place) => runTogether(sagaLoad, place, 2)))
        const [single, both] = [one, two].map((loads) => allUs(loads.at(-1)!).toFixed(1))
        note(`run ${at} of ${runs}: ${both} µs a saga, on one node ${single}`)
      }
    })
    return [
      row('saga-postgres-two-nodes CPU', 'µs/saga', two.map(allUs), {
        limits: one.map((load) => 1.25 * allUs(load)),
        wanted: 'of all processes, at most 1.25 of what one node costs',
      }),
      row('saga-postgres-two-nodes', 'sagas/s', perSecond(two)),
      row('saga-postgres-one-node CPU', 'µs/saga', one.map(allUs)),
      row('saga-postgres-one-node', 'sagas/s', perSecond(one)),
    ]
  },
}

/** Rows as checkpoints write them, so many that have finished and some that wait, far from being due. */
async function store(url: string, finished: number): Promise<void> {
  const day = Math.floor(Date.now() / 86_400_000)
  const columns = `key, log, sequence, status, is_saga, version, began_ms, settled_ms, updated_ms, name, image`
  const values = (
    prefix: string,
    status: string,
  ): string => `'default/{' || to_hex(n % 65536) || '}~${prefix}.' || n,
    n % 16, 0, '${status}', true, 1, extract(epoch from now()) * 1000, extract(epoch from now()) * 1000,
    extract(epoch from now()) * 1000, 'two-steps', decode(repeat('ab', 550), 'hex')`
  await query(
    url,
    `set search_path to escrow;
    insert into finished_${day} (${columns}, finished_ms)
      select ${values('stored', 'completed')}, extract(epoch from now()) * 1000 from generate_series(1, ${finished}) n;
    insert into live (${columns}, due_log_ms)
      select ${values('waiting', 'running')}, 1e15 from generate_series(1, ${Math.round(finished * WAITING_SHARE)}) n`,
  )
  // The days aren't vacuumed: see store/postgres/days.ts.
  await query(url, 'vacuum analyze escrow.live')
  await query(url, 'analyze')
}

export const sagaPostgresStored: Bench = {
  name: 'saga-postgres-stored',
  about: 'the same load with nothing, a fifth and all of what is stored: cost, restart and takeover',
  async run({ runs, stored, note }) {
    const sizes = [0, Math.round(stored / 5), stored]
    const loads = sizes.map((): CountedLoad[] => [])
    const restarts: number[] = []
    const takeovers: number[] = []
    await onServer(async (server, pid) => {
      for (let at = 1; at <= runs; at++) {
        for (const [which, size] of sizes.entries()) {
          await inFresh(server, pid, async (place) => {
            // Warms the database up, and has the coordinator make the day's partition.
            await runReal(sagaLoad, place)
            if (size > 0) await store(place.where, size)
            // What is stored was written long ago: none of it is on its way to the disk any more.
            await query(place.where, 'checkpoint')
            loads[which]!.push(await runReal(sagaLoad, place))
            note(`run ${at} of ${runs}, ${size} stored: ${allUs(loads[which]!.at(-1)!).toFixed(1)} µs a saga`)
            if (size !== stored) return
            const killed = await startCoordinator(place.where, 'saga-config.ts')
            await killed.process.signal('SIGKILL')
            const again = await startCoordinator(place.where, 'saga-config.ts')
            restarts.push(again.startMs / 1_000)
            takeovers.push(await takeover(place.where, again))
          })
        }
      }
    })
    const [empty, some, all] = loads as [CountedLoad[], CountedLoad[], CountedLoad[]]
    return [
      row('saga-postgres-stored CPU', 'µs/saga', all.map(allUs), {
        limits: empty.map((load) => 1.25 * allUs(load)),
        wanted: `with ${stored.toLocaleString('en-US')} stored, at most 1.25 of an empty store's`,
      }),
      row('saga-postgres-stored CPU, a fifth', 'µs/saga', some.map(allUs)),
      row('saga-postgres-stored CPU, empty', 'µs/saga', empty.map(allUs)),
      row('saga-postgres-stored PostgreSQL CPU', 'µs/saga', all.map(databaseUs)),
      row('saga-postgres-stored PostgreSQL CPU, empty', 'µs/saga', empty.map(databaseUs)),
      row('saga-postgres-stored restart', 's', restarts, {
        limits: restarts.map(() => RESTARTED_WITHIN_S),
        wanted: 'under 5 s, after a SIGKILL',
      }),
      row('saga-postgres-stored takeover', 's', takeovers, {
        limits: takeovers.map(() => RESTARTED_WITHIN_S),
        wanted: 'under 5 s beside the lease',
      }),
    ]
  },
}

const LEASE_S = 5

/** How long another node needs for all logs of one that is killed, beside the lease. */
async function takeover(url: string, owner: Awaited<ReturnType<typeof startCoordinator>>): Promise<number> {
  const other = await startCoordinator(url, 'saga-config.ts')
  const killedAt = performance.now()
  await owner.process.signal('SIGKILL')
  for (;;) {
    const { rows } = await query<{ owners: string }>(
      url,
      `select count(*) as owners from escrow.directory where name like 'cluster/log/%'
        and convert_from(value, 'UTF8')::json->>'node' = '127.0.0.1:${other.port}'`,
    )
    if (Number(rows[0]?.owners) === 16) break
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  const seconds = (performance.now() - killedAt) / 1_000
  await other.process.signal('SIGTERM')
  return Math.max(0, seconds - LEASE_S)
}
