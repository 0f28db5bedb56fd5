/** What Linux tells of a process: its time on the cores, its memory, what it wrote. */
import { readFileSync } from 'node:fs'

/** The kernel counts in hundredths of a second on every platform that Node runs on. */
const TICK_MS = 10

/** Milliseconds that all threads of a process have spent on the cores. */
export function cpuMs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
  // The second field is the name, in brackets, and may hold spaces.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS
}

/** The same of a server and all of its processes, those that have ended included. */
export function familyCpuMs(pid: number): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1')
    .trim()
    .split(' ')
    .filter(Boolean)
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  let sum = [11, 12, 13, 14].reduce((total, at) => total + Number(fields[at]) * TICK_MS, 0)
  for (const child of children) {
    try {
      sum += cpuMs(Number(child))
    } catch {
      // It has ended since: what it used is counted at its parent by the next look.
    }
  }
  return sum
}

/** Milliseconds that all cores together have been busy since the machine started. */
export function machineCpuMs(): number {
  const line = readFileSync('/proc/stat', 'latin1').split('\n')[0] ?? ''
  const [user = 0, nice = 0, system = 0, , , interrupts = 0, softInterrupts = 0] = line
    .split(/\s+/)
    .slice(1)
    .map(Number)
  return (user + nice + system + interrupts + softInterrupts) * TICK_MS
}

/** Bytes of anonymous memory that are resident: what is left out is the map of the store's file. */
export function rssAnonBytes(pid: number): number {
  const found = /^RssAnon:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))
  return Number(found?.[1] ?? Number.NaN) * 1024
}

/** Bytes that a process caused to be written to a disk. */
export function writtenBytes(pid: number): number {
  const found = /^write_bytes: (\d+)$/m.exec(readFileSync(`/proc/${pid}/io`, 'latin1'))
  return Number(found?.[1] ?? Number.NaN)
}

/** What two processes used between two moments. */
export interface Used {
  readonly seconds: number
  readonly serverCpuMs: number
  readonly clientCpuMs: number
  /** What neither of them used, of all cores: how noisy the machine was. */
  readonly othersCpuMs: number
  readonly writtenBytes: number
  /** Of the database's server; 0 without one. */
  readonly databaseCpuMs: number
}

/** Begins to count what servers and this process use, and the database's family; the returned function ends it. */
export function countUse(serverPids: readonly number[], databasePid: number | undefined): () => Used {
  const read = () => ({
    at: performance.now(),
    server: serverPids.reduce((sum, pid) => sum + cpuMs(pid), 0),
    client: cpuMs(process.pid),
    machine: machineCpuMs(),
    written: serverPids.reduce((sum, pid) => sum + writtenBytes(pid), 0),
    database: databasePid === undefined ? 0 : familyCpuMs(databasePid),
  })
  const begin = read()
  return () => {
    const end = read()
    const serverCpuMs = end.server - begin.server
    const clientCpuMs = end.client - begin.client
    return {
      seconds: (end.at - begin.at) / 1_000,
      serverCpuMs,
      clientCpuMs,
      othersCpuMs: Math.max(0, end.machine - begin.machine - serverCpuMs - clientCpuMs),
      writtenBytes: end.written - begin.written,
      databaseCpuMs: end.database - begin.database,
    }
  }
}
