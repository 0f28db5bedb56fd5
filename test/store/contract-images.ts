import fc from 'fast-check'
import { beforeEach, describe, expect, test } from 'vitest'
import { compareKeys, type DueEntry, type ImageRow } from '../../src/store/images.ts'
import type { Store } from '../../src/store/store.ts'
import { appendAll, type StoreBench } from './contract-bench.ts'
import { checkpointOf, key, NOON_MS, rowOf } from './contract-fixtures.ts'

const DAY_MS = 86_400_000

/** What is due is found by time. */
export function dueContract(bench: StoreBench): void {
  describe('the due index', () => {
    test('agrees with a map of what is due, whatever changes, page by page', async () => {
      const names = Array.from({ length: 12 }, (_, i) => `default/${i}`)
      const time = fc.option(fc.oneof(fc.nat({ max: 20 }), fc.double({ min: 0, max: 1e13, noNaN: true })), {
        nil: undefined,
      })
      const change = fc.record({
        name: fc.constantFrom(...names),
        dueLogMs: time,
        dueWallMs: time,
        ends: fc.boolean(),
      })
      const rounds = fc.array(fc.uniqueArray(change, { selector: (each) => each.name, maxLength: 8 }), {
        maxLength: 6,
      })
      const handle = await bench.store.log.claim(0)
      await appendAll(handle, 1, 1)
      let sequence = 1
      let run = 0
      await fc.assert(
        fc.asyncProperty(rounds, fc.integer({ min: 1, max: 5 }), async (changes, limit) => {
          run += 1
          const model = new Map<string, ImageRow>()
          for (const round of changes) {
            sequence += 1
            const rows = round.map(({ name, ends, ...dues }) =>
              rowOf(`${name}-${run}`, sequence, ends ? { finishedAtMs: NOON_MS } : dues),
            )
            // What finished never changes again.
            const possible = rows.filter((row) => (model.get(row.key)?.finishedAtMs ?? 0) === 0)
            for (const row of possible) model.set(row.key, row)
            await bench.store.images.checkpoint(handle, checkpointOf(1, ...possible))
          }
          for (const clock of ['log', 'wall'] as const) {
            expect(await allDue(bench.store, clock, limit, run)).toEqual(expectedDue(model, clock))
          }
        }),
        { numRuns: 25 },
      )
    })

    test('gives what is due up to a time, that time included, of its log and clock alone', async () => {
      const handle = await bench.store.log.claim(0)
      const rows = [1, 2, 2.5, 3].map((dueLogMs) =>
        rowOf(`default/${dueLogMs}`, 1, { dueLogMs, dueWallMs: 100 }),
      )
      await bench.store.images.checkpoint(handle, checkpointOf(0, ...rows))
      const until = async (untilMs: number): Promise<number[]> =>
        (await bench.store.images.due(0, 'log', untilMs, undefined, 10)).map((entry) => entry.dueMs)
      expect(await until(0)).toEqual([])
      expect(await until(2.5)).toEqual([1, 2, 2.5])
      expect(await until(Number.MAX_SAFE_INTEGER)).toEqual([1, 2, 2.5, 3])
      expect(await bench.store.images.due(0, 'wall', 99, undefined, 10)).toEqual([])
      expect(await bench.store.images.due(0, 'log', 99, undefined, 2)).toHaveLength(2)
      expect(await bench.store.images.due(0, 'log', 99, { key: key('default/3'), dueMs: 3 }, 2)).toEqual([])
    })
  })
}

