/** The coordinator as the shop uses it: a process of its own, asked by plain HTTP with JSON, as anybody may. */
import { randomInt } from 'node:crypto'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Program } from './supervisor.ts'

const root = join(import.meta.dirname, '../..')
const requestMsMax = 10_000
const pageSize = 1_000
/** How long nothing may change before waiting is given up. */
const stallMsMax = 60_000
const pollMs = 200
const portTriesMax = 50
const openStatuses: readonly string[] = ['PREPARED', 'COMMITTED', 'RUNNING', 'COMPENSATING']
const endStatuses: readonly string[] = ['DELIVERED', 'ROLLED_BACK', 'COMPLETED', 'COMPENSATED', 'PARKED']

/** Where it listens, on 127.0.0.1. */
export interface CoordinatorPorts {
  readonly grpc: number
  readonly http: number
}

/** How many transactions there are, by what became of them. */
export interface Counts {
  readonly sagas: { completed: number; compensated: number; parked: number }
  /** `byCheckBack` are among the committed and the rolled back. */
  readonly messages: { committed: number; rolledBack: number; byCheckBack: number; parked: number }
  /** Of both kinds. */
  open: number
}

/**
 * 7411 and 7410 where both are free and no other shop runs here, else free ones that no outgoing connection takes
 * between two starts. A port that is free for the moment in which another shop's coordinator is killed would do harm:
 * its services would come to ours.
 */
export async function choosePorts(options: { otherShops: boolean }): Promise<CoordinatorPorts> {
  if (!options.otherShops && (await isFree(7_411)) && (await isFree(7_410)))
    return { grpc: 7_411, http: 7_410 }
  for (let attempt = 1; attempt <= portTriesMax; attempt += 1) {
    const grpc = randomInt(12_000, 20_000)
    if ((await isFree(grpc)) && (await isFree(grpc + 1))) return { grpc, http: grpc + 1 }
  }
  throw new Error(`no free ports on 127.0.0.1 after ${portTriesMax} tries`)
}

/** `escrow serve` with the shop's configuration. */
export function coordinatorProgram(ports: CoordinatorPorts, dataFolder: string): Program {
  return {
    name: 'coordinator',
    args: [
      join(root, 'src/cli/escrow.ts'),
      'serve',
      '--config',
      join(import.meta.dirname, 'escrow.config.ts'),
    ],
    env: {
      ESCROW_GRPC_PORT: String(ports.grpc),
      ESCROW_HTTP_PORT: String(ports.http),
      ESCROW_STORE: `embedded:${dataFolder}`,
    },
    probe: async () => {
      const url = `http://127.0.0.1:${ports.http}/readyz`
      return (await fetch(url, { signal: AbortSignal.timeout(1_000) })).ok
    },
  }
}

/** A transaction in the JSON form of protos/escrow/v1, as far as it is read here. */
interface TransactionJson {
  readonly id: string
  readonly kind: string
  readonly status: string
  readonly settledBy?: string
}

interface ListJson {
  readonly transactions?: readonly TransactionJson[]
  readonly asOfMs?: string
  readonly nextPageToken?: string
}

/**
 * Waits until no transaction is open: each has ended or is parked, as of a moment after the call. Rejects when nothing
 * has changed for a minute.
 */
export async function waitUntilSettled(ports: CoordinatorPorts, signal: AbortSignal): Promise<void> {
  const calledAt = Date.now()
  let last = ''
  let changedAt = performance.now()
  for (;;) {
    let state: string
    try {
      const { transactions = [], asOfMs = '0' } = await list(ports, openStatuses)
      if (transactions.length === 0 && Number(asOfMs) > calledAt) return
      const ids = transactions.map((transaction) => `${transaction.id} ${transaction.status}`)
      state =
        ids.length === 0
          ? 'nothing newer than the last order is told'
          : `open are ${ids.slice(0, 5).join(', ')}`
    } catch (error) {
      state = (error as Error).message
    }
    if (state !== last) changedAt = performance.now()
    last = state
    if (performance.now() - changedAt > stallMsMax)
      throw new Error(`not settled after ${stallMsMax / 1_000} s: ${last}`)
    await sleep(pollMs, undefined, { signal })
  }
}

/** Counts all transactions that the coordinator knows. */
export async function countTransactions(ports: CoordinatorPorts): Promise<Counts> {
  const counts: Counts = {
    sagas: { completed: 0, compensated: 0, parked: 0 },
    messages: { committed: 0, rolledBack: 0, byCheckBack: 0, parked: 0 },
    open: 0,
  }
  for (let pageToken = ''; ; ) {
    const page = await list(ports, [...openStatuses, ...endStatuses], pageToken)
    for (const transaction of page.transactions ?? []) count(counts, transaction)
    pageToken = page.nextPageToken ?? ''
    if (pageToken === '') return counts
  }
}

function count(counts: Counts, { kind, status, settledBy }: TransactionJson): void {
  const { sagas, messages } = counts
  if (settledBy === 'checkBack') messages.byCheckBack += 1
  if (status === 'TRANSACTION_STATUS_COMPLETED') sagas.completed += 1
  else if (status === 'TRANSACTION_STATUS_COMPENSATED') sagas.compensated += 1
  else if (status === 'TRANSACTION_STATUS_DELIVERED') messages.committed += 1
  else if (status === 'TRANSACTION_STATUS_ROLLED_BACK') messages.rolledBack += 1
  else if (status !== 'TRANSACTION_STATUS_PARKED') counts.open += 1
  else if (kind === 'TRANSACTION_KIND_SAGA') sagas.parked += 1
  else messages.parked += 1
}

async function list(ports: CoordinatorPorts, statuses: readonly string[], pageToken = ''): Promise<ListJson> {
  const response = await fetch(`http://127.0.0.1:${ports.http}/escrow.v1.CoordinatorService/List`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({
      statuses: statuses.map((status) => `TRANSACTION_STATUS_${status}`),
      limit: pageSize,
      pageToken,
    }),
    signal: AbortSignal.timeout(requestMsMax),
  })
  if (!response.ok) throw new Error(`the coordinator answers ${response.status}: ${await response.text()}`)
  return (await response.json()) as ListJson
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer()
  return await new Promise((resolve) => {
    server.once('error', () => resolve(false))
    server.listen({ port, host: '127.0.0.1', exclusive: true }, () => server.close(() => resolve(true)))
  })
}
