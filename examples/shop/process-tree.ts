/**
 * Signals for a process and all that descend from it. A process group isn't enough: each backend of PostgreSQL
 * is a session of its own, and what a shell has started stays when the shell is killed.
 */
import { spawnSync } from 'node:child_process'
import * as fs from 'node:fs'

const roundsMax = 10

/** SIGSTOP for the process and its descendants; returns their ids, the process itself first. */
export function stopTree(root: number): number[] {
  signal(root, 'SIGSTOP')
  let pids = [root]
  // A fork under way when the signal came shows only in the next look.
  for (let round = 1; round <= roundsMax; round += 1) {
    const found = tree(root)
    for (const pid of found) signal(pid, 'SIGSTOP')
    if (found.length === pids.length) break
    pids = found
  }
  return pids
}

/** SIGCONT for the process and its descendants. */
export function resumeTree(root: number): void {
  for (const pid of tree(root)) signal(pid, 'SIGCONT')
}

/** SIGKILL for the process and its descendants; returns their ids without waiting for their end. */
export function killTree(root: number): number[] {
  // Stopped first, so that the parent starts no child behind our back.
  const pids = stopTree(root)
  for (const pid of pids) signal(pid, 'SIGKILL')
  return pids
}

/** Whether the process still runs. One that has ended and was reaped by nobody doesn't. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
  return processStat(pid)?.state !== 'Z'
}

/** The process's command line, its arguments separated by NUL or a space; empty when there is none. */
export function commandLine(pid: number): string {
  if (fs.existsSync(`/proc/${pid}/cmdline`)) return fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8')
  return spawnSync('ps', ['-p', String(pid), '-o', 'command='], { encoding: 'utf8' }).stdout ?? ''
}

function tree(root: number): number[] {
  const parentOf = parents()
  const found = [root]
  for (const pid of found) for (const [child, parent] of parentOf) if (parent === pid) found.push(child)
  return found
}

function parents(): Map<number, number> {
  const parentOf = new Map<number, number>()
  if (fs.existsSync('/proc/self/stat')) {
    for (const name of fs.readdirSync('/proc')) {
      const stat = /^\d+$/.test(name) ? processStat(Number(name)) : undefined
      if (stat !== undefined) parentOf.set(Number(name), stat.parent)
    }
    return parentOf
  }
  const lines = spawnSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' }).stdout.trim().split('\n')
  for (const line of lines) {
    const [pid, parent] = line.trim().split(/\s+/).map(Number)
    parentOf.set(pid!, parent!)
  }
  return parentOf
}

function processStat(pid: number): { state: string; parent: number } | undefined {
  try {
    const text = fs.readFileSync(`/proc/${pid}/stat`, 'utf8')
    const [state, parent] = text.slice(text.lastIndexOf(')') + 2).split(' ')
    return { state: state!, parent: Number(parent) }
  } catch {
    return undefined
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch {
    // It has ended meanwhile, which is as good.
  }
}
