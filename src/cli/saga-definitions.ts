/** The commands that look at the definitions of the configuration file; they ask no coordinator. */
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { parseConfig } from '../config.ts'
import { EscrowError } from '../core/errors.ts'
import type { SagaDefinition } from '../core/saga/define.ts'
import { type Command, numberOf, parse, UsageError } from './command.ts'
import { CONFIG_FILES, optionsOfFile } from './config-file.ts'
import { printTable } from './print.ts'

type Definition = SagaDefinition<never, unknown>

const CONFIG_HELP = `  --config FILE      the configuration, default ${CONFIG_FILES.join(' or ')} in this folder`
const VERSION_MAX = 1_000_000
const FORMATS = ['mermaid', 'xstate'] as const

/** `escrow saga list`. */
export const sagaList: Command = {
  name: 'saga list',
  summary: 'lists the sagas that the configuration defines',
  help: `Usage: escrow saga list [OPTIONS]

Lists the sagas that the configuration defines, with their steps and signals.

${CONFIG_HELP}
  --json             prints them as JSON`,
  async run(args) {
    const { values } = parse(args, { options: { config: { type: 'string' }, json: { type: 'boolean' } } })
    const rows = (await definitions(values.config)).map(({ name, version, program }) => ({
      name,
      version,
      hash: program.hash,
      steps: [...program.steps.keys()],
      signals: [...program.signals],
    }))
    if (values.json === true) console.log(JSON.stringify(rows, undefined, 2))
    else
      printTable(
        ['NAME', 'VERSION', 'HASH', 'STEPS', 'SIGNALS'],
        rows.map((row) => [
          row.name,
          String(row.version),
          row.hash.slice(0, 12),
          row.steps.join(', '),
          row.signals.join(', '),
        ]),
      )
    return 0
  },
}

/** `escrow saga diagram NAME`. */
export const sagaDiagram: Command = {
  name: 'saga diagram',
  summary: 'prints a saga that the configuration defines as a diagram',
  help: `Usage: escrow saga diagram NAME [OPTIONS]

Prints a saga that the configuration defines: as Mermaid, or as the JSON that xstate's tools read.

  --version N        which version, default the newest
  --format FORMAT    ${FORMATS.join(' or ')}, default mermaid
${CONFIG_HELP}`,
  async run(args) {
    const { values, positionals } = parse(args, {
      allowPositionals: true,
      options: { config: { type: 'string' }, version: { type: 'string' }, format: { type: 'string' } },
    })
    const [name] = positionals
    if (name === undefined || positionals.length > 1)
      throw new UsageError('usage: escrow saga diagram NAME [OPTIONS]')
    const format = FORMATS.find((each) => each === (values.format ?? 'mermaid'))
    if (format === undefined)
      throw new UsageError(`--format ${JSON.stringify(values.format)} is none of ${FORMATS.join(', ')}`)
    const version = numberOf('--version', values.version, 1, VERSION_MAX)
    const definition = named(await definitions(values.config), name, version)
    process.stdout.write(
      format === 'mermaid'
        ? definition.diagram()
        : `${JSON.stringify(definition.xstateJson(), undefined, 2)}\n`,
    )
    return 0
  },
}

/** By name, then by version, the newest last. */
async function definitions(config: string | undefined): Promise<readonly Definition[]> {
  if (config === undefined && !CONFIG_FILES.some((file) => existsSync(file))) {
    throw new EscrowError(
      'invalidArgument',
      `there is none of ${CONFIG_FILES.join(', ')} in ${resolve('.')}: name the configuration with --config FILE`,
    )
  }
  const { sagas } = parseConfig((await optionsOfFile(config)) ?? {})
  return [...sagas.values()].sort(
    (one, other) =>
      (one.name < other.name ? -1 : Number(one.name > other.name)) || one.version - other.version,
  )
}

function named(all: readonly Definition[], name: string, version: number | undefined): Definition {
  const versions = all.filter((each) => each.name === name)
  const found = versions.findLast((each) => version === undefined || each.version === version)
  if (found !== undefined) return found
  if (versions.length === 0) {
    const names = [...new Set(all.map((each) => each.name))]
    throw new EscrowError(
      'unknownSaga',
      `the configuration defines no saga ${JSON.stringify(name)}: ${names.length === 0 ? 'it defines none' : `it has ${names.join(', ')}`}`,
    )
  }
  throw new EscrowError(
    'unknownVersion',
    `saga ${JSON.stringify(name)} has no version ${version}: it has ${versions.map((each) => each.version).join(', ')}`,
  )
}
