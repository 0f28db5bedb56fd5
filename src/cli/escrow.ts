#!/usr/bin/env node
/** The command line: finds the command, and turns what it ends in into output and an exit code. */
import { readFileSync } from 'node:fs'
import { EscrowError } from '../core/errors.ts'
import { type Command, exitCodeOf, UsageError } from './command.ts'
import { explain } from './explain.ts'
import { health } from './health.ts'
import { migrate } from './migrate.ts'
import { logs, nodes } from './nodes.ts'
import { commit, compensate, get, list, retry, rollback, skip } from './operate.ts'
import { sagaCancel, sagaComplete, sagaSignal, sagaSlip, sagaStart } from './saga.ts'
import { sagaDiagram, sagaList } from './saga-definitions.ts'
import { sagaMigrate } from './saga-migrate.ts'
import { serve } from './serve.ts'

const COMMANDS: readonly Command[] = [
  serve,
  get,
  list,
  commit,
  rollback,
  retry,
  skip,
  compensate,
  sagaStart,
  sagaSlip,
  sagaSignal,
  sagaCancel,
  sagaComplete,
  sagaMigrate,
  sagaList,
  sagaDiagram,
  nodes,
  logs,
  migrate,
  explain,
  health,
]

const version = (): string =>
  JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version

function rows(commands: readonly Command[]): string {
  const width = Math.max(...commands.map(({ name }) => name.length))
  return commands.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary}`).join('\n')
}

function help(): string {
  return `escrow: a coordinator for distributed transactions

Usage: escrow COMMAND [OPTIONS]

${rows(COMMANDS)}

  --version  prints the version
  --help     prints this, or the help of a command

Ends with 0 on success, 1 when it was refused, 2 on wrong usage, 3 when something is unavailable and trying
again may help, and 4 when the outcome is unknown.
`
}

async function main(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    const { command } = find(rest)
    process.stdout.write(command === undefined ? help() : `${command.help}\n`)
    return name === undefined ? 2 : 0
  }
  if (name === '--version' || name === '-v') {
    process.stdout.write(`${version()}\n`)
    return 0
  }
  const { command, given } = find(args)
  const isHelp = given.includes('--help') || given.includes('-h')
  if (command === undefined) return group(name, given, isHelp)
  if (isHelp) {
    process.stdout.write(`${command.help}\n`)
    return 0
  }
  return command.run(given, { version: version() })
}

/** The command that is meant, whose name may have two words, and what is given to it. */
function find(args: readonly string[]): { command: Command | undefined; given: readonly string[] } {
  for (const words of [2, 1]) {
    const name = args.slice(0, words).join(' ')
    const command = COMMANDS.find((each) => each.name === name)
    if (command !== undefined) return { command, given: args.slice(words) }
  }
  return { command: undefined, given: args.slice(1) }
}

/** The first word alone names a group of commands, or nothing. */
function group(name: string, given: readonly string[], isHelp: boolean): number {
  const commands = COMMANDS.filter((each) => each.name.startsWith(`${name} `))
  if (commands.length > 0 && (isHelp || given.length === 0)) {
    process.stdout.write(`Usage: escrow ${name} COMMAND [OPTIONS]\n\n${rows(commands)}\n`)
    return isHelp ? 0 : 2
  }
  const [among, what] = commands.length > 0 ? [commands, `${name} ${given[0]}`] : [COMMANDS, name]
  throw new UsageError(
    `there is no command ${JSON.stringify(what)}: one of ${among.map((each) => each.name).join(', ')}`,
  )
}

function complain(thrown: unknown): number {
  if (thrown instanceof UsageError) {
    process.stderr.write(`escrow: ${thrown.message}\nSee \`escrow --help\`.\n`)
    return 2
  }
  const error = EscrowError.from(thrown)
  process.stderr.write(`escrow: ${error.code}: ${error.message}\n  ${error.remedy}\n`)
  if (process.env.ESCROW_DEBUG)
    process.stderr.write(`${error.stack}\n${error.cause instanceof Error ? error.cause.stack : ''}\n`)
  return exitCodeOf(error)
}

// What gRPC's library would write to standard error by itself is in the errors that it ends in, too.
process.env.GRPC_VERBOSITY ??= 'NONE'
// The exit code is set and not forced: what was written to a pipe is still on its way.
process.exitCode = await main(process.argv.slice(2)).catch(complain)
