import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { type TransactionKey, transactionKey } from '../../src/core/ids.ts'
import type { TransactionImage } from '../../src/core/transaction.ts'
import { viewOf } from '../../src/engine/views.ts'
import { readSegment } from '../../src/store/segment.ts'
import { applyTransactionRecord, decodeTransactionImage } from '../../src/store/transaction-record.ts'
import { keyOf, stories } from './formats/samples.ts'

/** What a release wrote. */
interface Stored {
  readonly version: string
  readonly segment: string
  readonly transactions: readonly {
    readonly name: string
    readonly view: ReturnType<typeof viewOf>
    readonly row: string
    readonly rowWithoutBodies: string
  }[]
}

const folder = join(import.meta.dirname, 'formats')
const files = readdirSync(folder).filter((name) => name.endsWith('.json'))
const bytesOf = (base64: string): Uint8Array => Buffer.from(base64, 'base64')
const asJson = (value: unknown): unknown => JSON.parse(JSON.stringify(value))

test('the release of package.json has left its formats here', () => {
  const { version } = JSON.parse(readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8'))
  expect(files).toContain(`${version}.json`)
})

describe.each(files)('%s', (name) => {
  const { segment, transactions }: Stored = JSON.parse(readFileSync(join(folder, name), 'utf8'))

  test('its segments are recovered', () => {
    const images = new Map<TransactionKey, TransactionImage>()
    for (const record of readSegment(bytesOf(segment)).records())
      images.set(record.key, applyTransactionRecord(images.get(record.key), record))
    const views = [...images.values()].map((image) => asJson(viewOf(image, 0)))
    expect(views).toEqual(transactions.map(({ view }) => view))
  })

  test.each(transactions)('the row of $name is read', ({ view, row, rowWithoutBodies }) => {
    const image = decodeTransactionImage(bytesOf(row))
    expect(asJson(viewOf(image, 0))).toEqual(view)
    const finished = decodeTransactionImage(bytesOf(rowWithoutBodies))
    expect(transactionKey(finished.head.namespace, finished.head.id)).toBe(
      transactionKey(image.head.namespace, image.head.id),
    )
    expect(viewOf(finished, 0).status).toBe(view.status)
  })
})

test('every story ends in another status or place', () => {
  const ends = [...stories().values()].map((story) => [keyOf(story), viewOf(story.at(-1)!, 0).status])
  expect(new Set(ends.map(([key]) => key)).size).toBe(ends.length)
  expect(new Set(ends.map(([, status]) => status))).toEqual(
    new Set([
      'prepared',
      'parked',
      'committed',
      'delivered',
      'rolledBack',
      'running',
      'compensating',
      'compensated',
    ]),
  )
})
