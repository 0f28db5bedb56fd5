/** The gate that an adapter's options pass once: each error names the option, the value and what is allowed. */
import { EscrowError } from '../core/errors.ts'

/** Wrong options of one adapter: all its checks throw `invalidArgument`. */
export class OptionGate {
  readonly #kind: string
  readonly #options: Readonly<Record<string, unknown>>

  /** Throws where `options` is no object, or has a field that isn't `known`. */
  constructor(kind: string, options: unknown, known: readonly string[]) {
    this.#kind = kind
    if (typeof options !== 'object' || options === null || Array.isArray(options))
      throw new EscrowError('invalidArgument', `${kind}(): its options are not an object`)
    this.#options = options as Readonly<Record<string, unknown>>
    const stranger = Object.keys(options).find((name) => !known.includes(name))
    if (stranger !== undefined) throw this.invalid(stranger, 'an option', `known are ${known.join(', ')}`)
  }

  /** The error of an option. `shown` undefined: the value is kept secret. */
  invalid(option: string, bound: string, hint = '', shown: unknown = undefined): EscrowError {
    const value = shown === undefined ? '' : `${JSON.stringify(shown)?.slice(0, 100)} `
    return new EscrowError(
      'invalidArgument',
      `option ${option} of ${this.#kind}(): ${value}is not ${bound}${hint === '' ? '' : `: ${hint}`}`,
      { details: { option } },
    )
  }

  /** A whole number within its bounds, where it is given. */
  integer(option: string, min: number, max: number): number | undefined {
    const value = this.#options[option]
    if (value === undefined) return undefined
    if (!Number.isSafeInteger(value) || (value as number) < min || (value as number) > max)
      throw this.invalid(option, `a whole number, ${min}-${max}`, '', value)
    return value as number
  }

  /** A text that isn't empty, where it is given. Never shown: it may be a secret. */
  text(option: string): string | undefined {
    const value = this.#options[option]
    if (value === undefined) return undefined
    if (typeof value !== 'string' || value === '') throw this.invalid(option, 'a text')
    return value
  }

  /** One of the words that are allowed, where it is given. */
  choice<Word extends string>(option: string, allowed: readonly Word[]): Word | undefined {
    const value = this.#options[option]
    if (value === undefined) return undefined
    if (!allowed.includes(value as Word))
      throw this.invalid(option, `one of ${allowed.join(', ')}`, '', value)
    return value as Word
  }

  /** An object, where it is given. */
  object<T extends object>(option: string): T | undefined {
    const value = this.#options[option]
    if (value === undefined) return undefined
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw this.invalid(option, 'an object')
    return value as T
  }
}
