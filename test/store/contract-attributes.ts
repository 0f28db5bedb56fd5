import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  type Attributes,
  compareKeys,
  hasAttributes,
  type ImageQuery,
  type ImageRow,
  type ImageStatus,
} from '../../src/store/images.ts'
import type { Store } from '../../src/store/store.ts'
import type { StoreBench } from './contract-bench.ts'
import { checkpointOf, NOON_MS, rowOf } from './contract-fixtures.ts'

const DAY_MS = 86_400_000
const LIVING = ['parked', 'running', 'compensating'] as const
const ENDED = ['completed', 'compensated'] as const

type Asked = Pick<ImageQuery, 'statuses' | 'attributes'> & { readonly namespace?: string }

const byKey = (businessKey: string): Attributes => ({ businessKey, tags: {} })
const byTags = (tags: Record<string, string>): Attributes => ({ businessKey: '', tags })

/** All keys that a store answers, page by page. */
async function keysOf(store: Store, asked: Asked, limit = 3): Promise<string[]> {
  const keys: string[] = []
  for (let after = ''; ; after = keys.at(-1) as string) {
    const page = await store.images.query({ namespace: 'default', ...asked, after, limit })
    expect(page.length).toBeLessThanOrEqual(limit)
    keys.push(...page.map(({ key }) => key))
    if (page.length < limit) return keys
  }
}

/** What a query must answer of these rows. */
function expectedOf(
  rows: Iterable<ImageRow>,
  { namespace = 'default', statuses, attributes }: Asked,
): string[] {
  return [...rows]
    .filter(({ key }) => key.startsWith(`${namespace}/`))
    .filter(({ status, finishedAtMs }) =>
      statuses.length === 0 ? finishedAtMs === 0 : statuses.includes(status),
    )
    .filter((row) => hasAttributes(row.attributes, attributes as Attributes))
    .map(({ key }) => key)
    .sort(compareKeys)
}

const anyAttributes = fc
  .record({
    businessKey: fc.constantFrom('', 'k1', 'k2'),
    tags: fc.record({ x: fc.constantFrom('1', '2'), y: fc.constantFrom('1', '') }, { requiredKeys: [] }),
  })
  .map(({ businessKey, tags }): Attributes => ({ businessKey, tags: { ...tags } }))

const anyChange = fc.record({
  name: fc.constantFrom('a/1', 'a/2', 'a/3', 'a/4', 'a/5', 'b/1', 'b/2'),
  attributes: fc.option(anyAttributes, { nil: undefined }),
  status: fc.constantFrom<ImageStatus>(...LIVING, ...LIVING, ...ENDED),
  daysAgo: fc.nat({ max: 2 }),
  isLate: fc.boolean(),
  isNew: fc.boolean(),
})
type Change = typeof anyChange extends fc.Arbitrary<infer T> ? T : never

function changedRow(
  { name, attributes, status, daysAgo, isLate, isNew }: Change,
  at: { run: number; sequence: number; isKnown: boolean },
): ImageRow {
  const [namespace, id] = name.split('/') as [string, string]
  const isEnd = (ENDED as readonly string[]).includes(status)
  return rowOf(`${namespace}-${at.run}/${id}`, at.sequence - (isLate ? 2 : 0), {
    status,
    attributes:
      attributes?.businessKey === '' && Object.keys(attributes.tags).length === 0 ? undefined : attributes,
    finishedAtMs: isEnd ? NOON_MS - daysAgo * DAY_MS : 0,
    isNew: isNew && !at.isKnown,
  })
}

