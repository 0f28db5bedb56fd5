/** The configuration file: found, loaded, and not parsed yet. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { EscrowOptions } from '../config.ts'
import { EscrowError } from '../core/errors.ts'

/** Looked for in the working directory, in this order. */
export const CONFIG_FILES = ['escrow.config.ts', 'escrow.config.js', 'escrow.config.mjs'] as const

/** What a configuration file exports; undefined where none was named and none is here. Rejects with `invalidArgument`. */
export async function optionsOfFile(given: string | undefined): Promise<EscrowOptions | undefined> {
  const file = given ?? CONFIG_FILES.find((name) => existsSync(name))
  if (file === undefined) return undefined
  const path = resolve(file)
  if (!existsSync(path)) throw new EscrowError('invalidArgument', `there is no configuration file ${path}`)
  let module: { default?: unknown }
  try {
    module = (await import(pathToFileURL(path).href)) as { default?: unknown }
  } catch (cause) {
    // As a saga that breaks a rule: its code says what to do.
    if (cause instanceof EscrowError)
      throw new EscrowError(cause.code, `${path}: ${cause.message}`, { details: cause.details, cause })
    const why = cause instanceof Error ? cause.message : String(cause)
    throw new EscrowError('invalidArgument', `the configuration file ${path} can't be loaded: ${why}`, {
      cause,
    })
  }
  if (typeof module.default !== 'object' || module.default === null) {
    throw new EscrowError(
      'invalidArgument',
      `${path} doesn't export its options: \`export default defineConfig({ … })\``,
    )
  }
  return module.default as EscrowOptions
}
