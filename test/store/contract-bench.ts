import { expect } from 'vitest'
import type { LogHandle } from '../../src/store/log.ts'
import type { Store } from '../../src/store/store.ts'
import { key, segmentOf } from './contract-fixtures.ts'

/** How a suite gets at a store of its own. */
export interface StoreHarness {
  /** Opens the store, or opens it again as after a restart. */
  open(): Promise<Store>
  /** Sets the wall clock. */
  setNow(wallMs: number): void
  /** Forgets everything. */
  dispose(): Promise<void>
}

/** The store of the test that runs. */
export class StoreBench {
  readonly #makeHarness: () => Promise<StoreHarness>
  #harness: StoreHarness | undefined
  #store: Store | undefined

  constructor(makeHarness: () => Promise<StoreHarness>) {
    this.#makeHarness = makeHarness
  }

  get store(): Store {
    return this.#store as Store
  }

  async begin(): Promise<void> {
    this.#harness = await this.#makeHarness()
    this.#store = await this.#harness.open()
  }

  async end(): Promise<void> {
    await this.#store?.close()
    await this.#harness?.dispose()
  }

  /** As after a restart in good order. */
  async reopen(): Promise<Store> {
    await this.store.close()
    this.#store = await this.#harness?.open()
    return this.store
  }

  setNow(wallMs: number): void {
    this.#harness?.setNow(wallMs)
  }

  /** The stored images of these names, as text. */
  async stored(...names: string[]): Promise<(string | undefined)[]> {
    const found = await this.store.images.load(names.map(key))
    return found.map((image) => image && Buffer.from(image.bytes).toString())
  }
}

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
