/** Values that JSON can carry, checked, so that what was decided on is what a row gives back. Their sizes: `SagaLimits`. */
import { EscrowError } from '../errors.ts'
import type { Json } from './program.ts'

/** How deep a value nests. */
export const VALUE_DEPTH_MAX = 64

/**
 * Checks that a value is one that JSON can carry: plain objects and arrays, finite numbers, well-formed text. A property
 * that is undefined counts as left out. `what` names it in errors. Throws `invalidArgument` with the path.
 */
export function checkJson(value: unknown, what: string): Json | undefined {
  if (value === undefined) return undefined
  // Once more where it isn't, for what is wrong with it, and where.
  if (!isJson(value, 0)) check(value, what, '', 0)
  return value as Json
}

/** Whether JSON can carry it, without a word of what is wrong. Hot. */
function isJson(value: unknown, depth: number): boolean {
  if (depth > VALUE_DEPTH_MAX) return false
  switch (typeof value) {
    case 'string':
      return value.isWellFormed()
    case 'number':
      return Number.isFinite(value)
    case 'boolean':
      return true
    case 'object':
      return value === null || isJsonObject(value, depth)
    default:
      return false
  }
}

function isJsonObject(value: object, depth: number): boolean {
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index++) if (!isJson(value[index], depth + 1)) return false
    return true
  }
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) return false
  // Nothing is inherited that would be seen here, and this makes no list of keys.
  for (const key in value) {
    const property = (value as Record<string, unknown>)[key]
    if (property !== undefined && !isJson(property, depth + 1)) return false
  }
  return true
}

function check(value: unknown, what: string, path: string, depth: number): void {
  if (depth > VALUE_DEPTH_MAX)
    throw notJson(what, path, `nests deeper than VALUE_DEPTH_MAX allows (${VALUE_DEPTH_MAX})`)
  switch (typeof value) {
    case 'string':
      if (!value.isWellFormed()) throw notJson(what, path, 'is not well-formed Unicode')
      return
    case 'number':
      if (!Number.isFinite(value)) throw notJson(what, path, `is ${value}`)
      return
    case 'boolean':
      return
    case 'object':
      if (value === null) return
      if (Array.isArray(value)) {
        for (let index = 0; index < value.length; index++)
          check(value[index], what, `${path}[${index}]`, depth + 1)
      } else checkObject(value, what, path, depth)
      return
    default:
      throw notJson(what, path, `is a ${typeof value}`)
  }
}

function checkObject(value: object, what: string, path: string, depth: number): void {
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null)
    throw notJson(what, path, `is a ${value.constructor?.name ?? 'class instance'}, no plain object`)
  for (const [key, each] of Object.entries(value))
    if (each !== undefined) check(each, what, `${path}.${key}`, depth + 1)
}

function notJson(what: string, path: string, why: string): EscrowError {
  const where = path === '' ? what : `${what} at ${path.replace(/^\./, '')}`
  return new EscrowError('invalidArgument', `${where} ${why}, which JSON can't carry`, {
    details: { path: path.replace(/^\./, '') },
  })
}
