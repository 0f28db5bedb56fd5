import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type TransactionId, transactionKey } from '../../src/core/ids.ts'
import type { MessageImage } from '../../src/core/message.ts'
import { Entries } from '../../src/engine/entries.ts'
import { Entry, Packer } from '../../src/engine/entry.ts'
import { factsOf } from '../../src/engine/facts.ts'
import { head, images } from '../core/message-fixtures.ts'

const ids = fc.nat({ max: 9_000 }).map((number) => `id-${number}` as TransactionId)
const moves = fc.record({
  what: fc.constantFrom('add', 'end', 'delete', 'ask'),
  id: ids,
  count: fc.nat(6_000),
})

test('an entry is found while it is in memory, living or ended, whoever came and went meanwhile', () => {
  fc.assert(
    fc.property(fc.array(moves, { maxLength: 40 }), (all) => {
      const entries = new Entries()
      const packer = new Packer(false)
      const known = new Map<TransactionId, Entry>()
      // Of each move some thousand neighbours, so that the list of those that ended closes up now and then.
      for (const { what, id: first, count } of all) {
        for (let at = 0; at < count; at++) {
          const id = `${first}.${at}` as TransactionId
          const entry = known.get(id)
          if (what === 'add' && entry === undefined) {
            const image = { head: { ...head, id }, state: (images.rolledBack as MessageImage).state }
            const added = new Entry(image, { sequence: 1, unsavedFrom: 1, isStored: false })
            known.set(id, added)
            entries.add(added)
          } else if (what === 'end' && entry?.pack(packer)) entries.ended(entry)
          else if (what === 'delete' && entry !== undefined) {
            known.delete(id)
            entries.delete(entry)
          } else if (what === 'ask' && entries.get(head.namespace, id) !== entry) return false
        }
      }
      expect(new Set(entries)).toEqual(new Set(known.values()))
      for (const [id, entry] of known)
        if (entries.of(transactionKey(head.namespace, id)) !== entry) return false
      return entries.size === known.size
    }),
    { numRuns: 20 },
  )
})

test('a finished image is kept as bytes, and reads back as it was but for its bodies', () => {
  const packer = new Packer(false)
  const image = { head, state: (images.rolledBack as MessageImage).state }
  const entry = new Entry(image, { sequence: 1, unsavedFrom: 1, isStored: false })
  expect([entry.pack(packer), entry.pack(packer)]).toEqual([true, false])
  const messages = head.messages.map((message) => ({ ...message, body: undefined }))
  expect(entry.image).toEqual({ head: { ...head, messages }, state: image.state })
  const living = new Entry(
    { head, state: (images.prepared as MessageImage).state },
    { sequence: 1, unsavedFrom: 1, isStored: false },
  )
  expect(living.pack(packer)).toBe(false)
})

test.each([true, false])(
  'what people read of a finished image is kept where the store asks for it: %s',
  (withFacts) => {
    const image = { head, state: (images.rolledBack as MessageImage).state }
    const entry = new Entry(image, { sequence: 1, unsavedFrom: 1, isStored: false })
    entry.pack(new Packer(withFacts))
    expect(entry.packed?.facts).toEqual(withFacts ? factsOf(image) : undefined)
    // Bodies aren't kept, and nobody reads them here: it is the same when it is read back.
    expect(factsOf(entry.image)).toEqual(factsOf(image))
  },
)
