/** Coordinators that share a PostgreSQL, a load on all of them, and what must be true of it in the end. */
import { Pool } from 'pg'
import { expect } from 'vitest'
import { CoordinatorProcess } from '../harness/coordinator-process.ts'
import { Program } from '../harness/program.ts'
import { until } from '../harness/until.ts'
import type { PostgresService } from '../services/postgres.ts'
import { openShop, type Shop } from './shop.ts'

export const LEASE_MS = 2_000

/** Coordinators, a shop that sends messages, and a ledger that takes the steps of sagas. */
export interface Cluster {
  readonly nodes: readonly CoordinatorProcess[]
  readonly shop: Shop
  /** Where services find any node. */
  readonly addresses: string
  /** The database that the nodes share. */
  readonly store: Pool
  readonly ledger: Pool
  /** Starts sagas, so many in all; resolves to the program, which says `done`. */
  sagas(count: number): Promise<Program>
  messages(count: number): Promise<Program>
  close(): Promise<void>
}

/** What may be changed. */
export interface ClusterOptions {
  readonly name: string
  readonly nodes?: number
  /** Where nodes find the store, by default directly. */
  readonly through?: (url: string) => string
}

/** Starts nodes on a fresh store, and the participants. */
export async function openCluster(
  postgres: PostgresService,
  { name, nodes: count = 3, through = (url) => url }: ClusterOptions,
): Promise<Cluster> {
  const url = await postgres.database(`${name}_store`)
  const ledgerUrl = await postgres.database(`${name}_ledger`)
  const ledger = new Pool({ connectionString: ledgerUrl, max: 2 })
  const store = new Pool({ connectionString: url, max: 4 })
  for (const pool of [ledger, store]) pool.on('error', () => {})
  // Without a key: what is doubled must show.
  await ledger.query('create table effects (n bigserial, saga text, step text)')
  const shop = await openShop(postgres, name)
  const nodes = await Promise.all(
    Array.from({ length: count }, () =>
      CoordinatorProcess.start({
        url: through(url),
        options: { cluster: { leaseMs: LEASE_MS } },
      }),
    ),
  )
  const addresses = nodes.map(({ grpc }) => grpc).join(',')
  const programs: Program[] = []
  const run = async (file: string, args: readonly string[] = []): Promise<Program> => {
    const program = new Program({
      file: `test/recovery/programs/${file}.ts`,
      args,
      env: { ESCROW_ADDRESS: addresses, DATABASE_URL: ledgerUrl },
    })
    programs.push(program)
    await program.said(/ready/)
    return program
  }
  const inShop = async (file: string, args: readonly string[] = []): Promise<Program> => {
    const program = shop.run(file, addresses, args)
    programs.push(program)
    await program.said(/ready/)
    return program
  }
  await inShop('inventory')
  await run('saga-ledger')
  return {
    nodes,
    shop,
    addresses,
    store,
    ledger,
    sagas: (sagas) => run('saga-desk', [String(sagas)]),
    messages: (messages) => inShop('order-desk', [String(messages)]),
    close: async () => {
      await Promise.all(programs.map((program) => program.kill()))
      await Promise.all(nodes.map((node) => node[Symbol.asyncDispose]()))
      await Promise.all([shop.close(), store.end(), ledger.end()])
    },
  }
}

const DONE_MS_MAX = 280_000

/** Puts so many messages and as many sagas on a cluster, and disturbs them until they have ended; answers how often. */
export async function disturb(
  cluster: Cluster,
  { count, timesMax = 40 }: { readonly count: number; readonly timesMax?: number },
  one: () => Promise<void>,
): Promise<number> {
  const programs = await Promise.all([cluster.messages(count), cluster.sagas(count)])
  let isDone = false
  const done = Promise.all(programs.map((program) => program.said(/done/, DONE_MS_MAX))).finally(() => {
    isDone = true
  })
  let times = 0
  for (; !isDone && times < timesMax; times++) await one()
  await done
  for (const { output } of programs) expect(output).not.toMatch(/ended as|failed:/)
  return times
}

/**
 * Waits until every saga has ended, and holds the ledger to the rules: each is completed or undone (I7), each effect was made
 * once, what was done before the pivot is undone in reverse where it was undone at all, and nothing behind it (I4).
 */
export async function sagasBalance({ store, ledger }: Cluster, count: number): Promise<void> {
  const { rows } = await until(
    'every saga has ended',
    async () => {
      const open = await store.query<{ id: string; status: string }>(
        `select id, status from escrow.transactions where kind = 'saga' and finished_at is null`,
      )
      if (open.rows.length > 0)
        throw new Error(`open are ${open.rows.length}, such as ${open.rows[0]?.id} ${open.rows[0]?.status}`)
      const ended = await store.query<{ id: string; status: string }>(
        `select id, status from escrow.transactions where kind = 'saga'`,
      )
      return ended.rows.length >= count ? ended : undefined
    },
    90_000,
  )
  expect(new Set(rows.map(({ id }) => id)).size).toBe(rows.length)
  expect(rows).toHaveLength(count)
  const effects = new Map<string, string[]>()
  const all = await ledger.query<{ saga: string; step: string }>('select saga, step from effects order by n')
  for (const { saga, step } of all.rows) effects.set(saga, [...(effects.get(saga) ?? []), step])
  const wrong = rows.flatMap(({ id, status }) => {
    const made = (effects.get(id) ?? []).join(' ')
    const isRefused = Number(id.split('-')[1]) % 10 === 1
    const isRight =
      status === 'completed'
        ? made === 'reserve charge confirm ship' && !isRefused
        : ['', 'reserve -reserve', 'reserve charge -charge -reserve'].includes(made)
    return isRight ? [] : [`${id} ${status}: ${made}`]
  })
  expect(wrong).toEqual([])
  const completed = rows.filter(({ status }) => status === 'completed').length
  // Eight of ten are neither refused nor cancelled.
  expect(completed).toBeGreaterThanOrEqual(count * 0.8)
}

/** A node that is ready. */
export function readyNode({ nodes }: Cluster): CoordinatorProcess {
  const node = nodes.find(({ program }) => program.ending === undefined)
  if (node === undefined) throw new Error('no node is left')
  return node
}
