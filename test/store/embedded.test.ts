import { randomBytes } from 'node:crypto'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Environment } from '../../src/store/embedded/environment.ts'
import { type EmbeddedStoreOptions, openEmbeddedStore } from '../../src/store/embedded/store.ts'
import type { ImageRow } from '../../src/store/images.ts'
import type { Store } from '../../src/store/store.ts'
import { storeContract } from './contract.ts'
import { appendAll, sequencesOf } from './contract-bench.ts'
import { checkpointOf, key, NOON_MS, rowOf, segmentOf } from './contract-fixtures.ts'
import { tamper } from './tampering.ts'

let path: string

const openStore = (options: Partial<EmbeddedStoreOptions> = {}): Promise<Store> =>
  openEmbeddedStore({ path, now: () => NOON_MS, random: (bytes) => randomBytes(bytes), ...options })

const newPath = (): string => join(mkdtempSync(join(tmpdir(), 'escrow-store-')), 'store')
const forget = (): void => rmSync(join(path, '..'), { recursive: true, force: true })

storeContract('embedded', async () => {
  path = newPath()
  let nowMs = NOON_MS
  return {
    open: () => openStore({ now: () => nowMs }),
    setNow: (wallMs) => {
      nowMs = wallMs
    },
    dispose: async () => forget(),
  }
})

/** Flips one bit of the one place in a file where these bytes stand. */
function flip(file: string, marker: string): void {
  const bytes = readFileSync(file)
  const at = bytes.indexOf(marker)
  expect(at).toBeGreaterThan(0)
  expect(bytes.indexOf(marker, at + 1)).toBe(-1)
  bytes[at + 3]! ^= 4
  writeFileSync(file, bytes)
}

