import { type ParseArgsConfig, parseArgs } from 'node:util'
import { type EscrowError, unreachable } from '../core/errors.ts'

/** One command of the command line. */
export interface Command {
  readonly name: string
  /** One line. */
  readonly summary: string
  /** All of it: usage, options, examples. */
  readonly help: string
  /** Resolves to the exit code; what it rejects with is printed. */
  run(args: readonly string[], context: { readonly version: string }): Promise<number>
}

/** The command was typed wrongly. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** The exit code of an error: 1 refused, 3 unavailable, 4 uncertain. */
export function exitCodeOf({ family }: EscrowError): number {
  switch (family) {
    case 'refused':
      return 1
    case 'unavailable':
      return 3
    case 'uncertain':
      return 4
    default:
      return unreachable(family)
  }
}

/** node:util's `parseArgs`, strict; what it objects to is a `UsageError`. */
export function parse<Config extends ParseArgsConfig>(
  args: readonly string[],
  config: Config,
): ReturnType<typeof parseArgs<Config>> {
  try {
    return parseArgs({ ...config, args: [...args], strict: true }) as ReturnType<typeof parseArgs<Config>>
  } catch (thrown) {
    throw new UsageError((thrown as Error).message)
  }
}

/** A whole number that came as text; undefined for none. Throws `UsageError`. */
export function numberOf(
  name: string,
  text: string | undefined,
  min: number,
  max: number,
): number | undefined {
  if (text === undefined) return undefined
  const value = Number(text)
  if (!/^\d+$/.test(text) || value < min || value > max) {
    throw new UsageError(`${name} ${JSON.stringify(text)} is not a whole number, ${min}-${max}`)
  }
  return value
}

/** Tags that came as `KEY=VALUE` each; undefined for none. Throws `UsageError`, for a key that comes twice as well. */
export function tagsOf(given: readonly string[]): Readonly<Record<string, string>> | undefined {
  if (given.length === 0) return undefined
  const tags = new Map<string, string>()
  for (const tag of given) {
    const at = tag.indexOf('=')
    if (at < 1) throw new UsageError(`--tag ${JSON.stringify(tag)} is not KEY=VALUE`)
    const key = tag.slice(0, at)
    // A saga has one value of a tag: who gives two would be answered for the last of them.
    if (tags.has(key)) throw new UsageError(`--tag gives ${JSON.stringify(key)} twice`)
    tags.set(key, tag.slice(at + 1))
  }
  return Object.fromEntries(tags)
}
