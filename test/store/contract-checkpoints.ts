import { describe, expect, test } from 'vitest'
import { compareKeys } from '../../src/store/images.ts'
import { appendAll, type StoreBench } from './contract-bench.ts'
import { checkpointOf, key, NOON_MS, rowOf } from './contract-fixtures.ts'

/** A checkpoint writes images, fenced, and lowers nothing. */
export function checkpointContract(bench: StoreBench): void {
  describe('checkpoints', () => {
    test('rows are there after a restart, with what the log says', async () => {
      const handle = await bench.store.log.claim(0)
      await appendAll(handle, 1, 3)
      const rows = [rowOf('default/a', 2, { dueLogMs: 5 }), rowOf('default/b', 3, { finishedAtMs: NOON_MS })]
      expect(await bench.store.images.checkpoint(handle, checkpointOf(3, ...rows))).toBe('done')
      await bench.reopen()
      expect(
        await bench.store.images.load([key('default/b'), key('default/nobody'), key('default/a')]),
      ).toMatchObject([{ sequence: 3, finishedAtMs: NOON_MS }, undefined, { sequence: 2, finishedAtMs: 0 }])
      expect(await bench.stored('default/a')).toEqual(['image of default/a at 2'])
      const { claimed } = await bench.store.log.claim(0)
      expect(claimed).toMatchObject({ head: 3, checkpointed: 3, clock: { wallMs: NOON_MS, logMs: 3 } })
    })

    test('a row that was new is replaced, taken from the due index and moved like any other', async () => {
      const handle = await bench.store.log.claim(0)
      await appendAll(handle, 1, 3)
      const news = ['default/a', 'default/b'].map((name) => ({
        ...rowOf(name, 1, { dueLogMs: 5 }),
        isNew: true,
      }))
      await bench.store.images.checkpoint(handle, checkpointOf(1, ...news))
      const due = async () =>
        (await bench.store.images.due(0, 'log', 100, undefined, 10)).map(
          (each) => `${each.key} ${each.dueMs}`,
        )
      expect(await due()).toEqual(['default/a 5', 'default/b 5'])
      const changed = [
        rowOf('default/a', 2, { dueLogMs: 7 }),
        rowOf('default/b', 3, { finishedAtMs: NOON_MS }),
      ]
      await bench.store.images.checkpoint(handle, checkpointOf(3, ...changed))
      expect(await due()).toEqual(['default/a 7'])
      const rows = await bench.store.images.load([key('default/a'), key('default/b')])
      expect(rows).toMatchObject([
        { sequence: 2, finishedAtMs: 0 },
        { sequence: 3, finishedAtMs: NOON_MS },
      ])
    })

    test("a zombie's checkpoint is fenced and changes nothing", async () => {
      const zombie = await bench.store.log.claim(0)
      await appendAll(zombie, 1, 2)
      const owner = await bench.store.log.claim(0)
      expect(
        await bench.store.images.checkpoint(zombie, checkpointOf(2, rowOf('default/a', 2, { dueLogMs: 1 }))),
      ).toBe('fenced')
      expect(await bench.store.images.checkpoint(zombie, checkpointOf(2))).toBe('fenced')
      expect(await bench.stored('default/a')).toEqual([undefined])
      expect(await bench.store.images.due(0, 'log', 10, undefined, 10)).toEqual([])
      expect((await bench.store.log.claim(0)).claimed.checkpointed).toBe(0)
      expect(await owner.verify()).toBe(false)
    })

    test('a row is never replaced by one of a lower sequence', async () => {
      const handle = await bench.store.log.claim(0)
      await appendAll(handle, 1, 3)
      await bench.store.images.checkpoint(handle, checkpointOf(1, rowOf('default/a', 3, { dueLogMs: 30 })))
      await bench.store.images.checkpoint(handle, checkpointOf(1, rowOf('default/a', 2, { dueLogMs: 20 })))
      expect(await bench.stored('default/a')).toEqual(['image of default/a at 3'])
      expect(await bench.store.images.due(0, 'log', 99, undefined, 10)).toEqual([
        { key: 'default/a', dueMs: 30 },
      ])
      await bench.store.images.checkpoint(
        handle,
        checkpointOf(1, rowOf('default/a', 3, { finishedAtMs: NOON_MS })),
      )
      await bench.store.images.checkpoint(handle, checkpointOf(1, rowOf('default/a', 2, { dueLogMs: 20 })))
      expect(await bench.store.images.load([key('default/a')])).toMatchObject([
        { sequence: 3, finishedAtMs: NOON_MS },
      ])
      expect(await bench.store.images.due(0, 'log', 99, undefined, 10)).toEqual([])
    })
  })
}

