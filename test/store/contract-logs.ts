import { describe, expect, test } from 'vitest'
import { appendAll, type StoreBench, sequencesOf } from './contract-bench.ts'
import { checkpointOf, rowOf, segmentOf } from './contract-fixtures.ts'

/** A log is read back as it was appended. */
export function logContract(bench: StoreBench): void {
  describe('logs', () => {
    test('a new log is empty, and each claim raises its epoch', async () => {
      const first = await bench.store.log.claim(0)
      expect(first.claimed).toEqual({ epoch: 1, head: 0, checkpointed: 0, clock: { wallMs: 0, logMs: 0 } })
      expect((await bench.store.log.claim(0)).claimed.epoch).toBe(2)
      await bench.reopen()
      expect((await bench.store.log.claim(0)).claimed.epoch).toBe(3)
    })

    test('a store has an id of 8 characters that stays', async () => {
      const { storeId } = bench.store.log
      expect(storeId).toMatch(/^[a-z0-9]{8}$/)
      expect((await bench.reopen()).log.storeId).toBe(storeId)
    })

    test('what was appended is read back after a restart, from where one asks', async () => {
      await appendAll(await bench.store.log.claim(0), 1, 5)
      await bench.reopen()
      const handle = await bench.store.log.claim(0)
      expect(handle.claimed.head).toBe(5)
      expect(await sequencesOf(handle, 0)).toEqual([1, 2, 3, 4, 5])
      expect(await sequencesOf(handle, 3)).toEqual([4, 5])
      expect(await sequencesOf(handle, 5)).toEqual([])
    })

    test('the bytes of a segment come back as they were', async () => {
      const handle = await bench.store.log.claim(0)
      const segment = segmentOf(1, { logMs: 77.5 })
      await handle.append(segment)
      for await (const read of handle.read(0)) expect(Buffer.compare(read.bytes, segment.bytes)).toBe(0)
    })

    test('the same bytes appended again are done, whatever came after', async () => {
      const handle = await bench.store.log.claim(0)
      const segment = segmentOf(1)
      expect(await handle.append(segment)).toBe('done')
      expect(await handle.append(segment)).toBe('done')
      await appendAll(handle, 2, 3)
      expect(await handle.append(segment)).toBe('done')
      expect(handle.claimed.head).toBe(0)
      expect(await sequencesOf(handle, 0)).toEqual([1, 2, 3])
    })

    test('another segment under a taken sequence is fenced, and so is one after a gap', async () => {
      const handle = await bench.store.log.claim(0)
      await appendAll(handle, 1, 2)
      expect(await handle.append(segmentOf(2, { nonce: 2 }))).toBe('fenced')
      expect(await handle.append(segmentOf(2, { logMs: 5 }))).toBe('fenced')
      expect(await handle.append(segmentOf(4))).toBe('fenced')
      expect(await sequencesOf(handle, 0)).toEqual([1, 2])
    })
  })
}

/** A log has one writer. */
export function fenceContract(bench: StoreBench): void {
  describe('the fence of a log', () => {
    test('an earlier owner is fenced from the next claim on', async () => {
      const zombie = await bench.store.log.claim(0)
      await appendAll(zombie, 1, 2)
      const owner = await bench.store.log.claim(0)
      expect(await zombie.verify()).toBe(false)
      expect(await owner.verify()).toBe(true)
      expect(await zombie.append(segmentOf(3))).toBe('fenced')
      await appendAll(owner, 3, 3)
      expect(await zombie.append(segmentOf(4))).toBe('fenced')
      expect(await sequencesOf(owner, 0)).toEqual([1, 2, 3])
    })

    test('an earlier owner still learns that its last append got through', async () => {
      const zombie = await bench.store.log.claim(0)
      const last = segmentOf(1)
      await zombie.append(last)
      await bench.store.log.claim(0)
      expect(await zombie.append(last)).toBe('done')
    })

    test('an earlier owner stays fenced when what it wrote, and what came after, was trimmed', async () => {
      const zombie = await bench.store.log.claim(0)
      const last = segmentOf(1)
      await zombie.append(last)
      const owner = await bench.store.log.claim(0)
      await appendAll(owner, 2, 3)
      await bench.store.images.checkpoint(owner, checkpointOf(3))
      await owner.trim(3)
      expect(await sequencesOf(owner, 3)).toEqual([])
      for (const sequence of [1, 2, 3, 4]) expect(await zombie.append(segmentOf(sequence))).toBe('fenced')
      expect(await zombie.append(last)).toBe('fenced')
      await appendAll(owner, 4, 4)
    })

    test('trimming never goes beyond what is checkpointed', async () => {
      const handle = await bench.store.log.claim(0)
      await appendAll(handle, 1, 200)
      await handle.trim(200)
      expect(await sequencesOf(handle, 0)).toHaveLength(200)
      await bench.store.images.checkpoint(handle, checkpointOf(150))
      await handle.trim(200)
      expect(await sequencesOf(handle, 150)).toEqual(Array.from({ length: 50 }, (_, i) => 151 + i))
      await expect(sequencesOf(handle, 149)).rejects.toMatchObject({ code: 'storeCorrupt' })
      await handle.trim(10)
      expect(await sequencesOf(handle, 150)).toHaveLength(50)
    })

    test('a released handle owns nothing', async () => {
      const handle = await bench.store.log.claim(0)
      await handle.release()
      expect(await handle.verify()).toBe(false)
      expect(await handle.append(segmentOf(1))).toBe('fenced')
      expect(await bench.store.images.checkpoint(handle, checkpointOf(0, rowOf('default/a', 1)))).toBe(
        'fenced',
      )
      expect(await bench.stored('default/a')).toEqual([undefined])
    })

    test('of claims at once each gets an epoch of its own, and only the last owns the log', async () => {
      const handles = await Promise.all(Array.from({ length: 8 }, () => bench.store.log.claim(0)))
      const epochs = handles.map((handle) => handle.claimed.epoch)
      expect([...epochs].sort((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
      for (const handle of handles) expect(await handle.verify()).toBe(handle.claimed.epoch === 8)
    })
  })
}
