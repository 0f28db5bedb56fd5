/** Values that JSON can carry, checked and bounded, so that what was decided on is what a row gives back. */
import { EscrowError } from '../errors.ts'
import type { Json } from './program.ts'

/** Of the context of a machine, as JSON. Large data goes by reference. */
export const CONTEXT_BYTES_MAX = 64 << 10
/** Of a step's input or result, a signal's payload, a saga's input or output, as JSON. */
export const VALUE_BYTES_MAX = 256 << 10
/** How deep a value nests. */
export const VALUE_DEPTH_MAX = 64

/** What a value is, for messages, and what it is held to. */
export interface JsonBounds {
  readonly what: string
  readonly bytesMax: number
  /** The name of that bound. */
  readonly bound: string
}

/** The bounds of anything but a machine's context. */
export const valueBounds = (what: string): JsonBounds => ({
  what,
  bytesMax: VALUE_BYTES_MAX,
  bound: 'VALUE_BYTES_MAX',
})

/**
 * Checks that a value is one that JSON can carry: plain objects and arrays, finite numbers, well-formed text. A property
 * that is undefined counts as left out. The size is that of the JSON text, at most a few bytes too high for text with
 * escapes. Throws `invalidArgument` with the path, and `tooLarge` with the bound.
 */
export function checkJson(value: unknown, bounds: JsonBounds): Json | undefined {
  if (value === undefined) return undefined
  const quick = measured(value, bounds.bytesMax, 0)
  if (quick >= 0 && quick <= bounds.bytesMax) return value as Json
  // Once more, for what is wrong with it, and where.
  const bytes = measure(value, bounds, '', 0)
  if (bytes > bounds.bytesMax) {
    throw new EscrowError(
      'tooLarge',
      `${bounds.what} is ${bytes} bytes of JSON, ${bounds.bound} allows ${bounds.bytesMax}: pass large data by reference`,
      { details: { bound: bounds.bound } },
    )
  }
  return value as Json
}

/** The same measure as `measure` takes, without a word of what is wrong: -1 for what JSON can't carry. Hot. */
function measured(value: unknown, bytesMax: number, depth: number): number {
  switch (typeof value) {
    case 'string':
      return value.isWellFormed() ? textBytes(value) : -1
    case 'number':
      return Number.isFinite(value) ? String(value).length : -1
    case 'boolean':
      return value ? 4 : 5
    case 'object':
      return value === null ? 4 : measuredObject(value, bytesMax, depth)
    default:
      return -1
  }
}

function measuredObject(value: object, bytesMax: number, depth: number): number {
  if (depth >= VALUE_DEPTH_MAX) return -1
  let bytes = 2
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length && bytes <= bytesMax; index++) {
      const each = measured(value[index], bytesMax, depth + 1)
      if (each < 0) return -1
      bytes += each + 1
    }
    return bytes
  }
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) return -1
  for (const key of Object.keys(value)) {
    const property = (value as Record<string, unknown>)[key]
    if (property === undefined) continue
    const each = measured(property, bytesMax, depth + 1)
    if (each < 0) return -1
    bytes += textBytes(key) + 2 + each
    if (bytes > bytesMax) return bytes
  }
  return bytes
}

function measure(value: unknown, bounds: JsonBounds, path: string, depth: number): number {
  if (depth > VALUE_DEPTH_MAX)
    throw notJson(bounds, path, `nests deeper than VALUE_DEPTH_MAX allows (${VALUE_DEPTH_MAX})`)
  switch (typeof value) {
    case 'string':
      if (!value.isWellFormed()) throw notJson(bounds, path, 'is not well-formed Unicode')
      return textBytes(value)
    case 'number':
      if (!Number.isFinite(value)) throw notJson(bounds, path, `is ${value}`)
      return String(value).length
    case 'boolean':
      return value ? 4 : 5
    case 'object':
      if (value === null) return 4
      return Array.isArray(value)
        ? measureArray(value, bounds, path, depth)
        : measureObject(value, bounds, path, depth)
    default:
      throw notJson(bounds, path, `is a ${typeof value}`)
  }
}

function measureArray(values: readonly unknown[], bounds: JsonBounds, path: string, depth: number): number {
  let bytes = 2
  for (let index = 0; index < values.length; index++) {
    bytes += measure(values[index], bounds, `${path}[${index}]`, depth + 1) + 1
    if (bytes > bounds.bytesMax) return bytes
  }
  return bytes
}

function measureObject(value: object, bounds: JsonBounds, path: string, depth: number): number {
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null)
    throw notJson(bounds, path, `is a ${value.constructor?.name ?? 'class instance'}, no plain object`)
  let bytes = 2
  for (const [key, each] of Object.entries(value)) {
    if (each === undefined) continue
    bytes += textBytes(key) + 2 + measure(each, bounds, `${path}.${key}`, depth + 1)
    if (bytes > bounds.bytesMax) return bytes
  }
  return bytes
}

const textBytes = (text: string): number => Buffer.byteLength(text) + 2

function notJson({ what }: JsonBounds, path: string, why: string): EscrowError {
  const where = path === '' ? what : `${what} at ${path.replace(/^\./, '')}`
  return new EscrowError('invalidArgument', `${where} ${why}, which JSON can't carry`, {
    details: { path: path.replace(/^\./, '') },
  })
}