/** Images are found by their business key and tags. */
export function attributesContract(bench: StoreBench): void {
  describe('search attributes', () => {
    test('find what a model says, whatever changes, page by page', async () => {
      const handle = await bench.store.log.claim(0)
      const asked = fc.record({
        attributes: anyAttributes,
        statuses: fc.subarray<ImageStatus>([...LIVING, ...ENDED]),
        limit: fc.integer({ min: 1, max: 4 }),
      })
      const rounds = fc.array(fc.uniqueArray(anyChange, { selector: ({ name }) => name }), { maxLength: 6 })
      let sequence = 10
      let run = 0
      await fc.assert(
        fc.asyncProperty(
          rounds,
          fc.array(asked, { minLength: 3, maxLength: 3 }),
          async (changes, queries) => {
            run += 1
            const model = new Map<string, ImageRow>()
            for (const round of changes) {
              sequence += 1
              const rows = round.map((change) => {
                const isKnown = model.has(`${change.name[0]}-${run}/${change.name.slice(2)}`)
                return changedRow(change, { run, sequence, isKnown })
              })
              // What finished never changes again.
              const possible = rows.filter((row) => (model.get(row.key)?.finishedAtMs ?? 0) === 0)
              await bench.store.images.checkpoint(handle, checkpointOf(0, ...possible))
              for (const row of possible)
                if ((model.get(row.key)?.sequence ?? 0) <= row.sequence) model.set(row.key, row)
            }
            for (const { limit, ...query } of queries) {
              const inNamespace = { ...query, namespace: `a-${run}` }
              expect(await keysOf(bench.store, inNamespace, limit)).toEqual(
                expectedOf(model.values(), inNamespace),
              )
            }
          },
        ),
        { numRuns: 60 },
      )
    })
  })
}

/** What attributes are, and for how long. */
export function attributesOfOneContract(bench: StoreBench): void {
  describe('search attributes of one', () => {
    test('find it after a restart, until they change, it finishes, and its day is dropped', async () => {
      bench.setNow(NOON_MS)
      const found = async (wanted: Attributes, ...statuses: ImageStatus[]): Promise<string[]> =>
        keysOf(bench.store, { statuses, attributes: wanted })
      const write = async (sequence: number, change: Partial<ImageRow>): Promise<void> => {
        const handle = await bench.store.log.claim(0)
        await bench.store.images.checkpoint(handle, checkpointOf(0, rowOf('default/a', sequence, change)))
      }
      const tags = { sku: 's1', region: 'eu' }
      await write(1, { status: 'running', attributes: { businessKey: 'o-7', tags }, isNew: true })
      await bench.reopen()
      expect(await found({ businessKey: 'o-7', tags })).toEqual(['default/a'])
      expect(await found(byTags({ region: 'eu' }), 'parked')).toEqual([])

      await write(2, { status: 'parked', attributes: { businessKey: 'o-8', tags: { region: 'eu' } } })
      await bench.reopen()
      for (const old of [byKey('o-7'), byTags({ sku: 's1' })]) expect(await found(old)).toEqual([])
      expect(await found(byKey('o-8'), 'parked')).toEqual(['default/a'])
      expect(await found(byKey('o-8'), 'running')).toEqual([])

      await write(3, { status: 'compensating', attributes: { businessKey: 'o-8', tags: { region: 'eu' } } })
      for (const same of [byKey('o-8'), byTags({ region: 'eu' })]) {
        expect(await found(same, 'parked')).toEqual([])
        expect(await found(same, 'compensating')).toEqual(['default/a'])
      }

      await write(4, {
        status: 'compensated',
        attributes: { businessKey: 'o-9', tags: {} },
        finishedAtMs: NOON_MS - 3 * DAY_MS,
      })
      await bench.reopen()
      for (const old of [byKey('o-8'), byKey('o-9')]) expect(await found(old)).toEqual([])
      expect(await found(byKey('o-9'), 'parked', 'compensated')).toEqual(['default/a'])
      expect(await found(byKey('o-8'), 'parked', 'compensated')).toEqual([])

      await bench.store.images.dropFinishedBefore(NOON_MS - DAY_MS)
      expect(await found(byKey('o-9'), 'parked', 'compensated')).toEqual([])
    })

    test('are whole texts: a name and its value are told apart, and so are a tag and a business key', async () => {
      const handle = await bench.store.log.claim(0)
      const rows = [
        byTags({ ab: 'c' }),
        byTags({ a: 'bc' }),
        byTags({ abc: '' }),
        byKey('abc'),
        byKey('ABC'),
        byTags(JSON.parse('{"__proto__":"x"}')),
        byTags({ '1 a': 'b' }),
        byKey('日本 𝒳'.repeat(50)),
        byKey(`${'x'.repeat(250)}1`),
        byKey(`${'x'.repeat(250)}2`),
        byTags({ x: `${'x'.repeat(249)}1` }),
      ].map((attributes, at) => rowOf(`default/${at}`, 1, { attributes }))
      await bench.store.images.checkpoint(handle, checkpointOf(0, ...rows))
      for (const { key, attributes } of rows)
        expect(await keysOf(bench.store, { statuses: [], attributes })).toEqual([key])
      for (const attributes of [byTags({ constructor: '' }), byTags({ 'ab:c': '' }), byKey('ab')])
        expect(await keysOf(bench.store, { statuses: [], attributes })).toEqual([])
      expect(await keysOf(bench.store, { statuses: [], attributes: byKey('') })).toHaveLength(rows.length)
    })
  })
}