/** Images are found by status. */
export function queryContract(bench: StoreBench): void {
  describe('queries', () => {
    const everything = async (
      statuses: ImageRow['status'][],
      namespace = 'default',
      limit = 3,
    ): Promise<string[]> => {
      const keys: string[] = []
      for (let after = ''; ; ) {
        const page = await bench.store.images.query({ namespace, statuses, after, limit })
        for (const { key: found, stored: image } of page) {
          expect(Buffer.from(image.bytes).toString()).toContain(`image of ${found} at`)
          keys.push(found)
        }
        if (page.length < limit) return keys
        after = keys.at(-1) as string
      }
    }

    beforeEach(async () => {
      const handle = await bench.store.log.claim(0)
      const rows: ImageRow[] = []
      for (let i = 10; i < 30; i++) {
        const finishedAtMs = NOON_MS - (i % 2) * DAY_MS
        rows.push(rowOf(`default/p${i}`, 1), rowOf(`default/k${i}`, 1, { status: 'parked' }))
        rows.push(
          rowOf(`default/d${i}`, 1, { finishedAtMs }),
          rowOf(`default/r${i}`, 1, { finishedAtMs, status: 'rolledBack' }),
        )
        rows.push(
          rowOf(`default/c${i}`, 1, { status: 'committed' }),
          rowOf(`default-1/p${i}`, 1),
          rowOf(`e/k${i}`, 1, { status: 'parked' }),
        )
      }
      await bench.store.images.checkpoint(handle, checkpointOf(0, ...rows))
    })

    const names = (letter: string): string[] =>
      Array.from({ length: 20 }, (_, i) => `default/${letter}${10 + i}`)

    test('page through one status, several, and all that live, in the order of keys, in one namespace', async () => {
      expect(await everything(['parked'])).toEqual(names('k'))
      expect(await everything(['prepared'])).toEqual(names('p'))
      expect(await everything(['delivered'])).toEqual(names('d'))
      expect(await everything(['rolledBack'])).toEqual(names('r'))
      expect(await everything(['rolledBack', 'parked', 'delivered'])).toEqual([
        ...names('d'),
        ...names('k'),
        ...names('r'),
      ])
      expect(await everything([])).toEqual([...names('c'), ...names('k'), ...names('p')])
      expect(await everything([], 'default-1')).toHaveLength(20)
      expect(await everything(['parked'], 'nobody')).toEqual([])
    })

    test('a changed status is found under the new one alone', async () => {
      const handle = await bench.store.log.claim(0)
      await bench.store.images.checkpoint(
        handle,
        checkpointOf(0, rowOf('default/k10', 2, { status: 'committed' })),
      )
      expect(await everything(['parked'])).toEqual(names('k').slice(1))
      expect(await everything(['committed'])).toEqual([...names('c'), 'default/k10'])
    })
  })
}

/** What finished is forgotten by the day. */
export function retentionContract(bench: StoreBench): void {
  describe('retention', () => {
    test('drops the days that ended before a time, and none of the last 24 hours', async () => {
      bench.setNow(NOON_MS)
      const handle = await bench.store.log.claim(0)
      const finished = (days: number): ImageRow =>
        rowOf(`default/${days}`, 1, { finishedAtMs: NOON_MS - days * DAY_MS })
      await bench.store.images.checkpoint(
        handle,
        checkpointOf(0, ...[0, 1, 2, 3].map(finished), rowOf('default/live', 1)),
      )
      // Noon a day ago lies in the day before, which had not ended then. Who asks for more gets no more.
      expect(await bench.store.images.dropFinishedBefore(NOON_MS + 10 * DAY_MS)).toBe(2)
      const found = await bench.stored('default/0', 'default/1', 'default/2', 'default/3', 'default/live')
      expect(found.map((image) => image !== undefined)).toEqual([true, true, false, false, true])
      expect(await bench.store.images.dropFinishedBefore(NOON_MS - DAY_MS)).toBe(0)
      await bench.reopen()
      expect((await bench.stored('default/1', 'default/2')).map((image) => image !== undefined)).toEqual([
        true,
        false,
      ])
      const query = { namespace: 'default', statuses: ['delivered'] as const, after: '', limit: 10 }
      expect(await bench.store.images.query(query)).toHaveLength(2)
    })

    test('a day that was dropped may begin anew', async () => {
      bench.setNow(NOON_MS)
      const handle = await bench.store.log.claim(0)
      const old = (name: string): ImageRow => rowOf(name, 1, { finishedAtMs: NOON_MS - 5 * DAY_MS })
      await bench.store.images.checkpoint(handle, checkpointOf(0, old('default/a')))
      expect(await bench.store.images.dropFinishedBefore(NOON_MS - DAY_MS)).toBe(1)
      await bench.store.images.checkpoint(handle, checkpointOf(0, old('default/b')))
      expect(await bench.stored('default/a', 'default/b')).toEqual([undefined, 'image of default/b at 1'])
      expect(await bench.store.images.dropFinishedBefore(NOON_MS - DAY_MS)).toBe(1)
    })
  })
}

async function allDue(store: Store, clock: 'log' | 'wall', limit: number, run: number): Promise<DueEntry[]> {
  const entries: DueEntry[] = []
  for (let after: DueEntry | undefined; ; ) {
    const page = await store.images.due(0, clock, Number.MAX_VALUE, after, limit)
    entries.push(...page)
    if (page.length < limit) return entries.filter((entry) => entry.key.endsWith(`-${run}`))
    after = page.at(-1)
  }
}

function expectedDue(model: Map<string, ImageRow>, clock: 'log' | 'wall'): DueEntry[] {
  const entries: DueEntry[] = []
  for (const row of model.values()) {
    const dueMs = clock === 'log' ? row.dueLogMs : row.dueWallMs
    if (dueMs !== undefined) entries.push({ key: row.key, dueMs })
  }
  return entries.sort((a, b) => a.dueMs - b.dueMs || compareKeys(a.key, b.key))
}
