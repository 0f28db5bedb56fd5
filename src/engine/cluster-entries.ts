/** What nodes tell each other in the directory of their store. */
import type { Directory, DirectoryEntry } from '../store/directory.ts'
import type { NodeInfo } from './peers.ts'

/** How far a log is, as the node that has it tells. */
export interface LogProgress {
  readonly log: number
  readonly epoch: number
  /** Wall clock: since when that node has it. */
  readonly sinceMs: number
  /** The last segment that is durable. */
  readonly head: number
  /** Everything up to this segment stands in images. */
  readonly checkpointed: number
  /** Wall clock: what the images are true for. */
  readonly asOfMs: number
  /** Wall time less log time. */
  readonly outagesMs: number
}

/** A node's heartbeat. */
export interface NodeEntry {
  readonly incarnation: string
  readonly state: 'here' | 'leaving'
  readonly startedAtMs: number
  readonly leaseMs: number
  readonly logs: readonly LogProgress[]
}

/** Who has a log, by which claim. The name is empty where it was given up. */
export interface LogEntry extends NodeInfo {
  readonly epoch: number
}

/** An entry with the version that it was read at. */
export interface Known<T> {
  readonly version: number
  readonly value: T
}

/** All that the directory tells of a cluster. */
export interface ClusterEntries {
  readonly nodes: ReadonlyMap<string, Known<NodeEntry>>
  readonly owners: ReadonlyMap<number, LogEntry>
  /** Grows with each name that is registered. */
  readonly namesVersion: number
}

/** Writes of one entry that others write as well. */
export const WRITES_MAX = 100

const PREFIX = 'cluster/'
const NODES = 'cluster/node/'
const LOGS = 'cluster/log/'
const NAMES = 'cluster/names'

/** The name of a node's entry. */
export const nodeEntry = (node: string): string => NODES + node

/** Reads it all, in one look. */
export async function readCluster(directory: Directory): Promise<ClusterEntries> {
  const nodes = new Map<string, Known<NodeEntry>>()
  const owners = new Map<number, LogEntry>()
  let namesVersion = 0
  for (const entry of await directory.list(PREFIX)) {
    const { name, version } = entry
    if (name.startsWith(NODES))
      nodes.set(name.slice(NODES.length), { version, value: decode<NodeEntry>(entry) })
    else if (name.startsWith(LOGS)) owners.set(Number(name.slice(LOGS.length)), decode<LogEntry>(entry))
    else if (name === NAMES) namesVersion = version
  }
  return { nodes, owners, namesVersion }
}

/** Notes who has a log by a claim, unless a later claim is noted. */
export async function noteOwner(directory: Directory, log: number, owner: LogEntry): Promise<void> {
  const name = LOGS + log
  for (let attempt = 1; attempt <= WRITES_MAX; attempt++) {
    const found = await directory.get(name)
    if (found !== undefined && decode<LogEntry>(found).epoch > owner.epoch) return
    if ((await directory.compareAndSet(name, found?.version ?? 0, encode(owner))) !== undefined) return
  }
}

/** Tells that there are new names. Whoever was faster tells it just as well: what is new stands in the directory already. */
export async function bumpNames(directory: Directory): Promise<void> {
  const entry = await directory.get(NAMES)
  await directory.compareAndSet(NAMES, entry?.version ?? 0, new Uint8Array(0))
}

/** A value as an entry has it. */
export const encode = (value: object): Uint8Array => Buffer.from(JSON.stringify(value))

/** The value of an entry. */
export const decode = <T>({ value }: DirectoryEntry): T => JSON.parse(Buffer.from(value).toString()) as T
