/**
 * What every store promises, as tests: one suite that each adapter registers with a harness of its own. Each test gets a
 * fresh store. Damage is the adapters' own business: how to do it differs, what must come of it is in their test files.
 */
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  attributesContract,
  attributesOfOneContract,
  sharedAttributesContract,
} from './contract-attributes.ts'
import { StoreBench, type StoreHarness, sequencesOf } from './contract-bench.ts'
import { checkpointContract, largeCheckpointContract } from './contract-checkpoints.ts'
import { directoryContract } from './contract-directory.ts'
import { checkpointOf, key, segmentOf } from './contract-fixtures.ts'
import { dueContract, queryContract, retentionContract } from './contract-images.ts'
import { fenceContract, logContract } from './contract-logs.ts'

/** Registers the suite for one adapter. */
export function storeContract(name: string, makeHarness: () => Promise<StoreHarness>): void {
  const bench = new StoreBench(makeHarness)
  describe(`${name}: the store contract`, () => {
    beforeEach(() => bench.begin())
    afterEach(() => bench.end())

    logContract(bench)
    fenceContract(bench)
    checkpointContract(bench)
    largeCheckpointContract(bench)
    dueContract(bench)
    queryContract(bench)
    attributesContract(bench)
    attributesOfOneContract(bench)
    sharedAttributesContract(bench)
    retentionContract(bench)
    directoryContract(bench)

    test('a closed store serves nothing', async () => {
      const handle = await bench.store.log.claim(0)
      await bench.store.close()
      const refused = { code: 'storeUnavailable' }
      await expect(handle.append(segmentOf(1))).rejects.toMatchObject(refused)
      await expect(handle.verify()).rejects.toMatchObject(refused)
      await expect(sequencesOf(handle, 0)).rejects.toMatchObject(refused)
      await expect(bench.store.log.claim(0)).rejects.toMatchObject(refused)
      await expect(bench.store.images.load([key('default/a')])).rejects.toMatchObject(refused)
      await expect(bench.store.images.checkpoint(handle, checkpointOf(0))).rejects.toMatchObject(refused)
      await expect(bench.store.directory.get('a')).rejects.toMatchObject(refused)
      await expect(bench.store.directory.compareAndSet('a', 0, Buffer.from('x'))).rejects.toMatchObject(
        refused,
      )
      await bench.reopen()
      expect((await bench.store.log.claim(0)).claimed.head).toBe(0)
    })
  })
}