describe('embedded', () => {
  beforeEach(() => {
    path = newPath()
  })

  afterEach(forget)

  describe('opening', () => {
    test('files and folders are for their owner only', async () => {
      const store = await openStore()
      for (const folder of ['', 'log', 'images', 'owner']) {
        expect(statSync(join(path, folder)).mode & 0o777).toBe(0o700)
        if (folder === '') continue
        for (const file of ['data.mdb', 'lock.mdb'])
          expect(statSync(join(path, folder, file)).mode & 0o777).toBe(0o600)
      }
      await store.close()
    })

    test.each([
      ['an empty path', { path: '' }],
      ['a retention below 24 hours', { retentionMs: 86_399_999 }],
      ['a retention beyond 31 days', { retentionMs: 32 * 86_400_000 }],
      ['a retention that is no number', { retentionMs: Number.NaN }],
    ])('%s is refused', async (_, options) => {
      await expect(openStore(options)).rejects.toMatchObject({ code: 'invalidArgument' })
    })

    test('a path that cannot be a folder is refused, and named', async () => {
      mkdirSync(join(path, '..'), { recursive: true })
      writeFileSync(path, 'a file')
      await expect(openStore()).rejects.toMatchObject({ code: 'invalidArgument' })
      await expect(openStore()).rejects.toThrow(path)
    })

    test('a newer format is refused', async () => {
      await (await openStore()).close()
      await tamper(path, 'log', 'meta', false, (meta) =>
        meta.put(Buffer.from('store'), Buffer.from(JSON.stringify({ format: 3, something: 'else' }))),
      )
      await expect(openStore()).rejects.toMatchObject({ code: 'storeFormat' })
      await expect(openStore()).rejects.toThrow(/has format 3, this version knows formats up to 2/)
    })

    test('an identity that cannot be read is storeCorrupt', async () => {
      await (await openStore()).close()
      await tamper(path, 'log', 'meta', false, (meta) => meta.put(Buffer.from('store'), Buffer.from('{')))
      await expect(openStore()).rejects.toMatchObject({ code: 'storeCorrupt' })
    })

    test('a log without its images, images without their log, and halves of two stores are storeCorrupt', async () => {
      const store = await openStore()
      await store.log.claim(0)
      await store.close()
      const first = path
      rmSync(join(path, 'images'), { recursive: true })
      await expect(openStore()).rejects.toThrow(/folder 'images' is empty/)
      path = join(path, '..', 'second')
      await (await openStore()).close()
      rmSync(join(path, 'log'), { recursive: true })
      await expect(openStore()).rejects.toThrow(/folder 'log' is empty/)
      rmSync(join(first, 'images'), { recursive: true })
      cpSync(join(path, 'images'), join(first, 'images'), { recursive: true })
      path = first
      await expect(openStore()).rejects.toThrow(/has the log of .* and the images of/)
    })

    test('a store whose making was cut short between its halves is made whole', async () => {
      await (await openStore()).close()
      rmSync(join(path, 'images'), { recursive: true })
      const store = await openStore()
      await appendAll(await store.log.claim(0), 1, 1)
      await store.close()
    })

    test('the same process opens it once at a time', async () => {
      const store = await openStore()
      await expect(openStore()).rejects.toMatchObject({
        code: 'storeInUse',
        details: { pid: String(process.pid) },
      })
      await appendAll(await store.log.claim(0), 1, 1)
      await store.close()
      await (await openStore()).close()
    })
  })

  describe('a checkpoint that stops', () => {
    /** What the log would have: the rows of a checkpoint that gets stuck, as records after the last one that is done. */
    const rows = Array.from({ length: 6_800 }, (_, i): ImageRow => {
      const finishedAtMs = i % 3 === 0 ? NOON_MS : 0
      return rowOf(
        `default/${i}`,
        2,
        finishedAtMs === 0 ? { dueLogMs: i, status: 'parked' } : { finishedAtMs },
      )
    })
    const before = rows.map((row) => rowOf(row.key, 1, { dueWallMs: 5 }))

    test.each([1, 2, 3, 4, 5])(
      'after internal write %i leaves whole rows, and the log says how far it got',
      async (stopAt) => {
        let writes = -4 - 1
        const store = await openStore({
          afterWrite: () => {
            writes += 1
            if (writes === stopAt) throw new Error('stopped')
          },
        })
        const handle = await store.log.claim(0)
        await appendAll(handle, 1, 2)
        await store.images.checkpoint(handle, checkpointOf(1, ...before))
        const stopped = store.images.checkpoint(handle, checkpointOf(2, ...rows))
        // 6,800 rows are four writes, and one that advances `checkpointed`.
        await expect(stopped).rejects.toThrow('stopped')
        await store.close()

        const reopened = await openStore()
        const owner = await reopened.log.claim(0)
        expect(owner.claimed.checkpointed).toBe(stopAt === 5 ? 2 : 1)
        expect(await sequencesOf(owner, owner.claimed.checkpointed)).toEqual(stopAt === 5 ? [] : [2])
        const loaded = await reopened.images.load(rows.map((row) => row.key))
        const isNew = loaded.map((image) => image?.sequence === 2)
        expect(isNew.filter(Boolean)).toHaveLength(Math.min(rows.length, stopAt * 2_000))
        // Every row agrees with its places in the indexes.
        const due = await reopened.images.due(0, 'log', 1e9, undefined, 10_000)
        const wall = await reopened.images.due(0, 'wall', 1e9, undefined, 10_000)
        const newAndLive = rows.filter((row, i) => isNew[i] && row.finishedAtMs === 0)
        expect(due.map((entry) => entry.key).sort()).toEqual(newAndLive.map((row) => row.key).sort())
        expect(wall).toHaveLength(isNew.filter((is) => !is).length)
        // Doing it again ends where it would have.
        await reopened.images.checkpoint(owner, checkpointOf(2, ...rows))
        expect((await reopened.images.due(0, 'wall', 1e9, undefined, 10)).length).toBe(0)
        expect(await reopened.images.due(0, 'log', 1e9, undefined, 10_000)).toHaveLength(
          rows.filter((row) => row.finishedAtMs === 0).length,
        )
        await reopened.close()
      },
    )

    test('because another claimed the log stops at its next write', async () => {
      let claimNow = async (): Promise<void> => {}
      const store = await openStore({ afterWrite: () => void claimNow() })
      const zombie = await store.log.claim(0)
      await appendAll(zombie, 1, 2)
      let claimed: Promise<unknown> | undefined
      claimNow = async () => {
        claimed ??= store.log.claim(0)
      }
      expect(await store.images.checkpoint(zombie, checkpointOf(2, ...rows))).toBe('fenced')
      await claimed
      expect((await store.log.claim(0)).claimed.checkpointed).toBe(0)
      await store.close()
    })
  })

  describe('damage', () => {
    test('a flipped bit in a segment is storeCorrupt, and says which segment', async () => {
      const store = await openStore()
      const handle = await store.log.claim(0)
      await appendAll(handle, 1, 1)
      const base = segmentOf(2).bytes
      await handle.append({
        sequence: 2,
        bytes: Buffer.concat([base.subarray(0, -4), Buffer.from('a marker in segment 2'), base.subarray(-4)]),
      })
      await store.close()
      flip(join(path, 'log/data.mdb'), 'a marker in segment 2')
      const reopened = await openStore()
      const read = sequencesOf(await reopened.log.claim(0), 0)
      await expect(read).rejects.toMatchObject({ code: 'storeCorrupt' })
      await expect(read).rejects.toThrow(/log 0, segment 2: its checksum is wrong.*restore/)
      await reopened.close()
    })

    test('a flipped bit in an image is storeCorrupt, and says whose', async () => {
      const store = await openStore()
      const handle = await store.log.claim(0)
      await store.images.checkpoint(
        handle,
        checkpointOf(
          0,
          rowOf('default/a', 1),
          rowOf('default/b', 1, { bytes: Buffer.from('a marker in b') }),
        ),
      )
      await store.close()
      flip(join(path, 'images/data.mdb'), 'a marker in b')
      const reopened = await openStore()
      expect(await reopened.images.load([key('default/a')])).toMatchObject([{ sequence: 1 }])
      const refused = {
        code: 'storeCorrupt',
        message: expect.stringMatching(/transaction default\/b: its checksum is wrong.*restore/),
      }
      await expect(reopened.images.load([key('default/b')])).rejects.toMatchObject(refused)
      const owner = await reopened.log.claim(0)
      await expect(
        reopened.images.checkpoint(owner, checkpointOf(0, rowOf('default/b', 2))),
      ).rejects.toMatchObject(refused)
      const query = { namespace: 'default', statuses: [], after: '', limit: 10 }
      await expect(reopened.images.query(query)).rejects.toMatchObject(refused)
      await reopened.close()
    })

    test("a flipped bit in a directory's entry is storeCorrupt, and says which", async () => {
      const store = await openStore()
      await store.directory.compareAndSet('checker/orders', 0, Buffer.from('a marker in an entry'))
      await store.close()
      flip(join(path, 'log/data.mdb'), 'a marker in an entry')
      const reopened = await openStore()
      await expect(reopened.directory.get('checker/orders')).rejects.toThrow(
        /entry "checker\/orders": its checksum is wrong/,
      )
      await reopened.close()
    })

    test("a wrong byte in a log's row is storeCorrupt", async () => {
      const store = await openStore()
      await store.log.claim(0)
      await store.close()
      const head = Buffer.from([2, 0, 0, 0, 0])
      await tamper(path, 'log', 'fences', true, (fences) => fences.put(head, Buffer.from('not a head!!'), 0))
      const reopened = await openStore()
      await expect(reopened.log.claim(0)).rejects.toThrow(/log 0, its head: its checksum is wrong/)
      await reopened.close()
    })

    test('a missing segment is storeCorrupt, and named', async () => {
      const store = await openStore()
      await appendAll(await store.log.claim(0), 1, 3)
      await store.close()
      const second = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2])
      await tamper(path, 'log', 'segments', false, (segments) => segments.remove(second))
      const reopened = await openStore()
      await expect(sequencesOf(await reopened.log.claim(0), 0)).rejects.toThrow(
        /log 0, segment 2: missing, though the log goes on to 3/,
      )
      await reopened.close()
    })
  })

  describe('an environment', () => {
    test('is broken by a write that fails for no known reason, until it is opened anew', async () => {
      mkdirSync(path, { recursive: true })
      const options = { tablesMax: 4, freePagesMax: 1_000 }
      const environment = new Environment(path, options)
      const table = environment.table('table')
      const [one, two] = [Buffer.from('1'), Buffer.from('2')]
      await environment.writeAlways(() => void table.put(one, one))
      const refused = { code: 'storeCorrupt', details: { reopen: 'true' } }
      const broken = environment.writeAlways(() => {
        throw new Error('a defect')
      })
      await expect(broken).rejects.toMatchObject(refused)
      await expect(environment.writeAlways(() => void table.put(two, two))).rejects.toMatchObject(refused)
      expect(() => environment.refresh()).toThrow(expect.objectContaining(refused))
      await environment.close()
      expect(() => environment.refresh()).toThrow(expect.objectContaining({ code: 'storeUnavailable' }))
      const reopened = new Environment(path, options)
      const found = reopened.table('table')
      expect(found.get(one)).toEqual(one)
      await reopened.writeAlways(() => void found.put(two, two))
      await reopened.close()
    })
  })
})
