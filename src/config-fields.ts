/** What options are parsed by: each field is checked, and its error names the option, the value and the bound. */
import { EscrowError } from './core/errors.ts'
import { parseName } from './core/ids.ts'

/** The error of an option, with its value and its bound. */
export function invalid(option: string, value: unknown, bound: string): EscrowError {
  const shown = typeof value === 'string' ? JSON.stringify(value.slice(0, 100)) : String(value)
  return new EscrowError('invalidArgument', `option ${option}: ${shown} is not ${bound}`, {
    details: { option },
  })
}

/** A whole number within its bounds. Throws `invalidArgument`, as all of these do. */
export function integer(option: string, value: unknown, min: number, max: number): number {
  const isWithin = Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max
  if (!isWithin) throw invalid(option, value, `a whole number, ${min}-${max}`)
  return value as number
}

/** A text. */
export function text(option: string, value: unknown): string {
  if (typeof value !== 'string') throw invalid(option, value, 'a string')
  return value
}

/** One of the words that are allowed. */
export function choice<Value>(option: string, value: Value, allowed: readonly Value[]): Value {
  if (!allowed.includes(value)) throw invalid(option, value, `one of ${allowed.join(', ')}`)
  return value
}

/** A list of names. */
export function list(option: string, value: unknown): readonly string[] {
  if (!Array.isArray(value)) throw invalid(option, value, 'a list of names')
  return value.map((each, at) => parseName(`option ${option}[${at}]:`, text(`${option}[${at}]`, each)))
}

/** An object; with `known`, one that has no other fields. */
export function record(
  option: string,
  value: unknown,
  known?: readonly string[],
): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw invalid(option, value, 'an object')
  const stranger = known && Object.keys(value).find((name) => !known.includes(name))
  if (stranger !== undefined) throw invalid(option, stranger, `an option: known are ${known?.join(', ')}`)
  return value as Readonly<Record<string, unknown>>
}

/** Freezes a value, and all that is in it. */
export function deepFreeze<Value>(value: Value): Value {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value))
    Object.values(Object.freeze(value)).forEach(deepFreeze)
  return value
}
