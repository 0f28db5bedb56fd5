/**
 * Writes to the embedded store until it is killed: counters, each a transaction whose image counts its own changes. Before
 * each append it prints what the segment changes, after it that it is durable; checkpoints and trimming go on beside it.
 */
import { randomBytes } from 'node:crypto'
import type { MessageImage } from '../../../src/core/message.ts'
import { openEmbeddedStore } from '../../../src/store/embedded/store.ts'
import { compareKeys } from '../../../src/store/images.ts'
import { SegmentBuilder } from '../../../src/store/segment.ts'
import { type Counters, counterImage, recoverCounters, rowOfCounter } from './store-counters.ts'

const [path = ''] = process.argv.slice(2)
const COUNTERS = 400
const store = await openEmbeddedStore({ path, now: Date.now, random: (bytes) => randomBytes(bytes) })
const handle = await store.log.claim(0)
const counters: Counters = await recoverCounters(store, handle)
const nonce = randomBytes(16)
// What came from the tail has no row yet.
const dirty = new Set(counters.keys())
let durable = handle.claimed.head

async function checkpoint(): Promise<void> {
  const upTo = durable
  const rows = [...dirty].map((name) =>
    rowOfCounter(name, counters.get(name) as { image: MessageImage; sequence: number }),
  )
  dirty.clear()
  const checkpointed = {
    rows: rows.sort((a, b) => compareKeys(a.key, b.key)),
    checkpointed: upTo,
    clock: { wallMs: 0, logMs: upTo },
  }
  if ((await store.images.checkpoint(handle, checkpointed)) !== 'done') throw new Error('fenced')
  await handle.trim(upTo)
}

let checkpointing: Promise<void> | undefined
const builder = new SegmentBuilder()
console.log(`open ${durable}`)
for (let sequence = durable + 1; ; sequence++) {
  const names = Array.from(
    { length: 1 + (sequence % 40) },
    (_, i) => `c${(sequence * 7 + i * 13) % COUNTERS}`,
  )
  const changed: string[] = []
  const next = new Map<string, MessageImage>()
  for (const name of new Set(names)) {
    const previous = counters.get(name)?.image
    const image = counterImage(name, previous)
    builder.add(previous, image)
    next.set(name, image)
    changed.push(`${name}=${image.state.checks}`)
  }
  // Written before the append, so that whoever reads it knows what this sequence means if it is found.
  console.log(`try ${sequence} ${changed.join(' ')}`)
  const segment = builder.finish({
    nonce,
    epoch: handle.claimed.epoch,
    sequence,
    clock: { wallMs: 0, logMs: sequence },
  })
  if ((await handle.append(segment)) !== 'done') throw new Error('fenced')
  console.log(`done ${sequence}`)
  durable = sequence
  for (const [name, image] of next) {
    counters.set(name, { image, sequence })
    dirty.add(name)
  }
  if (sequence % 5 === 0 && checkpointing === undefined) {
    checkpointing = checkpoint().finally(() => {
      checkpointing = undefined
    })
  }
}
