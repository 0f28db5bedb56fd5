import type { MessageCommand, Moment } from '../../src/core/decision.ts'
import { NO_TRACE } from '../../src/core/envelope.ts'
import type { Destination, ExecutionId, Namespace, TransactionId } from '../../src/core/ids.ts'
import type {
  Committed,
  MessageDelivery,
  MessageHead,
  MessageImage,
  MessageState,
} from '../../src/core/message.ts'

/** The moment at which everything here is decided. */
export const WALL_MS = 1_000_000
export const LOG_MS = 900_000

export const moment: Moment = {
  wallMs: WALL_MS,
  logMs: LOG_MS,
  order: 77,
  random: () => 0.5,
  route: () => ({ databaseId: 'db1' }),
  tooLarge: () => undefined,
}

const messageTo = (destination: string) => ({
  destination: destination as Destination,
  body: new TextEncoder().encode(destination),
  headers: {},
  key: '',
  deliverAtMs: 0,
  contentType: 'application/json',
})

export const head: MessageHead = {
  kind: 'message',
  namespace: 'default' as Namespace,
  id: 'order-1' as TransactionId,
  executionId: 'e1' as ExecutionId,
  checker: 'orders',
  orderingKey: '',
  messages: [messageTo('shop/receive'), messageTo('shop/audit')],
  checkBack: { delayMs: 10, delayMsMax: 100, checksMax: 3, onExhausted: 'park', unresolvedMsMax: 10_000 },
  retry: { delayMs: 10, delayMsMax: 100, attemptsMax: 3, attemptTimeoutMs: 50, lastDispatchMsMax: 5_000 },
  databaseId: '',
  trace: NO_TRACE,
  contentHash: 'hash-1',
  preparedAtMs: WALL_MS - 500,
  preparedAtLogMs: LOG_MS - 500,
}

export const waiting: MessageDelivery = {
  status: 'waiting',
  attempts: 1,
  nextAttemptAtMs: LOG_MS,
  firstDispatchAtMs: WALL_MS - 100,
  lastDispatchAtMs: WALL_MS + 4_900,
  databaseId: 'db1',
  error: 'once failed',
}
export const delivered: MessageDelivery = { ...waiting, status: 'delivered', attempts: 0, error: '' }
export const parked: MessageDelivery = { ...waiting, status: 'parked', attempts: 3, error: 'gave up' }

const committed = (...deliveries: readonly MessageDelivery[]): Committed => ({
  phase: 'committed',
  checks: 1,
  settledBy: 'caller',
  settledAtMs: WALL_MS - 200,
  order: 5,
  deliveries,
  finishedAtMs: deliveries.every(({ status }) => status === 'delivered') ? WALL_MS - 50 : 0,
})

/** One or more images of every phase; a new phase doesn't compile until it has one. */
const byPhase = {
  prepared: {
    prepared: {
      phase: 'prepared',
      checks: 1,
      misses: 0,
      nextCheckAtMs: LOG_MS,
      unresolvedAtMs: LOG_MS + 9_500,
      lastCheckAtMs: WALL_MS + 4_500,
    },
  },
  undecided: { undecided: { phase: 'undecided', checks: 3, reason: 'check-backs exhausted' } },
  committed: {
    waiting: committed(waiting, waiting),
    parked: committed(parked, delivered),
    partly: committed(waiting, delivered),
    delivered: committed(delivered, delivered),
  },
  rolledBack: {
    rolledBack: {
      phase: 'rolledBack',
      checks: 0,
      settledBy: 'caller',
      settledAtMs: WALL_MS - 200,
      reason: 'no stock',
    },
  },
} as const satisfies Record<MessageState['phase'], Record<string, MessageState>>

type StatesOf<Phases> = { [Phase in keyof Phases]: keyof Phases[Phase] }[keyof Phases]
/** Every state that the table has a row for. */
export type StateName = 'none' | StatesOf<typeof byPhase>

const imageOf = (state: MessageState): MessageImage => ({ head, state })

export const images: Record<StateName, MessageImage | undefined> = {
  none: undefined,
  prepared: imageOf(byPhase.prepared.prepared),
  undecided: imageOf(byPhase.undecided.undecided),
  waiting: imageOf(byPhase.committed.waiting),
  parked: imageOf(byPhase.committed.parked),
  partly: imageOf(byPhase.committed.partly),
  delivered: imageOf(byPhase.committed.delivered),
  rolledBack: imageOf(byPhase.rolledBack.rolledBack),
}

const answer = (resolution: 'commit' | 'rollback' | 'unknown'): MessageCommand => ({
  type: 'answerCheckBack',
  outcome: { resolution, bodies: [], error: 'as the checker says' },
})
const outcome = (how: 'delivered' | 'failed' | 'refused' | 'unknown' | 'noSession'): MessageCommand => ({
  type: 'answerDelivery',
  index: 0,
  attempt: 2,
  outcome: { outcome: how, error: how },
})

/** Every command in each of the shapes that matter; a new command doesn't compile until it has one. */
const byType = {
  prepareMessage: {
    prepareAgain: { type: 'prepareMessage', head: { ...head, executionId: 'e2' as ExecutionId } },
    prepareOther: { type: 'prepareMessage', head: { ...head, contentHash: 'hash-2' } },
  },
  commitMessage: { commit: { type: 'commitMessage', by: 'caller', bodies: [] } },
  rollbackMessage: { rollback: { type: 'rollbackMessage', by: 'policy', reason: 'asked to' } },
  requestCheckBack: { requestCheckBack: { type: 'requestCheckBack' } },
  checkBackDue: { checkBackDue: { type: 'checkBackDue' } },
  answerCheckBack: {
    answerCommit: answer('commit'),
    answerRollback: answer('rollback'),
    answerUnknown: answer('unknown'),
    answerNobody: { type: 'answerCheckBack', outcome: { outcome: 'noSession', error: 'away' } },
  },
  dispatchDelivery: { dispatch: { type: 'dispatchDelivery', index: 0 } },
  answerDelivery: {
    sayDelivered: outcome('delivered'),
    sayFailed: outcome('failed'),
    sayRefused: outcome('refused'),
    sayUnknown: outcome('unknown'),
    sayNobody: outcome('noSession'),
  },
  retryExecution: {
    retryDelivery: { type: 'retryExecution', executionId: 'e1.0', acceptPossibleDuplicate: false },
    retryLocal: { type: 'retryExecution', executionId: 'e1', acceptPossibleDuplicate: false },
  },
  skipExecution: { skip: { type: 'skipExecution', executionId: 'e1.0' } },
  compensateExecution: { compensate: { type: 'compensateExecution', executionId: 'e1.0' } },
} as const satisfies Record<MessageCommand['type'], Record<string, MessageCommand>>

type CommandsOf<Types> = { [Type in keyof Types]: keyof Types[Type] }[keyof Types]
/** Every command that the table has a column for. */
export type CommandName = CommandsOf<typeof byType>

export const commands = Object.assign({}, ...Object.values(byType)) as Record<CommandName, MessageCommand>

/** The state of an image, which must be in this phase. */
export function stateIn<Phase extends MessageState['phase']>(
  image: MessageImage | undefined,
  phase: Phase,
): Extract<MessageState, { phase: Phase }> {
  if (image?.state.phase !== phase) throw new Error(`${image?.state.phase}, not ${phase}`)
  return image.state as Extract<MessageState, { phase: Phase }>
}
