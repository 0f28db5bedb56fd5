/** The commands that ask a running coordinator about transactions, or tell it what to do with them. */
import type { ListRequest, TransactionKind, TransactionStatus, TransactionView } from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import type { Session } from '../participant/session.ts'
import { define, printStatus, timeout } from './client-command.ts'
import type { ClientOptions } from './client-options.ts'
import { numberOf, tagsOf, UsageError } from './command.ts'
import { printList, printTransaction } from './print.ts'

const STATUSES: readonly TransactionStatus[] = [
  'prepared',
  'committed',
  'delivered',
  'rolledBack',
  'running',
  'completed',
  'compensating',
  'compensated',
  'parked',
]
const KINDS: readonly TransactionKind[] = ['message', 'saga']

/** `escrow get ID`. */
export const get = define({
  name: 'get',
  summary: 'shows one transaction, exactly',
  usage: 'ID [OPTIONS]',
  takes: ['ID'],
  async run({ id, session, options }) {
    printTransaction(await (await session()).get({ id }, timeout(options)), options.json)
    return undefined
  },
})

/** `escrow list`. */
export const list = define({
  name: 'list',
  summary: 'lists transactions, by default all that have not ended',
  usage: '[OPTIONS]',
  help: `  --status STATUS        only these, given once each: ${STATUSES.join(', ')}
  --business-key KEY     only sagas with this business key
  --tag KEY=VALUE        only sagas with this tag; given several times, with all of them
  --saga NAME            only sagas of this definition
  --kind KIND            only this kind: ${KINDS.join(', ')}
  --limit N              at most so many, 1-1000, default 100
  --page-token TOKEN     where the last page ended

By status, business key and tags they are found by an index. By --saga and --kind they are looked for among 10,000 of the rest,
and so are, on the embedded store, those that were delivered or completed among those that ended: a page may have fewer than
--limit, or none, and still a next one.`,
  flags: {
    status: { type: 'string', multiple: true },
    'business-key': { type: 'string' },
    tag: { type: 'string', multiple: true },
    saga: { type: 'string' },
    kind: { type: 'string' },
    limit: { type: 'string' },
    'page-token': { type: 'string' },
  },
  takes: [],
  async run({ values, session, options }) {
    const text = (name: string): string | undefined => values[name] as string | undefined
    const kind = text('kind')
    const request: ListRequest = {
      statuses: ((values.status ?? []) as string[]).map((word) => oneOf('--status', word, STATUSES)),
      businessKey: text('business-key'),
      tags: tagsOf((values.tag ?? []) as string[]),
      saga: text('saga'),
      kind: kind === undefined ? undefined : oneOf('--kind', kind, KINDS),
      limit: numberOf('--limit', text('limit'), 1, 1000),
      pageToken: text('page-token'),
    }
    printList(await (await session()).list(request, timeout(options)), options.json)
    return undefined
  },
})

/** `escrow commit ID`. */
export const commit = define({
  name: 'commit',
  summary:
    'says that the local transaction committed: for a half message that is parked, or whose service is gone',
  usage: 'ID [OPTIONS]',
  takes: ['ID'],
  async run({ id, session, options }) {
    printStatus(id, await (await session()).commit({ id }, timeout(options)), options)
    return undefined
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
  takes: ['ID'],
  async run({ id, values, session, options }) {
    const reason = values.reason as string | undefined
    printStatus(id, await (await session()).rollback({ id, reason }, timeout(options)), options)
    return undefined
  },
})

/** `escrow retry ID`. */
export const retry = define({
  name: 'retry',
  summary:
    'tries again what is parked: a delivery, a check-back, a step or compensation of a saga, or a saga itself',
  usage: 'ID [--execution ID] [--accept-possible-duplicate] [OPTIONS]',
  help: `  --execution ID         which, as \`escrow get\` shows it; may be left out where only one is parked
  --accept-possible-duplicate
                         needed past the last-dispatch deadline: the destination may have forgotten`,
  flags: { execution: { type: 'string' }, 'accept-possible-duplicate': { type: 'boolean' } },
  takes: ['ID'],
  async run({ id, values, session, options }) {
    const executionId =
      (values.execution as string | undefined) ?? (await onlyParked(await session(), id, options))
    const acceptPossibleDuplicate = values['accept-possible-duplicate'] === true
    printStatus(
      id,
      await (await session()).retry({ id, executionId, acceptPossibleDuplicate }, timeout(options)),
      options,
    )
    return undefined
  },
})

/** `escrow skip ID --execution ID`. */
export const skip = define({
  name: 'skip',
  summary:
    'gives up what is parked for good, and goes on as if it had succeeded: a delivery, a step, a compensation',
  usage: 'ID --execution ID [OPTIONS]',
  help: '  --execution ID         which, as `escrow get` shows it',
  flags: { execution: { type: 'string' } },
  takes: ['ID'],
  async run({ id, values, session, options }) {
    const executionId = values.execution as string | undefined
    // Nothing brings it back: it has to be named.
    if (executionId === undefined) throw new UsageError('skip needs --execution ID: `escrow get` shows it')
    printStatus(id, await (await session()).skip({ id, executionId }, timeout(options)), options)
    return undefined
  },
})

/** `escrow compensate ID`. */
export const compensate = define({
  name: 'compensate',
  summary: 'undoes a parked saga, all that it has done',
  usage: 'ID [--execution ID] [OPTIONS]',
  help: `  --execution ID         the parked step that it can't go on from, as \`escrow get\` shows it; may be left out where
                         only one is parked`,
  flags: { execution: { type: 'string' } },
  takes: ['ID'],
  async run({ id, values, session, options }) {
    const executionId =
      (values.execution as string | undefined) ?? (await onlyParked(await session(), id, options))
    printStatus(id, await (await session()).compensate({ id, executionId }, timeout(options)), options)
    return undefined
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

function parkedExecutions({ deliveries, saga, status, executionId }: TransactionView): readonly string[] {
  const parked = [
    ...deliveries.filter((each) => each.status === 'parked'),
    ...(saga?.executions ?? []).filter((each) => each.status === 'parked' || each.compensation === 'parked'),
  ]
  if (parked.length > 0) return parked.map((each) => each.executionId)
  return status === 'parked' ? [executionId] : []
}

function oneOf<T extends string>(name: string, word: string, allowed: readonly T[]): T {
  const found = allowed.find((each) => each === word)
  if (found !== undefined) return found
  throw new UsageError(`${name} ${JSON.stringify(word)} is none of ${allowed.join(', ')}`)
}
