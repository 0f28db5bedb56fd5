/**
 * Appends to a store on a file system of 256 MiB, of which ballast leaves 8, until that is full; then removes the ballast, and
 * appends the same bytes again. Prints what came of it as JSON.
 */
import { randomBytes } from 'node:crypto'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { openEmbeddedStore } from '../../../src/store/embedded/store.ts'
import { SegmentBuilder } from '../../../src/store/segment.ts'
import { checkpointOf, rowOf } from '../contract-fixtures.ts'

const [mount = ''] = process.argv.slice(2)
const path = join(mount, 'store')
const ballast = join(mount, 'ballast')
writeFileSync(ballast, Buffer.alloc(248 << 20))
const open = () => openEmbeddedStore({ path, now: Date.now, random: (bytes) => randomBytes(bytes) })
const store = await open()
const handle = await store.log.claim(0)
const nonce = randomBytes(16)
const padding = randomBytes(200_000)

function segmentOf(sequence: number): { sequence: number; bytes: Uint8Array } {
  const clock = { wallMs: 0, logMs: 0 }
  const { bytes } = new SegmentBuilder().finish({ nonce, epoch: handle.claimed.epoch, sequence, clock })
  // Large, and with no right checksum: nobody reads it here.
  return { sequence, bytes: Buffer.concat([bytes.subarray(0, -4), padding, bytes.subarray(-4)]) }
}

const codeOf = (error: unknown): string => (error as { code: string }).code
let sequence = 1
let refused = ''
let refusedAgain = ''
for (; sequence < 1_000; sequence++) {
  try {
    await handle.append(segmentOf(sequence))
  } catch (error) {
    refused = codeOf(error)
    break
  }
}
const late = segmentOf(sequence)
await handle.append(late).catch((error) => {
  refusedAgain = codeOf(error)
})
const owns = await handle.verify()
const rows = Array.from({ length: 3_000 }, (_, i) => rowOf(`default/${i}`, 1, { bytes: randomBytes(1_500) }))
const checkpoint = await store.images.checkpoint(handle, checkpointOf(sequence - 1, ...rows)).catch(codeOf)
rmSync(ballast)
const afterwards = await handle.append(late)
const checkpointAfterwards = await store.images
  .checkpoint(handle, checkpointOf(sequence, ...rows))
  .catch(codeOf)
await store.close()
const again = await open()
const { head, checkpointed } = (await again.log.claim(0)).claimed
await again.close()
console.log(
  JSON.stringify({
    refused,
    refusedAgain,
    owns,
    checkpoint,
    afterwards,
    checkpointAfterwards,
    sequence,
    head,
    checkpointed,
  }),
)
