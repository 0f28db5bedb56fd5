import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { randomBytes, randomInt } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { openEmbeddedStore } from '../../src/store/embedded/store.ts'
import type { Store } from '../../src/store/store.ts'
import { recoverCounters } from './programs/store-counters.ts'

const PROGRAMS = join(import.meta.dirname, 'programs')
const HOLD = join(import.meta.dirname, '../store/programs/hold.ts')
const FILL = join(import.meta.dirname, '../store/programs/fill.ts')
const KILLS = 12

let path: string
const children: ChildProcess[] = []

const openStore = (): Promise<Store> =>
  openEmbeddedStore({ path, now: Date.now, random: (bytes) => randomBytes(bytes) })

function run(program: string, ...args: string[]): ChildProcess {
  const child = spawn(process.execPath, [program, ...args], { stdio: ['pipe', 'pipe', 'inherit'] })
  children.push(child)
  return child
}

async function firstLine(child: ChildProcess): Promise<string> {
  const lines = createInterface({ input: child.stdout! })
  for await (const line of lines) return line
  throw new Error(`the process ended with ${child.exitCode ?? child.signalCode} and said nothing`)
}

async function kill(child: ChildProcess): Promise<void> {
  const ended = child.exitCode === null && child.signalCode === null ? once(child, 'exit') : undefined
  child.kill('SIGKILL')
  await ended
}

beforeEach(() => {
  path = join(mkdtempSync(join(tmpdir(), 'escrow-store-')), 'store')
})

afterEach(async () => {
  for (const child of children.splice(0)) await kill(child)
  rmSync(join(path, '..'), { recursive: true, force: true })
})

describe('one process at a time', () => {
  test('a second process is refused by name of the first, and let in when that one closes or is killed', async () => {
    const first = run(HOLD, path)
    expect(await firstLine(first)).toBe('open')
    await expect(openStore()).rejects.toMatchObject({
      code: 'storeInUse',
      details: { pid: String(first.pid) },
    })
    expect(await firstLine(run(HOLD, path))).toBe('storeInUse')
    await kill(first)

    const second = run(HOLD, path)
    expect(await firstLine(second)).toBe('open')
    await expect(openStore()).rejects.toMatchObject({
      code: 'storeInUse',
      details: { pid: String(second.pid) },
    })
    second.stdin!.write('close\n')
    await once(second, 'exit')

    const store = await openStore()
    expect(await firstLine(run(HOLD, path))).toBe('storeInUse')
    await store.close()
    expect(await firstLine(run(HOLD, path))).toBe('open')
  })

  test('of processes that open it at the same moment at most one gets it', async () => {
    const lines = await Promise.all(Array.from({ length: 4 }, () => firstLine(run(HOLD, path))))
    expect(lines.filter((line) => line === 'open').length).toBeLessThanOrEqual(1)
    expect(lines.filter((line) => line !== 'open' && line !== 'storeInUse')).toEqual([])
  })
})

/** What a writer said: what each sequence changes, and the last one that it saw done. */
class Told {
  readonly changes = new Map<number, string[]>()
  done = 0

  line(line: string): void {
    const [word, sequence, ...changes] = line.split(' ')
    if (word === 'try') this.changes.set(Number(sequence), changes)
    if (word === 'done') this.done = Number(sequence)
  }

  /** Every counter as of a sequence. */
  upTo(head: number): Map<string, number> {
    const counters = new Map<string, number>()
    for (let sequence = 1; sequence <= head; sequence++) {
      for (const change of this.changes.get(sequence) ?? []) {
        const [name = '', count] = change.split('=')
        counters.set(name, Number(count))
      }
    }
    return counters
  }
}

describe('a writer that is killed', () => {
  test(`${KILLS} times at random moments: what was done is there, and all of it is one moment of its log`, async () => {
    const told = new Told()
    const delaysMs = Array.from({ length: KILLS }, () => randomInt(5, 400))
    let checkpointed = 0
    for (const delayMs of delaysMs) {
      const writer = run(join(PROGRAMS, 'store-writer.ts'), path)
      const lines = createInterface({ input: writer.stdout! })
      const closed = once(lines, 'close')
      lines.on('line', (line) => told.line(line))
      await once(lines, 'line')
      await sleep(delayMs)
      expect(writer.exitCode).toBeNull()
      await kill(writer)
      await closed

      const store = await openStore()
      const handle = await store.log.claim(0)
      const { head } = handle.claimed
      checkpointed = handle.claimed.checkpointed
      expect(head).toBeGreaterThanOrEqual(told.done)
      expect(head).toBeLessThanOrEqual(told.done + 1)
      const recovered = await recoverCounters(store, handle)
      const counts = new Map([...recovered].map(([name, { image }]) => [name, image.state.checks]))
      const expected = told.upTo(head)
      expect([...counts].sort(), `after kills at ${delaysMs.join(', ')} ms`).toEqual([...expected].sort())
      told.done = head
      await store.close()
    }
    // Otherwise nothing was tested.
    expect(told.done).toBeGreaterThan(KILLS * 5)
    expect(checkpointed).toBeGreaterThan(0)
  })
})

describe('a full disk', () => {
  test('refuses with storeUnavailable, corrupts nothing, and takes the same bytes when there is room', async (context) => {
    // A small file system needs a mount namespace, which not every machine gives to every user.
    const canMount = spawnSync('unshare', ['-Urm', 'mount', '-t', 'tmpfs', 'tmpfs', '/tmp']).status === 0
    if (!canMount) context.skip('unshare -Urm and mount are not allowed here')
    const mount = join(path, '..', 'mount')
    mkdirSync(mount)
    const script = 'mount -t tmpfs -o size=256m tmpfs "$0" && exec "$1" "$2" "$0"'
    const child = spawn('unshare', ['-Urm', 'bash', '-c', script, mount, process.execPath, FILL], {
      // LMDB prints each failed commit.
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    children.push(child)
    const result = JSON.parse(await firstLine(child)) as Record<string, number>
    expect(result).toMatchObject({
      refused: 'storeUnavailable',
      refusedAgain: 'storeUnavailable',
      owns: true,
      checkpoint: 'storeUnavailable',
      afterwards: 'done',
      checkpointAfterwards: 'done',
    })
    expect(result.sequence).toBeGreaterThan(10)
    expect(result.head).toBe(result.sequence)
    expect(result.checkpointed).toBe(result.sequence)
  })
})
