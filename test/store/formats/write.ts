/**
 * Writes what this version's formats look like, once for each release: `node test/store/formats/write.ts VERSION`. The file
 * is kept for ever, so that a later version is seen to read it.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TransactionImage } from '../../../src/core/transaction.ts'
import { viewOf } from '../../../src/engine/views.ts'
import { ByteWriter } from '../../../src/store/binary.ts'
import { SegmentBuilder } from '../../../src/store/segment.ts'
import { encodeTransactionImage } from '../../../src/store/transaction-record.ts'
import { stories } from './samples.ts'

const [version] = process.argv.slice(2)
if (version === undefined) throw new Error('name the version, as in: node test/store/formats/write.ts 0.1.0')

function rowOf(image: TransactionImage, bodies: boolean): string {
  const writer = new ByteWriter()
  encodeTransactionImage(writer, image, { bodies })
  return Buffer.from(writer.copy()).toString('base64')
}

const builder = new SegmentBuilder()
const transactions = [...stories()].map(([name, story]) => {
  story.forEach((image, at) => {
    builder.add(story[at - 1], image)
  })
  const last = story.at(-1) as TransactionImage
  return { name, view: viewOf(last, 0), row: rowOf(last, true), rowWithoutBodies: rowOf(last, false) }
})
const segment = builder.finish({
  nonce: new Uint8Array(16),
  epoch: 1,
  sequence: 1,
  clock: { wallMs: 1_000_000, logMs: 900_000 },
})
const file = join(import.meta.dirname, `${version}.json`)
const json = { version, segment: Buffer.from(segment.bytes).toString('base64'), transactions }
writeFileSync(file, `${JSON.stringify(json, null, 2)}\n`)
console.log(`${file}: ${transactions.length} transactions`)
