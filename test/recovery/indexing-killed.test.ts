import { spawn } from 'node:child_process'
import { randomBytes, randomInt } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { openEmbeddedStore } from '../../src/store/embedded/store.ts'
import { compareKeys } from '../../src/store/images.ts'
import { until } from '../harness/until.ts'
import { NOON_MS } from '../store/contract-fixtures.ts'
import { sagaRowOf, writeOlderStore } from '../store/older-store.ts'

const HOLD = join(import.meta.dirname, '../store/programs/hold.ts')
const ROWS = 100_000
const KILLS = 6

let path: string

beforeEach(() => {
  path = join(mkdtempSync(join(tmpdir(), 'escrow-store-')), 'store')
})

afterEach(() => rmSync(join(path, '..'), { recursive: true, force: true }))

/** Opens the store in a process of its own, which indexes what it finds, and kills it. */
async function killedAfter(delayMs: number): Promise<void> {
  const child = spawn(process.execPath, [HOLD, path], { stdio: ['pipe', 'pipe', 'inherit'] })
  const exited = once(child, 'exit')
  const [said] = await once(child.stdout, 'data')
  expect(String(said)).toBe('open\n')
  await sleep(delayMs)
  child.kill('SIGKILL')
  await exited
}

test(`an older store whose indexing is killed ${KILLS} times is indexed in the end, without beginning anew`, async () => {
  const rows = Array.from({ length: ROWS }, (_, at) =>
    sagaRowOf(
      `s${at}`,
      { businessKey: `o-${at}`, tags: { third: String(at % 3) } },
      at % 2 === 0 ? {} : { finishedAtMs: NOON_MS },
    ),
  )
  await writeOlderStore(path, rows)
  const delaysMs = Array.from({ length: KILLS }, () => randomInt(1, 60))
  for (const delayMs of delaysMs) await killedAfter(delayMs)

  const logged: string[] = []
  const store = await openEmbeddedStore({
    path,
    now: () => NOON_MS,
    random: (bytes) => randomBytes(bytes),
    log: (_, message) => logged.push(message),
  })
  const left = await until(
    'it is indexed',
    () => /^indexed .* of (\d+) transactions$/.exec(logged.at(-1) ?? '')?.[1],
  )
  // Otherwise nothing was tested: it was done before, or began anew.
  expect(Number(left), `after kills at ${delaysMs.join(', ')} ms`).toBeGreaterThan(0)
  expect(Number(left), `after kills at ${delaysMs.join(', ')} ms`).toBeLessThan(ROWS)
  const query = { namespace: 'default', statuses: ['running', 'completed'], after: '', limit: ROWS } as const
  for (const third of ['0', '1', '2']) {
    const attributes = { businessKey: '', tags: { third } }
    const found = await store.images.query({ ...query, attributes })
    const expected = rows.filter((row) => row.attributes?.tags.third === third).map(({ key }) => key)
    expect(found.map(({ key }) => key)).toEqual(expected.sort(compareKeys))
  }
  await store.close()
})
