import { describe, expect, test } from 'vitest'
import type { StoreBench } from './contract-bench.ts'

/** Entries are compared and set. */
export function directoryContract(bench: StoreBench): void {
  describe('the directory', () => {
    test('writes an entry where its version is the expected one', async () => {
      const { directory } = bench.store
      const value = (text: string): Uint8Array => Buffer.from(text)
      expect(await directory.get('a/1')).toBeUndefined()
      expect(await directory.compareAndSet('a/1', 1, value('x'))).toBeUndefined()
      expect(await directory.compareAndSet('a/1', 0, value('x'))).toBe(1)
      expect(await directory.compareAndSet('a/1', 0, value('y'))).toBeUndefined()
      expect(await directory.compareAndSet('a/1', 1, value(''))).toBe(2)
      expect(await directory.compareAndSet('a/1', 1, value('z'))).toBeUndefined()
      await bench.reopen()
      expect(await bench.store.directory.get('a/1')).toMatchObject({
        name: 'a/1',
        version: 2,
        value: new Uint8Array(0),
      })
    })

    test('lists by prefix, in order', async () => {
      for (const name of ['b', 'a/2', 'a/10', 'a/1', 'a', 'aé', 'a0', 'ÿ']) {
        await bench.store.directory.compareAndSet(name, 0, Buffer.from(name))
      }
      const names = async (prefix: string): Promise<string[]> =>
        (await bench.store.directory.list(prefix)).map((entry) => entry.name)
      expect(await names('a/')).toEqual(['a/1', 'a/10', 'a/2'])
      expect(await names('')).toEqual(['a', 'a/1', 'a/10', 'a/2', 'a0', 'aé', 'b', 'ÿ'])
      expect(await names('c')).toEqual([])
      expect(
        (await bench.store.directory.list('aé')).map((entry) => Buffer.from(entry.value).toString()),
      ).toEqual(['aé'])
    })

    test('takes an entry out where its version is the expected one, and begins anew', async () => {
      const { directory } = bench.store
      expect(await directory.remove('gone', 1)).toBe(false)
      await directory.compareAndSet('gone', 0, Buffer.from('x'))
      await directory.compareAndSet('gone', 1, Buffer.from('y'))
      expect(await directory.remove('gone', 1)).toBe(false)
      expect(await directory.remove('gone', 2)).toBe(true)
      await bench.reopen()
      expect(await bench.store.directory.get('gone')).toBeUndefined()
      expect(await bench.store.directory.list('gone')).toEqual([])
      expect(await bench.store.directory.compareAndSet('gone', 0, Buffer.from('z'))).toBe(1)
    })

    test('of writers at once exactly one succeeds', async () => {
      const writes = Array.from({ length: 10 }, (_, i) =>
        bench.store.directory.compareAndSet('name', 0, Buffer.from([i])),
      )
      const outcomes = await Promise.all(writes)
      expect(outcomes.filter((version) => version === 1)).toHaveLength(1)
      expect(outcomes.filter((version) => version === undefined)).toHaveLength(9)
    })
  })
}
