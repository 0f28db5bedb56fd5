import { describe, expect, test } from 'vitest'
import { MemoryDisk, openMemoryStore, type StoreCall } from '../../src/store/memory.ts'
import { storeContract } from './contract.ts'
import { appendAll, sequencesOf } from './contract-bench.ts'
import { checkpointOf, key, NOON_MS, rowOf, segmentOf } from './contract-fixtures.ts'

storeContract('memory', async () => {
  let nowMs = NOON_MS
  const disk = new MemoryDisk({ now: () => nowMs })
  return {
    open: async () => openMemoryStore(disk),
    setNow: (wallMs) => {
      nowMs = wallMs
    },
    dispose: async () => {},
  }
})

/** A hook that throws once, at one moment of one method. */
function failOnce(method: StoreCall['method'], moment: StoreCall['moment']): (call: StoreCall) => void {
  let isDone = false
  return (call) => {
    if (isDone || call.method !== method || call.moment !== moment) return
    isDone = true
    throw new Error(`${method} failed ${moment} its effect`)
  }
}

describe('memory: faults', () => {
  test('an append that was durable and reported as failed is done when it is tried again', async () => {
    const disk = new MemoryDisk()
    const handle = await openMemoryStore(disk, failOnce('append', 'after')).log.claim(0)
    const segment = segmentOf(1)
    await expect(handle.append(segment)).rejects.toThrow()
    expect(disk.logs[0]?.row.head).toBe(1)
    expect(await handle.append(segment)).toBe('done')
    expect(await sequencesOf(handle, 0)).toEqual([1])
  })

  test('an append that failed before its effect left nothing, and is done when it is tried again', async () => {
    const disk = new MemoryDisk()
    const handle = await openMemoryStore(disk, failOnce('append', 'before')).log.claim(0)
    await expect(handle.append(segmentOf(1))).rejects.toThrow()
    expect(disk.logs[0]?.row.head).toBe(0)
    expect(await handle.append(segmentOf(1))).toBe('done')
  })

  test('a checkpoint whose outcome nobody told may be repeated', async () => {
    const disk = new MemoryDisk()
    const store = openMemoryStore(disk, failOnce('checkpoint', 'after'))
    const handle = await store.log.claim(0)
    await appendAll(handle, 1, 1)
    await expect(store.images.checkpoint(handle, checkpointOf(1, rowOf('default/a', 1)))).rejects.toThrow()
    expect(await store.images.checkpoint(handle, checkpointOf(1, rowOf('default/a', 1)))).toBe('done')
    expect(await store.images.load([key('default/a')])).toMatchObject([{ sequence: 1 }])
  })

  test('a claim that nobody heard of fences all the same', async () => {
    const disk = new MemoryDisk()
    const first = await openMemoryStore(disk).log.claim(0)
    await expect(openMemoryStore(disk, failOnce('claim', 'after')).log.claim(0)).rejects.toThrow()
    expect(await first.verify()).toBe(false)
  })

  test('a hook may delay a call', async () => {
    const order: string[] = []
    let release = (): void => {}
    const gate = new Promise<void>((resolve) => {
      release = resolve
    })
    const store = openMemoryStore(new MemoryDisk(), ({ method, moment }) =>
      method === 'append' && moment === 'before' ? gate : undefined,
    )
    const handle = await store.log.claim(0)
    const append = handle.append(segmentOf(1)).then(() => order.push('appended'))
    expect(await handle.verify()).toBe(true)
    order.push('verified')
    release()
    await append
    expect(order).toEqual(['verified', 'appended'])
  })

  test('a missing segment is storeCorrupt and named', async () => {
    const disk = new MemoryDisk()
    const handle = await openMemoryStore(disk).log.claim(0)
    await appendAll(handle, 1, 3)
    disk.logs[0]?.segments.delete(2)
    await expect(sequencesOf(handle, 0)).rejects.toMatchObject({ code: 'storeCorrupt' })
    await expect(sequencesOf(handle, 0)).rejects.toThrow(/log 0, segment 2: missing/)
  })

  test('a segment with a flipped bit is storeCorrupt and named', async () => {
    const disk = new MemoryDisk()
    const handle = await openMemoryStore(disk).log.claim(0)
    await appendAll(handle, 1, 3)
    disk.logs[0]!.segments.get(2)![20]! ^= 1
    await expect(sequencesOf(handle, 0)).rejects.toThrow(/log 0, segment 2: its checksum is wrong/)
  })

  test('logs are independent', async () => {
    const store = openMemoryStore(new MemoryDisk({ logs: 3 }))
    const [one, other] = [await store.log.claim(0), await store.log.claim(2)]
    await appendAll(one, 1, 2)
    expect(other.claimed).toMatchObject({ epoch: 1, head: 0 })
    expect(await sequencesOf(other, 0)).toEqual([])
    await expect(store.log.claim(3)).rejects.toThrow(/log 3 of 3/)
  })
})
