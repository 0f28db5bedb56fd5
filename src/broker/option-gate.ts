/** The gate that an adapter's options pass once: each error names the option, what was given and what is allowed. */
import { EscrowError } from '../core/errors.ts'
import type { TopicPolicy } from './broker.ts'

/** Wrong options of one adapter: all its checks throw `invalidArgument`. An option that isn't given passes them as undefined. */
export class OptionGate {
  readonly #kind: string
  readonly #options: Readonly<Record<string, unknown>>
  readonly #prefix: string

  /** Throws where `options` is no object, or has a field that isn't `known`. `prefix`: where they stand in others. */
  constructor(kind: string, options: unknown, known: readonly string[], prefix = '') {
    this.#kind = kind
    this.#prefix = prefix
    if (!isObject(options))
      throw new EscrowError('invalidArgument', `the options of ${kind}() are not an object`)
    this.#options = options as Readonly<Record<string, unknown>>
    const stranger = Object.keys(options).find((name) => !known.includes(name))
    if (stranger !== undefined) throw this.invalid(stranger, `an option: known are ${known.join(', ')}`)
  }

  /** The error of an option. `shown`: what was given; left out where that may be a secret. */
  invalid(option: string, allowed: string, shown?: unknown): EscrowError {
    const name = `${this.#prefix}${option}`
    const given = shown === undefined ? '' : `: ${toldOf(shown)}`
    return new EscrowError('invalidArgument', `option ${name} of ${this.#kind}()${given} is not ${allowed}`, {
      details: { option: name },
    })
  }

  /** Throws the error of an option that must be given. */
  missing(option: string, allowed = 'a text'): never {
    throw this.invalid(option, `given: it is ${allowed}`)
  }

  /** A whole number within its bounds. */
  integer(option: string, min: number, max: number): number | undefined {
    const isWithin = (value: unknown) =>
      Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max
    return this.#checked(option, isWithin, `a whole number, ${min}-${max}`)
  }

  boolean(option: string): boolean | undefined {
    return this.#checked(option, (value) => typeof value === 'boolean', 'true or false')
  }

  /** A text that isn't empty. Never shown: it may be a secret. */
  text(option: string): string | undefined {
    const value = this.#options[option]
    if (value === undefined) return undefined
    if (typeof value !== 'string' || value === '') throw this.invalid(option, 'a text')
    return value
  }

  /** A text that is no secret. */
  matching(option: string, pattern: RegExp, allowed: string): string | undefined {
    return this.#checked(option, (value) => typeof value === 'string' && pattern.test(value), allowed)
  }

  /** One of the words that are allowed. */
  choice<Word extends string>(option: string, allowed: readonly Word[]): Word | undefined {
    return this.#checked(option, (value) => allowed.includes(value as Word), `one of ${allowed.join(', ')}`)
  }

  /** What adapters have in common, with its defaults. */
  topicPolicy() {
    return {
      durability: this.choice('durability', ['any', 'replicated']) ?? 'any',
      missingTopics: this.choice('missingTopics', ['refuse', 'create']) ?? 'refuse',
    } satisfies TopicPolicy
  }

  object<T extends object>(option: string, allowed = 'an object'): T | undefined {
    const value = this.#options[option]
    if (value === undefined) return undefined
    if (!isObject(value)) throw this.invalid(option, allowed)
    return value as T
  }

  /** The gate of an object's own fields. */
  inner(option: string, known: readonly string[], allowed?: string): OptionGate | undefined {
    const value = this.object(option, allowed)
    return value && new OptionGate(this.#kind, value, known, `${this.#prefix}${option}.`)
  }

  #checked<T>(option: string, isAllowed: (value: unknown) => boolean, allowed: string): T | undefined {
    const value = this.#options[option]
    if (value !== undefined && !isAllowed(value)) throw this.invalid(option, allowed, value)
    return value as T | undefined
  }
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Of objects no content: there may be a secret in it. */
function toldOf(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 100))
  if (Array.isArray(value)) return `a list of ${value.length}`
  return isObject(value) ? 'an object' : String(value).slice(0, 100)
}
