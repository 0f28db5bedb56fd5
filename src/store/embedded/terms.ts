import { hash } from 'node:crypto'
import type { Attributes } from '../images.ts'

/**
 * What a row is found by: a text for each of its search attributes, without NUL. As keys these lie in the order of the texts, so
 * that business keys that count up are written side by side; as hashes each would rewrite a page of its own. A long text is
 * cut, and ends with a hash of all of it; of two that come out the same, which nobody will see, the list reads both images.
 */
export type Terms = readonly string[]

export const NO_TERMS: Terms = []
/** Whole up to so many UTF-16 units. A key of LMDB has 1,978 bytes, of which that of a transaction may take 600. */
const TERM_LENGTH_MAX = 80
const CUT_LENGTH = 60

/** The terms of attributes, the business key's first: it is the one that fewest share. */
export function termsOf(attributes: Attributes | undefined): Terms {
  if (attributes === undefined) return NO_TERMS
  const { businessKey, tags } = attributes
  const terms = Object.entries(tags).map(([name, value]) => termOf(`tag ${name.length} ${name}${value}`))
  return businessKey === '' ? terms : [termOf(`key ${businessKey}`), ...terms]
}

/** Whether both are the same terms in the same order; a mere change of order is worth no search for it. */
export function isSameTerms(one: Terms, other: Terms): boolean {
  return one.length === other.length && one.every((term, at) => term === other[at])
}

function termOf(text: string): string {
  if (text.length <= TERM_LENGTH_MAX && !text.includes('\0')) return text
  return `${text.slice(0, CUT_LENGTH).replaceAll('\0', ' ')}${hash('sha256', text, 'base64').slice(0, 16)}`
}
