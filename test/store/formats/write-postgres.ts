/**
 * Writes what a PostgreSQL store of this version's format looks like, as SQL that makes it anew, once for each format:
 * `node test/store/formats/write-postgres.ts RELEASE`. The release's transactions must have been written already. The file is
 * kept for ever, so that a later version is seen to migrate and to read it.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import { isSaga, transactionStatusOf } from '../../../src/core/transaction.ts'
import { factsOf } from '../../../src/engine/facts.ts'
import { systemRuntime } from '../../../src/runtime.ts'
import { MIGRATIONS } from '../../../src/store/postgres/schema.ts'
import { openPostgresStore } from '../../../src/store/postgres/store.ts'
import type { Store } from '../../../src/store/store.ts'
import { attributesOf, decodeTransactionImage } from '../../../src/store/transaction-record.ts'
import { startPostgres } from '../../services/postgres.ts'
import { checkpointOf, NOON_MS, rowOf, segmentOf } from '../contract-fixtures.ts'

const [release] = process.argv.slice(2)
if (release === undefined)
  throw new Error('name the release, as in: node test/store/formats/write-postgres.ts 0.1.0')

interface Stored {
  readonly segment: string
  readonly transactions: readonly { readonly row: string }[]
}

const ENDS = new Set(['delivered', 'rolledBack', 'completed', 'compensated'])

/** What the release's transactions look like as rows, half of them due, and a tail behind them. */
async function fill(store: Store): Promise<void> {
  const { segment, transactions }: Stored = JSON.parse(
    readFileSync(join(import.meta.dirname, `${release}.json`), 'utf8'),
  )
  const handle = await store.log.claim(0)
  await handle.append({ sequence: 1, bytes: Buffer.from(segment, 'base64') })
  const rows = transactions.map(({ row }, i) => {
    const bytes = Buffer.from(row, 'base64')
    const image = decodeTransactionImage(bytes)
    const status = transactionStatusOf(image)
    const finishedAtMs = ENDS.has(status) ? NOON_MS + i : 0
    return rowOf(`${image.head.namespace}/${image.head.id}`, 1, {
      bytes,
      status,
      finishedAtMs,
      dueLogMs: finishedAtMs === 0 && i % 2 === 0 ? i + 0.5 : undefined,
      dueWallMs: isSaga(image) && finishedAtMs === 0 ? NOON_MS + i : undefined,
      attributes: attributesOf(image),
      facts: () => factsOf(image),
    })
  })
  await store.images.checkpoint(handle, checkpointOf(1, ...rows))
  await handle.append(segmentOf(2))
  await store.directory.compareAndSet('checker/orders', 0, Buffer.from('an entry'))
}

/** Inserts for all rows of a table, each column by its text. */
async function inserts(client: pg.Client, table: string): Promise<string[]> {
  const { rows: columns } = await client.query<{ name: string; type: string }>(
    `select attname as name, format_type(atttypid, atttypmod) as type from pg_attribute
      where attrelid = $1::regclass and attnum > 0 order by attnum`,
    [table],
  )
  const names = columns.map(({ name }) => name)
  const values = columns.map(({ name, type }) => `quote_nullable(${name}::text) || '::${type}'`)
  const { rows } = await client.query<{ line: string }>(
    `select ${values.join(" || ', ' || ")} as line from ${table} order by 1`,
  )
  return rows.map(({ line }) => `insert into ${table} (${names.join(', ')}) values (${line});`)
}

const server = await startPostgres('embedded')
const { setTimer, randomBytes } = systemRuntime
const store = await openPostgresStore({
  url: server.url,
  logs: 2,
  now: () => NOON_MS,
  random: randomBytes,
  setTimer,
})
await fill(store)
await store.close()
const client = new pg.Client({ connectionString: server.url, options: '-c search_path=escrow' })
await client.connect()
const { rows: days } = await client.query<{ name: string; bound: string }>(
  `select relname as name, pg_get_expr(relpartbound, oid) as bound from pg_class
    where relispartition and relkind = 'r' order by relname`,
)
const lines = [
  'create schema escrow;',
  'set search_path = escrow;',
  ...MIGRATIONS.flat().map((each) => `${each};`),
]
for (const { name, bound } of days) {
  lines.push(`create table ${name} (like finished including storage including indexes);`)
  lines.push(`create unique index ${name}_key on ${name} (key);`)
  lines.push(`alter table finished attach partition ${name} ${bound};`)
}
for (const table of ['store', 'logs', 'segments', 'live', 'directory', ...days.map(({ name }) => name)])
  lines.push(...(await inserts(client, table)))
const file = join(import.meta.dirname, `postgres-${MIGRATIONS.length}-${release}.sql`)
writeFileSync(file, `${lines.join('\n')}\n`)
console.log(`${file}: ${lines.length} lines`)
await client.end()
await server.stop()
