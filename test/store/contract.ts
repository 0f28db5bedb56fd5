/**
 * What every store promises, as tests. A harness opens and reopens one store; each test gets a fresh one. Damage is the
 * adapters' own business: how to do it differs, what must come of it is in their test files.
 */
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { DueEntry, ImageRow } from '../../src/store/images.ts'
import { compareKeys } from '../../src/store/images.ts'
import type { LogHandle } from '../../src/store/log.ts'
import type { Store } from '../../src/store/store.ts'
import { checkpointOf, key, NOON_MS, rowOf, segmentOf } from './contract-fixtures.ts'

/** How a suite gets at a store of its own. */
export interface StoreHarness {
  /** Opens the store, or opens it again as after a restart. */
  open(): Promise<Store>
  /** Sets the wall clock. */
  setNow(wallMs: number): void
  /** Forgets everything. */
  dispose(): Promise<void>
}

const DAY_MS = 86_400_000

/** Appends segments `from` to `to`. */
export async function appendAll(handle: LogHandle, from: number, to: number): Promise<void> {
  for (let sequence = from; sequence <= to; sequence++) {
    expect(await handle.append(segmentOf(sequence, { epoch: handle.claimed.epoch }))).toBe('done')
  }
}

/** The sequences that a log reads back. */
export async function sequencesOf(handle: LogHandle, after: number): Promise<number[]> {
  const sequences: number[] = []
  for await (const segment of handle.read(after)) sequences.push(segment.sequence)
  return sequences
}

