/** Sagas with search attributes, as rows, and a store as version 0.1.0 left it: of format 1, with no index of them. */
import { randomBytes } from 'node:crypto'
import { transactionKey } from '../../src/core/ids.ts'
import { defineSaga } from '../../src/core/saga/define.ts'
import type { SagaImage } from '../../src/core/saga/image.ts'
import { ByteWriter } from '../../src/store/binary.ts'
import { openEmbeddedStore } from '../../src/store/embedded/store.ts'
import type { Attributes, ImageRow } from '../../src/store/images.ts'
import { encodeTransactionImage } from '../../src/store/transaction-record.ts'
import { Driven } from '../core/saga-decision/fixtures.ts'
import { checkpointOf, NOON_MS, rowOf } from './contract-fixtures.ts'
import { tamper } from './tampering.ts'

const { program } = defineSaga({
  name: 'order',
  version: 1,
  flow: ({ step }) => [step('a', { action: 'shop/a', compensation: true })],
})
const begun = new Driven(program).start({ hash: program.hash }).image as SagaImage
const writer = new ByteWriter()

/** The row of a saga that has begun, and where that is said has ended. */
export function sagaRowOf(id: string, attributes: Attributes, change: Partial<ImageRow> = {}): ImageRow {
  const { finishedAtMs = 0 } = change
  const phase = finishedAtMs === 0 ? 'running' : 'completed'
  const image: SagaImage = {
    head: { ...begun.head, id: id as SagaImage['head']['id'] },
    state: { ...begun.state, ...attributes, phase, finishedAtMs },
  }
  writer.truncate()
  encodeTransactionImage(writer, image, { bodies: true })
  const { namespace, id: branded } = image.head
  return rowOf(transactionKey(namespace, branded), 1, {
    status: phase,
    bytes: writer.copy(),
    attributes,
    isNew: true,
    ...change,
  })
}

/** Writes these rows to a new store at this path, without an index of their attributes. */
export async function writeOlderStore(path: string, rows: readonly ImageRow[]): Promise<void> {
  const store = await openEmbeddedStore({ path, now: () => NOON_MS, random: (bytes) => randomBytes(bytes) })
  const handle = await store.log.claim(0)
  const older = rows.map((row) => ({ ...row, attributes: undefined }))
  await store.images.checkpoint(handle, checkpointOf(0, ...older))
  const { storeId, logs } = store.log
  await store.close()
  const meta = JSON.stringify({ format: 1, storeId, logs })
  await tamper(path, 'log', 'meta', false, (rows) => rows.put(Buffer.from('store'), Buffer.from(meta)))
}
