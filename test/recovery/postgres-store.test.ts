/** A PostgreSQL that is killed, again and again, while logs are appended to and checkpointed: what was done stays, once. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { EscrowError } from '../../src/core/errors.ts'
import type { LogHandle } from '../../src/store/log.ts'
import type { Store } from '../../src/store/store.ts'
import { service } from '../services/require.ts'
import { sequencesOf } from '../store/contract-bench.ts'
import { checkpointOf, key, NOON_MS, rowOf, segmentOf } from '../store/contract-fixtures.ts'
import { PostgresWorld } from '../store/postgres-world.ts'

const postgres = await service('postgres')
const world = new PostgresWorld(postgres)
beforeEach(() => world.begin())
afterEach(() => world.end())

const KILLS = 4
const LOGS = 4

/** Repeats what is unknown, as the engine does, until it is known. */
async function known<T>(call: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await call()
    } catch (error) {
      expect(EscrowError.from(error).code).toBe('storeUnavailable')
      await sleep(20)
    }
  }
}

/** One log's writer: a transaction begins and ends with each segment, and lives until the one after. */
class Writer {
  readonly #store: Store
  readonly handle: LogHandle
  sequence = 0
  isOver = false

  constructor(store: Store, handle: LogHandle) {
    this.#store = store
    this.handle = handle
  }

  keyOf(sequence: number): string {
    return `default/${this.handle.log}-${sequence}`
  }

  async run(): Promise<void> {
    for (let next = 1; !this.isOver; next++) {
      const segment = segmentOf(next, { epoch: this.handle.claimed.epoch })
      expect(await known(() => this.handle.append(segment))).toBe('done')
      this.sequence = next
      if (next % 5 !== 0) continue
      const lived = rowOf(this.keyOf(next - 5), next, { finishedAtMs: NOON_MS })
      const rows = [rowOf(this.keyOf(next), next, { dueLogMs: next }), ...(next > 5 ? [lived] : [])]
      const checkpoint = checkpointOf(next, ...rows)
      expect(await known(() => this.#store.images.checkpoint(this.handle, checkpoint))).toBe('done')
      await known(() => this.handle.trim(next - 10))
    }
  }
}

test('a server killed and started again loses nothing that was done, and repeats nothing', async () => {
  const store = await world.store({ logs: LOGS, leaseMs: 2_000 })
  const writers: Writer[] = []
  for (let log = 0; log < LOGS; log++) writers.push(new Writer(store, await store.log.claim(log)))
  const runs = writers.map((writer) => writer.run())
  for (let kill = 0; kill < KILLS; kill++) {
    const before = writers.map(({ sequence }) => sequence)
    await expect.poll(() => writers.every(({ sequence }, i) => sequence > before[i]! + 12)).toBe(true)
    await postgres.kill()
    await postgres.start()
  }
  for (const writer of writers) writer.isOver = true
  await Promise.all(runs)
  const other = await world.store()
  for (const writer of writers) {
    const { sequence } = writer
    const checkpointed = sequence - (sequence % 5)
    const owner = await other.log.claim(writer.handle.log)
    expect(owner.claimed).toMatchObject({ epoch: 2, head: sequence, checkpointed })
    const tail = await sequencesOf(owner, checkpointed)
    expect(tail).toEqual(Array.from({ length: sequence - checkpointed }, (_, i) => checkpointed + 1 + i))
    const due = await other.images.due(writer.handle.log, 'log', sequence, undefined, 10)
    expect(due).toEqual([{ key: writer.keyOf(checkpointed), dueMs: checkpointed }])
    const ended = Array.from({ length: checkpointed / 5 - 1 }, (_, i) => key(writer.keyOf(5 * (i + 1))))
    const rows = await other.images.load(ended)
    expect(rows.map((row) => row?.finishedAtMs)).toEqual(ended.map(() => NOON_MS))
  }
  const client = await world.client()
  const { rows } = await client.query('select key from transactions group by key having count(*) > 1')
  expect(rows).toEqual([])
})

test('a server that stops answering in the middle, and goes on, is given up and taken up again', async () => {
  const store = await world.store({ logs: LOGS, leaseMs: 600 })
  const writer = new Writer(store, await store.log.claim(0))
  const run = writer.run()
  for (let pause = 0; pause < 3; pause++) {
    const before = writer.sequence
    await expect.poll(() => writer.sequence > before + 12).toBe(true)
    await postgres.pause()
    await sleep(1_000)
    await postgres.resume()
  }
  writer.isOver = true
  await run
  const owner = await store.log.claim(0)
  expect(owner.claimed.head).toBe(writer.sequence)
  expect(await writer.handle.append(segmentOf(writer.sequence + 1))).toBe('fenced')
})