/** Attributes that many have. */
export function sharedAttributesContract(bench: StoreBench): void {
  describe('search attributes of thousands', () => {
    const COUNT = 12_000
    const nameOf = (at: number): string => `default/${String(at).padStart(6, '0')}`

    const fill = async (
      attributesAt: (at: number) => Attributes,
      more: ImageRow[] = [],
    ): Promise<ImageRow[]> => {
      const handle = await bench.store.log.claim(0)
      const rows = Array.from({ length: COUNT }, (_, at) =>
        rowOf(nameOf(at), 1, { attributes: attributesAt(at), isNew: true }),
      )
      rows.push(...more)
      await bench.store.images.checkpoint(handle, checkpointOf(0, ...rows))
      return rows
    }

    test('a rare one is found among those that many share, in its namespace alone', async () => {
      const rare = (at: number) => ({ businessKey: `o-${at}`, tags: { region: 'eu', half: String(at % 2) } })
      await fill(rare, [rowOf('other/1', 1, { attributes: rare(7_001) })])
      const wanted = [byKey('o-7001'), rare(7_001), { businessKey: 'o-7001', tags: { region: 'eu' } }]
      for (const attributes of wanted)
        expect(await keysOf(bench.store, { statuses: [], attributes }, 100)).toEqual([nameOf(7_001)])
      const asked = { statuses: [], attributes: byKey('o-7001') }
      expect(await keysOf(bench.store, { ...asked, namespace: 'other' })).toEqual(['other/1'])
      expect(
        await keysOf(bench.store, { statuses: [], attributes: { ...rare(7_001), businessKey: 'o-7000' } }),
      ).toEqual([])
    })

    test('what few share of two that many have is found in whole, and others only where it took long', async () => {
      // Wherever one list goes on, the other is just behind it.
      const rows = await fill((at) => ({
        businessKey: '',
        tags: {
          ...(at % 2 === 0 || at % 4_000 === 1 ? { x: '1' } : {}),
          ...(at % 2 === 1 ? { y: '1' } : {}),
        },
      }))
      const asked = { statuses: [], attributes: byTags({ x: '1', y: '1' }) }
      for (const limit of [2, 1_000]) {
        const keys = await keysOf(bench.store, asked, limit)
        expect(keys).toEqual([...new Set(keys)].sort(compareKeys))
        const byName = new Map(rows.map((row) => [row.key as string, row]))
        const isWanted = (each: string): boolean =>
          hasAttributes(byName.get(each)?.attributes, asked.attributes)
        expect(keys.filter(isWanted)).toEqual(expectedOf(rows, asked))
        expect(keys.length).toBeLessThanOrEqual(COUNT)
      }
    })
  })
}