/** Registers the suite for one adapter. */
export function storeContract(name: string, makeHarness: () => Promise<StoreHarness>): void {
  describe(`${name}: the store contract`, () => {
    let harness: StoreHarness
    let store: Store

    const reopen = async (): Promise<Store> => {
      await store.close()
      store = await harness.open()
      return store
    }
    const stored = async (...names: string[]): Promise<(string | undefined)[]> => {
      const found = await store.images.load(names.map(key))
      return found.map((image) => image && Buffer.from(image.bytes).toString())
    }

    beforeEach(async () => {
      harness = await makeHarness()
      store = await harness.open()
    })

    afterEach(async () => {
      await store.close()
      await harness.dispose()
    })

    describe('logs', () => {
      test('a new log is empty, and each claim raises its epoch', async () => {
        const first = await store.log.claim(0)
        expect(first.claimed).toEqual({ epoch: 1, head: 0, checkpointed: 0, clock: { wallMs: 0, logMs: 0 } })
        expect((await store.log.claim(0)).claimed.epoch).toBe(2)
        await reopen()
        expect((await store.log.claim(0)).claimed.epoch).toBe(3)
      })

      test('a store has an id of 8 characters that stays', async () => {
        const { storeId } = store.log
        expect(storeId).toMatch(/^[a-z0-9]{8}$/)
        expect((await reopen()).log.storeId).toBe(storeId)
      })

      test('what was appended is read back after a restart, from where one asks', async () => {
        await appendAll(await store.log.claim(0), 1, 5)
        await reopen()
        const handle = await store.log.claim(0)
        expect(handle.claimed.head).toBe(5)
        expect(await sequencesOf(handle, 0)).toEqual([1, 2, 3, 4, 5])
        expect(await sequencesOf(handle, 3)).toEqual([4, 5])
        expect(await sequencesOf(handle, 5)).toEqual([])
      })

      test('the bytes of a segment come back as they were', async () => {
        const handle = await store.log.claim(0)
        const segment = segmentOf(1, { logMs: 77.5 })
        await handle.append(segment)
        for await (const read of handle.read(0)) expect(Buffer.compare(read.bytes, segment.bytes)).toBe(0)
      })

      test('the same bytes appended again are done, whatever came after', async () => {
        const handle = await store.log.claim(0)
        const segment = segmentOf(1)
        expect(await handle.append(segment)).toBe('done')
        expect(await handle.append(segment)).toBe('done')
        await appendAll(handle, 2, 3)
        expect(await handle.append(segment)).toBe('done')
        expect(handle.claimed.head).toBe(0)
        expect(await sequencesOf(handle, 0)).toEqual([1, 2, 3])
      })

      test('another segment under a taken sequence is fenced, and so is one after a gap', async () => {
        const handle = await store.log.claim(0)
        await appendAll(handle, 1, 2)
        expect(await handle.append(segmentOf(2, { nonce: 2 }))).toBe('fenced')
        expect(await handle.append(segmentOf(2, { logMs: 5 }))).toBe('fenced')
        expect(await handle.append(segmentOf(4))).toBe('fenced')
        expect(await sequencesOf(handle, 0)).toEqual([1, 2])
      })

      test('an earlier owner is fenced from the next claim on', async () => {
        const zombie = await store.log.claim(0)
        await appendAll(zombie, 1, 2)
        const owner = await store.log.claim(0)
        expect(await zombie.verify()).toBe(false)
        expect(await owner.verify()).toBe(true)
        expect(await zombie.append(segmentOf(3))).toBe('fenced')
        await appendAll(owner, 3, 3)
        expect(await zombie.append(segmentOf(4))).toBe('fenced')
        expect(await sequencesOf(owner, 0)).toEqual([1, 2, 3])
      })

      test('an earlier owner still learns that its last append got through', async () => {
        const zombie = await store.log.claim(0)
        const last = segmentOf(1)
        await zombie.append(last)
        await store.log.claim(0)
        expect(await zombie.append(last)).toBe('done')
      })

      test('an earlier owner stays fenced when what it wrote, and what came after, was trimmed', async () => {
        const zombie = await store.log.claim(0)
        const last = segmentOf(1)
        await zombie.append(last)
        const owner = await store.log.claim(0)
        await appendAll(owner, 2, 3)
        await store.images.checkpoint(owner, checkpointOf(3))
        await owner.trim(3)
        expect(await sequencesOf(owner, 3)).toEqual([])
        for (const sequence of [1, 2, 3, 4]) expect(await zombie.append(segmentOf(sequence))).toBe('fenced')
        expect(await zombie.append(last)).toBe('fenced')
        await appendAll(owner, 4, 4)
      })

      test('trimming never goes beyond what is checkpointed', async () => {
        const handle = await store.log.claim(0)
        await appendAll(handle, 1, 200)
        await handle.trim(200)
        expect(await sequencesOf(handle, 0)).toHaveLength(200)
        await store.images.checkpoint(handle, checkpointOf(150))
        await handle.trim(200)
        expect(await sequencesOf(handle, 150)).toEqual(Array.from({ length: 50 }, (_, i) => 151 + i))
        await expect(sequencesOf(handle, 149)).rejects.toMatchObject({ code: 'storeCorrupt' })
        await handle.trim(10)
        expect(await sequencesOf(handle, 150)).toHaveLength(50)
      })

      test('a released handle owns nothing', async () => {
        const handle = await store.log.claim(0)
        await handle.release()
        expect(await handle.verify()).toBe(false)
        expect(await handle.append(segmentOf(1))).toBe('fenced')
        expect(await store.images.checkpoint(handle, checkpointOf(0, rowOf('default/a', 1)))).toBe('fenced')
        expect(await stored('default/a')).toEqual([undefined])
      })

      test('of claims at once each gets an epoch of its own, and only the last owns the log', async () => {
        const handles = await Promise.all(Array.from({ length: 8 }, () => store.log.claim(0)))
        const epochs = handles.map((handle) => handle.claimed.epoch)
        expect([...epochs].sort((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
        for (const handle of handles) expect(await handle.verify()).toBe(handle.claimed.epoch === 8)
      })
    })

    describe('checkpoints', () => {
      test('rows are there after a restart, with what the log says', async () => {
        const handle = await store.log.claim(0)
        await appendAll(handle, 1, 3)
        const rows = [
          rowOf('default/a', 2, { dueLogMs: 5 }),
          rowOf('default/b', 3, { finishedAtMs: NOON_MS }),
        ]
        expect(await store.images.checkpoint(handle, checkpointOf(3, ...rows))).toBe('done')
        await reopen()
        expect(
          await store.images.load([key('default/b'), key('default/nobody'), key('default/a')]),
        ).toMatchObject([{ sequence: 3, finishedAtMs: NOON_MS }, undefined, { sequence: 2, finishedAtMs: 0 }])
        expect(await stored('default/a')).toEqual(['image of default/a at 2'])
        const { claimed } = await store.log.claim(0)
        expect(claimed).toMatchObject({ head: 3, checkpointed: 3, clock: { wallMs: NOON_MS, logMs: 3 } })
      })

      test("a zombie's checkpoint is fenced and changes nothing", async () => {
        const zombie = await store.log.claim(0)
        await appendAll(zombie, 1, 2)
        const owner = await store.log.claim(0)
        expect(
          await store.images.checkpoint(zombie, checkpointOf(2, rowOf('default/a', 2, { dueLogMs: 1 }))),
        ).toBe('fenced')
        expect(await store.images.checkpoint(zombie, checkpointOf(2))).toBe('fenced')
        expect(await stored('default/a')).toEqual([undefined])
        expect(await store.images.due(0, 'log', 10, undefined, 10)).toEqual([])
        expect((await store.log.claim(0)).claimed.checkpointed).toBe(0)
        expect(await owner.verify()).toBe(false)
      })

      test('a row is never replaced by one of a lower sequence', async () => {
        const handle = await store.log.claim(0)
        await appendAll(handle, 1, 3)
        await store.images.checkpoint(handle, checkpointOf(1, rowOf('default/a', 3, { dueLogMs: 30 })))
        await store.images.checkpoint(handle, checkpointOf(1, rowOf('default/a', 2, { dueLogMs: 20 })))
        expect(await stored('default/a')).toEqual(['image of default/a at 3'])
        expect(await store.images.due(0, 'log', 99, undefined, 10)).toEqual([{ key: 'default/a', dueMs: 30 }])
        await store.images.checkpoint(
          handle,
          checkpointOf(1, rowOf('default/a', 3, { finishedAtMs: NOON_MS })),
        )
        await store.images.checkpoint(handle, checkpointOf(1, rowOf('default/a', 2, { dueLogMs: 20 })))
        expect(await store.images.load([key('default/a')])).toMatchObject([
          { sequence: 3, finishedAtMs: NOON_MS },
        ])
        expect(await store.images.due(0, 'log', 99, undefined, 10)).toEqual([])
      })

      test('the same checkpoint again changes nothing, and an older one never lowers what is checkpointed', async () => {
        const handle = await store.log.claim(0)
        await appendAll(handle, 1, 3)
        const checkpoint = checkpointOf(
          3,
          rowOf('default/a', 3, { dueWallMs: 9 }),
          rowOf('default/b', 3, { finishedAtMs: NOON_MS }),
        )
        for (let time = 1; time <= 2; time++)
          expect(await store.images.checkpoint(handle, checkpoint)).toBe('done')
        await store.images.checkpoint(handle, checkpointOf(2))
        expect((await store.log.claim(0)).claimed.checkpointed).toBe(3)
        expect(await stored('default/a', 'default/b')).toEqual([
          'image of default/a at 3',
          'image of default/b at 3',
        ])
        expect(await store.images.due(0, 'wall', 99, undefined, 10)).toHaveLength(1)
      })

      test('what finished leaves the due index and the living', async () => {
        const handle = await store.log.claim(0)
        await appendAll(handle, 1, 2)
        const parked = rowOf('default/a', 1, { status: 'parked', dueLogMs: 4, dueWallMs: 5 })
        await store.images.checkpoint(handle, checkpointOf(1, parked))
        await store.images.checkpoint(
          handle,
          checkpointOf(2, rowOf('default/a', 2, { finishedAtMs: NOON_MS, status: 'rolledBack' })),
        )
        for (const clock of ['log', 'wall'] as const)
          expect(await store.images.due(0, clock, 99, undefined, 10)).toEqual([])
        const query = { namespace: 'default', after: '', limit: 10 }
        expect(await store.images.query({ ...query, statuses: ['parked'] })).toEqual([])
        expect(await store.images.query({ ...query, statuses: [] })).toEqual([])
        expect(await store.images.query({ ...query, statuses: ['rolledBack'] })).toMatchObject([
          { key: 'default/a' },
        ])
      })

      test('many rows, large and small, and keys of any length and script', async () => {
        const handle = await store.log.claim(0)
        await appendAll(handle, 1, 1)
        const names = ['a', 'ü', '日本', '𝒳', 'z'.repeat(512), '~{x}~1'].map((name) => `default/${name}`)
        const many = Array.from({ length: 2_000 }, (_, i) => `default/many-${i}`)
        const rows = [...names, ...many].map((name) => rowOf(name, 1, { dueLogMs: 1 }))
        rows.push(rowOf('default/large', 1, { bytes: Buffer.alloc(3 << 20, 'x') }))
        expect(await store.images.checkpoint(handle, checkpointOf(1, ...rows))).toBe('done')
        expect(await stored(...names)).toEqual(names.map((name) => `image of ${name} at 1`))
        expect((await stored('default/large'))[0]).toHaveLength(3 << 20)
        const due = await store.images.due(0, 'log', 1, undefined, 5_000)
        expect(due.map((entry) => entry.key)).toEqual([...names, ...many].sort(compareKeys))
      })
    })

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
        const handle = await store.log.claim(0)
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
              await store.images.checkpoint(handle, checkpointOf(1, ...possible))
            }
            for (const clock of ['log', 'wall'] as const) {
              expect(await allDue(store, clock, limit, run)).toEqual(expectedDue(model, clock))
            }
          }),
          { numRuns: 25 },
        )
      })

      test('gives what is due up to a time, that time included, of its log and clock alone', async () => {
        const handle = await store.log.claim(0)
        const rows = [1, 2, 2.5, 3].map((dueLogMs) =>
          rowOf(`default/${dueLogMs}`, 1, { dueLogMs, dueWallMs: 100 }),
        )
        await store.images.checkpoint(handle, checkpointOf(0, ...rows))
        const until = async (untilMs: number): Promise<number[]> =>
          (await store.images.due(0, 'log', untilMs, undefined, 10)).map((entry) => entry.dueMs)
        expect(await until(0)).toEqual([])
        expect(await until(2.5)).toEqual([1, 2, 2.5])
        expect(await until(Number.MAX_SAFE_INTEGER)).toEqual([1, 2, 2.5, 3])
        expect(await store.images.due(0, 'wall', 99, undefined, 10)).toEqual([])
        expect(await store.images.due(0, 'log', 99, undefined, 2)).toHaveLength(2)
        expect(await store.images.due(0, 'log', 99, { key: key('default/3'), dueMs: 3 }, 2)).toEqual([])
      })
    })

    describe('queries', () => {
      const everything = async (
        statuses: ImageRow['status'][],
        namespace = 'default',
        limit = 3,
      ): Promise<string[]> => {
        const keys: string[] = []
        for (let after = ''; ; ) {
          const page = await store.images.query({ namespace, statuses, after, limit })
          for (const { key: found, stored: image } of page) {
            expect(Buffer.from(image.bytes).toString()).toContain(`image of ${found} at`)
            keys.push(found)
          }
          if (page.length < limit) return keys
          after = keys.at(-1) as string
        }
      }

      beforeEach(async () => {
        const handle = await store.log.claim(0)
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
        await store.images.checkpoint(handle, checkpointOf(0, ...rows))
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
        const handle = await store.log.claim(0)
        await store.images.checkpoint(
          handle,
          checkpointOf(0, rowOf('default/k10', 2, { status: 'committed' })),
        )
        expect(await everything(['parked'])).toEqual(names('k').slice(1))
        expect(await everything(['committed'])).toEqual([...names('c'), 'default/k10'])
      })
    })

    describe('retention', () => {
      test('drops the days that ended before a time, and none of the last 24 hours', async () => {
        harness.setNow(NOON_MS)
        const handle = await store.log.claim(0)
        const finished = (days: number): ImageRow =>
          rowOf(`default/${days}`, 1, { finishedAtMs: NOON_MS - days * DAY_MS })
        await store.images.checkpoint(
          handle,
          checkpointOf(0, ...[0, 1, 2, 3].map(finished), rowOf('default/live', 1)),
        )
        // Noon a day ago lies in the day before, which had not ended then.
        expect(await store.images.dropFinishedBefore(NOON_MS - DAY_MS)).toBe(2)
        const found = await stored('default/0', 'default/1', 'default/2', 'default/3', 'default/live')
        expect(found.map((image) => image !== undefined)).toEqual([true, true, false, false, true])
        expect(await store.images.dropFinishedBefore(NOON_MS - DAY_MS)).toBe(0)
        await reopen()
        expect((await stored('default/1', 'default/2')).map((image) => image !== undefined)).toEqual([
          true,
          false,
        ])
        const query = { namespace: 'default', statuses: ['delivered'] as const, after: '', limit: 10 }
        expect(await store.images.query(query)).toHaveLength(2)
      })

      test('a day that was dropped may begin anew', async () => {
        harness.setNow(NOON_MS)
        const handle = await store.log.claim(0)
        const old = (name: string): ImageRow => rowOf(name, 1, { finishedAtMs: NOON_MS - 5 * DAY_MS })
        await store.images.checkpoint(handle, checkpointOf(0, old('default/a')))
        expect(await store.images.dropFinishedBefore(NOON_MS - DAY_MS)).toBe(1)
        await store.images.checkpoint(handle, checkpointOf(0, old('default/b')))
        expect(await stored('default/a', 'default/b')).toEqual([undefined, 'image of default/b at 1'])
        expect(await store.images.dropFinishedBefore(NOON_MS - DAY_MS)).toBe(1)
      })
    })

    describe('the directory', () => {
      test('writes an entry where its version is the expected one', async () => {
        const { directory } = store
        const value = (text: string): Uint8Array => Buffer.from(text)
        expect(await directory.get('a/1')).toBeUndefined()
        expect(await directory.compareAndSet('a/1', 1, value('x'))).toBeUndefined()
        expect(await directory.compareAndSet('a/1', 0, value('x'))).toBe(1)
        expect(await directory.compareAndSet('a/1', 0, value('y'))).toBeUndefined()
        expect(await directory.compareAndSet('a/1', 1, value(''))).toBe(2)
        expect(await directory.compareAndSet('a/1', 1, value('z'))).toBeUndefined()
        await reopen()
        expect(await store.directory.get('a/1')).toMatchObject({
          name: 'a/1',
          version: 2,
          value: new Uint8Array(0),
        })
      })

      test('lists by prefix, in order', async () => {
        for (const name of ['b', 'a/2', 'a/10', 'a/1', 'a', 'aé', 'a0', 'ÿ']) {
          await store.directory.compareAndSet(name, 0, Buffer.from(name))
        }
        const names = async (prefix: string): Promise<string[]> =>
          (await store.directory.list(prefix)).map((entry) => entry.name)
        expect(await names('a/')).toEqual(['a/1', 'a/10', 'a/2'])
        expect(await names('')).toEqual(['a', 'a/1', 'a/10', 'a/2', 'a0', 'aé', 'b', 'ÿ'])
        expect(await names('c')).toEqual([])
        expect(
          (await store.directory.list('aé')).map((entry) => Buffer.from(entry.value).toString()),
        ).toEqual(['aé'])
      })

      test('of writers at once exactly one succeeds', async () => {
        const writes = Array.from({ length: 10 }, (_, i) =>
          store.directory.compareAndSet('name', 0, Buffer.from([i])),
        )
        const outcomes = await Promise.all(writes)
        expect(outcomes.filter((version) => version === 1)).toHaveLength(1)
        expect(outcomes.filter((version) => version === undefined)).toHaveLength(9)
      })
    })

    test('a closed store serves nothing', async () => {
      const handle = await store.log.claim(0)
      await store.close()
      const refused = { code: 'storeUnavailable' }
      await expect(handle.append(segmentOf(1))).rejects.toMatchObject(refused)
      await expect(handle.verify()).rejects.toMatchObject(refused)
      await expect(sequencesOf(handle, 0)).rejects.toMatchObject(refused)
      await expect(store.log.claim(0)).rejects.toMatchObject(refused)
      await expect(store.images.load([key('default/a')])).rejects.toMatchObject(refused)
      await expect(store.images.checkpoint(handle, checkpointOf(0))).rejects.toMatchObject(refused)
      await expect(store.directory.get('a')).rejects.toMatchObject(refused)
      await expect(store.directory.compareAndSet('a', 0, Buffer.from('x'))).rejects.toMatchObject(refused)
      store = await harness.open()
      expect((await store.log.claim(0)).claimed.head).toBe(0)
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