/** A checkpoint may be repeated, and large. */
export function largeCheckpointContract(bench: StoreBench): void {
  describe('checkpoints, repeated and large', () => {
    test('the same checkpoint again changes nothing, and an older one never lowers what is checkpointed', async () => {
      const handle = await bench.store.log.claim(0)
      await appendAll(handle, 1, 3)
      const checkpoint = checkpointOf(
        3,
        rowOf('default/a', 3, { dueWallMs: 9 }),
        rowOf('default/b', 3, { finishedAtMs: NOON_MS }),
      )
      for (let time = 1; time <= 2; time++)
        expect(await bench.store.images.checkpoint(handle, checkpoint)).toBe('done')
      await bench.store.images.checkpoint(handle, checkpointOf(2))
      expect((await bench.store.log.claim(0)).claimed.checkpointed).toBe(3)
      expect(await bench.stored('default/a', 'default/b')).toEqual([
        'image of default/a at 3',
        'image of default/b at 3',
      ])
      expect(await bench.store.images.due(0, 'wall', 99, undefined, 10)).toHaveLength(1)
    })

    test('what finished leaves the due index and the living', async () => {
      const handle = await bench.store.log.claim(0)
      await appendAll(handle, 1, 2)
      const parked = rowOf('default/a', 1, { status: 'parked', dueLogMs: 4, dueWallMs: 5 })
      await bench.store.images.checkpoint(handle, checkpointOf(1, parked))
      await bench.store.images.checkpoint(
        handle,
        checkpointOf(2, rowOf('default/a', 2, { finishedAtMs: NOON_MS, status: 'rolledBack' })),
      )
      for (const clock of ['log', 'wall'] as const)
        expect(await bench.store.images.due(0, clock, 99, undefined, 10)).toEqual([])
      const query = { namespace: 'default', after: '', limit: 10 }
      expect(await bench.store.images.query({ ...query, statuses: ['parked'] })).toEqual([])
      expect(await bench.store.images.query({ ...query, statuses: [] })).toEqual([])
      expect(await bench.store.images.query({ ...query, statuses: ['rolledBack'] })).toMatchObject([
        { key: 'default/a' },
      ])
    })

    test('many rows, large and small, and keys of any length and script', async () => {
      const handle = await bench.store.log.claim(0)
      await appendAll(handle, 1, 1)
      const names = ['a', 'ü', '日本', '𝒳', 'z'.repeat(512), '~{x}~1'].map((name) => `default/${name}`)
      const many = Array.from({ length: 2_000 }, (_, i) => `default/many-${i}`)
      const rows = [...names, ...many].map((name) => rowOf(name, 1, { dueLogMs: 1 }))
      rows.push(rowOf('default/large', 1, { bytes: Buffer.alloc(3 << 20, 'x') }))
      expect(await bench.store.images.checkpoint(handle, checkpointOf(1, ...rows))).toBe('done')
      expect(await bench.stored(...names)).toEqual(names.map((name) => `image of ${name} at 1`))
      expect((await bench.stored('default/large'))[0]).toHaveLength(3 << 20)
      const due = await bench.store.images.due(0, 'log', 1, undefined, 5_000)
      expect(due.map((entry) => entry.key)).toEqual([...names, ...many].sort(compareKeys))
    })
  })
}
