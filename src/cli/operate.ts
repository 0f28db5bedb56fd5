/** The commands that ask a running coordinator about transactions, or tell it what to do with them. */
import type { StatusResponse, TransactionStatus, TransactionView } from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import type { Session } from '../participant/session.ts'
import { CLIENT_FLAGS, CLIENT_HELP, type ClientOptions, clientOptions } from './client-options.ts'
import { type Command, numberOf, parse, UsageError } from './command.ts'
import { printList, printTransaction } from './print.ts'

/** How long a coordinator is looked for that doesn't answer. */
const CONNECT_MS_MAX = 2_000
const STATUSES: readonly TransactionStatus[] = ['prepared', 'committed', 'delivered', 'rolledBack', 'parked']

interface Given {
  readonly id: string
  readonly values: Readonly<Record<string, unknown>>
  /** Connects, at the first call. */
  session(): Promise<Session>
  readonly options: ClientOptions
}

interface Definition {
  readonly name: string
  readonly summary: string
  readonly usage: string
  /** Help of its own options; empty for none. */
  readonly help?: string
  readonly flags?: Readonly<
    Record<string, { readonly type: 'string' | 'boolean'; readonly multiple?: boolean }>
  >
  readonly takesId: boolean
  run(given: Given): Promise<void>
}

function define(definition: Definition): Command {
  const { name, summary, usage, help = '', flags = {}, takesId } = definition
  return {
    name,
    summary,
    help: `Usage: escrow ${name} ${usage}\n\n${summary[0]?.toUpperCase()}${summary.slice(1)}.\n\n${help}${help && '\n'}${CLIENT_HELP}`,
    async run(args) {
      const { values, positionals } = parse(args, {
        allowPositionals: true,
        options: { ...CLIENT_FLAGS, ...flags },
      })
      if (positionals.length !== (takesId ? 1 : 0)) throw new UsageError(`usage: escrow ${name} ${usage}`)
      const options = clientOptions(values)
      let opened: Promise<Session> | undefined
      const session = () => {
        opened ??= open(options)
        return opened
      }
      try {
        await definition.run({ id: positionals[0] ?? '', values, session, options })
        return 0
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
    })
  } catch (thrown) {
    const error = EscrowError.from(thrown)
    if (error.code !== 'disconnected') throw error
    throw new EscrowError('disconnected', `no coordinator answers at ${address}`, { cause: thrown })
  }
}

const timeout = ({ timeoutMs }: ClientOptions): { readonly timeoutMs: number } => ({ timeoutMs })

/** `escrow get ID`. */
export const get = define({
  name: 'get',
  summary: 'shows one transaction, exactly',
  usage: 'ID [OPTIONS]',
  takesId: true,
  async run({ id, session, options }) {
    printTransaction(await (await session()).get({ id }, timeout(options)), options.json)
  },
})

/** `escrow list`. */
export const list = define({
  name: 'list',
  summary: 'lists transactions, by default all that have not ended',
  usage: '[OPTIONS]',
  help: `  --status STATUS        only these, given once each: ${STATUSES.join(', ')}
  --limit N              at most so many, 1-1000, default 100
  --page-token TOKEN     where the last page ended`,
  flags: {
    status: { type: 'string', multiple: true },
    limit: { type: 'string' },
    'page-token': { type: 'string' },
  },
  takesId: false,
  async run({ values, session, options }) {
    const statuses = ((values.status ?? []) as string[]).map((word) => {
      const status = STATUSES.find((each) => each === word)
      if (status === undefined)
        throw new UsageError(`--status ${JSON.stringify(word)} is none of ${STATUSES.join(', ')}`)
      return status
    })
    const limit = numberOf('--limit', values.limit as string | undefined, 1, 1000)
    const pageToken = values['page-token'] as string | undefined
    printList(await (await session()).list({ statuses, limit, pageToken }, timeout(options)), options.json)
  },
})

/** `escrow commit ID`. */
export const commit = define({
  name: 'commit',
  summary:
    'says that the local transaction committed: for a half message that is parked, or whose service is gone',
  usage: 'ID [OPTIONS]',
  takesId: true,
  async run({ id, session, options }) {
    printStatus(id, await (await session()).commit({ id }, timeout(options)), options)
  },
})

/** `escrow rollback ID`. */
export const rollback = define({
  name: 'rollback',
  summary:
    'says that the local transaction rolled back: for a half message that is parked, or whose service is gone',
  usage: 'ID [--reason TEXT] [OPTIONS]',
  help: '  --reason TEXT          why, for people',
  flags: { reason: { type: 'string' } },
  takesId: true,
  async run({ id, values, session, options }) {
    const reason = values.reason as string | undefined
    printStatus(id, await (await session()).rollback({ id, reason }, timeout(options)), options)
  },
})

/** `escrow retry ID`. */
export const retry = define({
  name: 'retry',
  summary: 'tries a parked execution again: a delivery, or the check-back of a half message',
  usage: 'ID [--execution ID] [--accept-possible-duplicate] [OPTIONS]',
  help: `  --execution ID         which, as \`escrow get\` shows it; may be left out where only one is parked
  --accept-possible-duplicate
                         needed past the last-dispatch deadline: the destination may have forgotten`,
  flags: { execution: { type: 'string' }, 'accept-possible-duplicate': { type: 'boolean' } },
  takesId: true,
  async run({ id, values, session, options }) {
    const executionId =
      (values.execution as string | undefined) ?? (await onlyParked(await session(), id, options))
    const acceptPossibleDuplicate = values['accept-possible-duplicate'] === true
    printStatus(
      id,
      await (await session()).retry({ id, executionId, acceptPossibleDuplicate }, timeout(options)),
      options,
    )
  },
})

/** `escrow skip ID --execution ID`. */
export const skip = define({
  name: 'skip',
  summary: 'gives up a parked delivery for good, and goes on as if it had succeeded',
  usage: 'ID --execution ID [OPTIONS]',
  help: '  --execution ID         which, as `escrow get` shows it',
  flags: { execution: { type: 'string' } },
  takesId: true,
  async run({ id, values, session, options }) {
    const executionId = values.execution as string | undefined
    // Nothing brings it back: it has to be named.
    if (executionId === undefined) throw new UsageError('skip needs --execution ID: `escrow get` shows it')
    printStatus(id, await (await session()).skip({ id, executionId }, timeout(options)), options)
  },
})

/** The one parked execution. What the operator means may not be guessed among several. */
async function onlyParked(session: Session, id: string, options: ClientOptions): Promise<string> {
  const parked = parkedExecutions(await session.get({ id }, timeout(options)))
  if (parked.length === 1) return parked[0] as string
  if (parked.length === 0) throw new EscrowError('notParked', `nothing of ${id} is parked`)
  throw new UsageError(
    `${parked.length} executions of ${id} are parked, so name one with --execution: ${parked.join(', ')}`,
  )
}

function parkedExecutions(transaction: TransactionView): readonly string[] {
  const deliveries = transaction.deliveries
    .filter(({ status }) => status === 'parked')
    .map(({ executionId }) => executionId)
  if (deliveries.length > 0) return deliveries
  return transaction.status === 'parked' ? [transaction.executionId] : []
}

function printStatus(id: string, { status }: StatusResponse, { json }: ClientOptions): void {
  console.log(json ? JSON.stringify({ id, status }) : `${id} ${status}`)
}
