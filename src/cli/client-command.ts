/** What the commands share that ask a running coordinator. */
import type { StatusResponse } from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import type { Session } from '../participant/session.ts'
import { CLIENT_FLAGS, CLIENT_HELP, type ClientOptions, clientOptions } from './client-options.ts'
import { type Command, parse, UsageError } from './command.ts'

/** How long a coordinator is looked for that doesn't answer. */
const CONNECT_MS_MAX = 2_000

/** What a command is given. */
export interface Given {
  /** What stands without a name, as many as `takes` has. */
  readonly positionals: readonly string[]
  /** The first of them. */
  readonly id: string
  readonly values: Readonly<Record<string, unknown>>
  /** Connects, at the first call. */
  session(): Promise<Session>
  readonly options: ClientOptions
}

/** A command that asks a coordinator. */
export interface ClientCommand {
  readonly name: string
  readonly summary: string
  readonly usage: string
  /** Help of its own options; empty for none. */
  readonly help?: string
  readonly flags?: Readonly<
    Record<string, { readonly type: 'string' | 'boolean'; readonly multiple?: boolean }>
  >
  /** The names of what it takes without a name of an option. */
  readonly takes: readonly string[]
  /** They may all be left out. */
  readonly isOptional?: boolean
  /** Resolves to the exit code, if that isn't 0. */
  run(given: Given): Promise<number | undefined>
}

/** Makes the command: its help, its options, its session. */
export function define(definition: ClientCommand): Command {
  const { name, summary, usage, help = '', flags = {}, takes, isOptional = false } = definition
  return {
    name,
    summary,
    help: `Usage: escrow ${name} ${usage}\n\n${summary[0]?.toUpperCase()}${summary.slice(1)}.\n\n${help}${help && '\n'}${CLIENT_HELP}`,
    async run(args) {
      const { values, positionals } = parse(args, {
        allowPositionals: true,
        options: { ...CLIENT_FLAGS, ...flags },
      })
      const isLeftOut = isOptional && positionals.length === 0
      if (positionals.length !== takes.length && !isLeftOut)
        throw new UsageError(`usage: escrow ${name} ${usage}`)
      const options = clientOptions(values)
      let opened: Promise<Session> | undefined
      const session = () => {
        opened ??= open(options)
        return opened
      }
      try {
        const given = { positionals, id: positionals[0] ?? '', values, session, options }
        return (await definition.run(given)) ?? 0
      } finally {
        await opened?.then((each) => each.close()).catch(() => {})
      }
    },
  }
}

/** Connects. Rejects with `disconnected` where nobody answers. */
async function open({ address, namespace, timeoutMs }: ClientOptions): Promise<Session> {
  // Only now: help and wrong usage needn't wait for gRPC to load.
  const { connect } = await import('../participant/connect.ts')
  const connectTimeoutMs = Math.min(timeoutMs, CONNECT_MS_MAX)
  try {
    return await connect(address, {
      service: 'escrow-cli',
      namespace,
      connectTimeoutMs,
      deliveriesMax: 0,
      checkBacksMax: 0,
      stepsMax: 0,
    })
  } catch (thrown) {
    const error = EscrowError.from(thrown)
    if (error.code !== 'disconnected') throw error
    throw new EscrowError('disconnected', `no coordinator answers at ${address}`, { cause: thrown })
  }
}

/** How long to wait for an answer. */
export const timeout = ({ timeoutMs }: ClientOptions): { readonly timeoutMs: number } => ({ timeoutMs })

/** Prints what a transaction is now. */
export function printStatus(id: string, { status }: StatusResponse, { json }: ClientOptions): void {
  console.log(json ? JSON.stringify({ id, status }) : `${id} ${status}`)
}
