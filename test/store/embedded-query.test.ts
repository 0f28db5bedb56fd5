import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { ByteWriter } from '../../src/store/binary.ts'
import { Environment, type Table } from '../../src/store/embedded/environment.ts'
import { queryImages } from '../../src/store/embedded/query.ts'
import { NOTHING, prefixedKey, putRow, RARE_ENDS, termKey, textKey } from '../../src/store/embedded/row.ts'
import { NO_TERMS, termsOf } from '../../src/store/embedded/terms.ts'
import { NOON_MS, rowOf } from './contract-fixtures.ts'

const DAYS = 30
const ROWS = 100
const STATUSES = ['completed', 'compensated'] as const
const attributes = { businessKey: '', tags: { region: 'eu' } }

let path: string
let environment: Environment
let looked = 0
let cursors = 0

beforeEach(() => {
  path = mkdtempSync(join(tmpdir(), 'escrow-query-'))
  environment = new Environment(path, { tablesMax: DAYS + 4, freePagesMax: 1_000 })
})

afterEach(async () => {
  await environment.close()
  rmSync(path, { recursive: true, force: true })
})

function* counted<T>(range: Iterable<T>): Generator<T> {
  cursors += 1
  try {
    for (const each of range) {
      looked += 1
      yield each
    }
  } finally {
    cursors -= 1
  }
}

/** A table that tells how many of its rows were looked at, and how many cursors on it are open. */
function watched(table: Table): Table {
  return new Proxy(table, {
    get(target, name) {
      const value = Reflect.get(target, name)
      if (typeof value !== 'function') return value
      const call = value.bind(target)
      return name === 'getKeys' || name === 'getRange' ? (range: object) => counted(call(range)) : call
    },
  })
}

/** A day with rows that ended either way, all with the attributes, and between which those of other days lie. */
async function dayTable(day: number): Promise<Table> {
  const table = environment.table(`finished-${day}`)
  const writer = new ByteWriter()
  await environment.writeAlways(() => {
    for (let at = 0; at < ROWS; at++) {
      const status = STATUSES[at % 2] as (typeof STATUSES)[number]
      const name = `default/${String(at * DAYS + day).padStart(6, '0')}`
      const start = putRow(writer, 0, rowOf(name, 1, { status, finishedAtMs: NOON_MS }), NO_TERMS)
      table.put(textKey(name), writer.bytes.slice(start, writer.length))
      const rare = RARE_ENDS[status]
      if (rare !== undefined) table.put(prefixedKey(rare, name), NOTHING)
      for (const term of termsOf(attributes)) table.put(termKey(term, status, name), NOTHING)
    }
  })
  return watched(table)
}

test.each([
  ['statuses', undefined],
  ['search attributes', attributes],
])('a page by %s is looked for no further than it goes, however many days it is of', async (_, wanted) => {
  const days: { table: Table }[] = []
  for (let day = 0; day < DAYS; day++) days.push({ table: await dayTable(day) })
  const [live, due, statuses, terms] = ['live', 'due', 'statuses', 'terms'].map((name) =>
    watched(environment.table(name)),
  ) as [Table, Table, Table, Table]
  const limit = 50
  let after = ''
  for (let page = 0; page < 3; page++) {
    looked = 0
    const query = { namespace: 'default', statuses: STATUSES, attributes: wanted, after, limit }
    const rows = queryImages({ live, due, statuses, terms }, days, query, termsOf(wanted))
    const expected = Array.from({ length: limit }, (_, at) => String(page * limit + at).padStart(6, '0'))
    expect(rows.map(({ key }) => key)).toEqual(expected.map((id) => `default/${id}`))
    // The page, and where each of the sources goes on; by status, half of a day's rows have the other.
    expect(looked).toBeLessThanOrEqual(2 * (limit + DAYS * STATUSES.length))
    expect(cursors).toBe(0)
    after = rows.at(-1)?.key as string
  }
})

test('one query passes over a bounded number of rows of another status, and the next one goes on behind them', async () => {
  const [live, due, statuses, terms, table] = ['live', 'due', 'statuses', 'terms', 'finished-0'].map((name) =>
    watched(environment.table(name)),
  ) as [Table, Table, Table, Table, Table]
  const rows = 12_000
  const wanted = new Set(['default/000010', `default/${String(rows - 1).padStart(6, '0')}`])
  const writer = new ByteWriter()
  await environment.writeAlways(() => {
    for (let at = 0; at < rows; at++) {
      const name = `default/${String(at).padStart(6, '0')}`
      const other = at < 5_100 || at % 2 === 0 ? 'delivered' : 'compensated'
      const status = wanted.has(name) ? 'completed' : other
      const start = putRow(writer, 0, rowOf(name, 1, { status, finishedAtMs: NOON_MS }), NO_TERMS)
      table.put(textKey(name), writer.bytes.slice(start, writer.length))
      if (status === 'compensated') table.put(prefixedKey(1, name), NOTHING)
    }
  })
  const query = { namespace: 'default', attributes: undefined, limit: 500 }
  for (const asked of [['completed'], ['completed', 'compensated']] as const) {
    const found: string[] = []
    for (let after = ''; ; after = found.at(-1) as string) {
      looked = 0
      const page = queryImages(
        { live, due, statuses, terms },
        [{ table }],
        { ...query, statuses: asked, after },
        [],
      )
      expect(looked).toBeLessThan(7_000)
      found.push(...page.map(({ key }) => key))
      if (page.length < query.limit) break
    }
    expect(new Set(found).size).toBe(found.length)
    expect(found.toSorted()).toEqual(found)
    expect(found).toEqual(expect.arrayContaining([...wanted]))
  }
})
