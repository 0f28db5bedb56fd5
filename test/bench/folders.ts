import { mkdtempSync, readFileSync, rmSync, statfsSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

/** File systems that are memory: what is flushed to them is on no disk. */
const MEMORY = ['tmpfs', 'ramfs', 'devtmpfs']
const candidates = [tmpdir(), '/var/tmp', resolve(import.meta.dirname, '../..')]
const made = new Set<string>()

interface Mount {
  readonly at: string
  readonly type: string
  readonly device: string
}

/** The mount that a path is on: the longest one that it begins with, the last of equals. */
function mountOf(path: string): Mount {
  const mounts = readFileSync('/proc/self/mounts', 'utf8')
    .trim()
    .split('\n')
    .map((line): Mount => {
      const [device = '', at = '', type = ''] = line.split(' ')
      return { at, type, device }
    })
    .filter(({ at }) => path === at || path.startsWith(at === '/' ? '/' : `${at}/`))
  return mounts.reduce((one, other) => (other.at.length >= one.at.length ? other : one))
}

const home = candidates.find((path) => !MEMORY.includes(mountOf(path).type)) ?? tmpdir()

/** Where stores are made, in words. */
export function describeDisk(): string {
  const { type, device } = mountOf(home)
  const { bavail, bsize } = statfsSync(home)
  const free = `${Math.round((bavail * bsize) / 2 ** 30)} GiB free`
  const warning = MEMORY.includes(type)
    ? ': MEMORY, NOT A DISK: nothing here says how fast a durable append is'
    : ''
  return `${home} on ${device} (${type}, ${free})${warning}`
}

/** An empty folder on a real disk. */
export function freshFolder(): string {
  const folder = mkdtempSync(join(home, 'escrow-bench-'))
  made.add(folder)
  return folder
}

export function dropFolder(folder: string): void {
  rmSync(folder, { recursive: true, force: true })
  made.delete(folder)
}

/** Removes whatever is left. */
export function dropFolders(): void {
  for (const folder of made) dropFolder(folder)
}
