import { hash } from 'node:crypto'
import type { Attributes } from '../images.ts'

/**
 * What a row is found by: a hash of each of its search attributes, 8 bytes, each a character of Latin-1 (which costs a quarter
 * of a buffer). Texts would be as exact, but up to 4 KiB long, where keys have 2; of two texts with one hash, which nobody will
 * see, the list reads both images.
 */
export type Terms = readonly string[]

export const TERM_BYTES = 8
export const NO_TERMS: Terms = []

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
  return hash('sha256', text, 'binary').slice(0, TERM_BYTES)
}
