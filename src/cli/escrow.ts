#!/usr/bin/env node
/** The command line: finds the command, and turns what it ends in into output and an exit code. */
import { readFileSync } from 'node:fs'
import { EscrowError } from '../core/errors.ts'
import { type Command, exitCodeOf, UsageError } from './command.ts'
import { explain } from './explain.ts'
import { health } from './health.ts'
import { commit, get, list, retry, rollback, skip } from './operate.ts'
import { serve } from './serve.ts'

const COMMANDS: readonly Command[] = [serve, get, list, commit, rollback, retry, skip, explain, health]

const version = (): string =>
  JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version

function help(): string {
  const width = Math.max(...COMMANDS.map(({ name }) => name.length))
  const rows = COMMANDS.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary}`)
  return `escrow: a coordinator for distributed transactions

Usage: escrow COMMAND [OPTIONS]

${rows.join('\n')}

  --version  prints the version
  --help     prints this, or the help of a command

Ends with 0 on success, 1 when it was refused, 2 on wrong usage, 3 when something is unavailable and trying
again may help, and 4 when the outcome is unknown.
`
}

async function main(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    const asked = COMMANDS.find((command) => command.name === rest[0])
    process.stdout.write(asked === undefined ? help() : `${asked.help}\n`)
    return name === undefined ? 2 : 0
  }
  if (name === '--version' || name === '-v') {
    process.stdout.write(`${version()}\n`)
    return 0
  }
  const command = COMMANDS.find((each) => each.name === name)
  if (command === undefined) {
    throw new UsageError(
      `there is no command ${JSON.stringify(name)}: one of ${COMMANDS.map((each) => each.name).join(', ')}`,
    )
  }
  if (rest.includes('--help') || rest.includes('-h')) {
    process.stdout.write(`${command.help}\n`)
    return 0
  }
  return command.run(rest, { version: version() })
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
