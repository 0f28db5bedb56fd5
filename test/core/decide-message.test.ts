import { expect, test } from 'vitest'
import { decideMessage } from '../../src/core/decide-message.ts'
import type { MessageEffect } from '../../src/core/decision.ts'
import type { HalfMessage } from '../../src/core/envelope.ts'
import { type ErrorCode, EscrowError } from '../../src/core/errors.ts'
import type {
  Committed,
  MessageDelivery,
  MessageHead,
  MessageState,
  Prepared,
} from '../../src/core/message.ts'
import {
  type CommandName,
  commands,
  delivered,
  head,
  images,
  LOG_MS,
  moment,
  parked,
  type StateName,
  stateIn,
  WALL_MS,
  waiting,
} from './message-fixtures.ts'

/** What a command comes to: a code of a refusal, or the next state (none: as it was) and all effects. */
type Cell = ErrorCode | { readonly next?: MessageState; readonly effects?: readonly MessageEffect[] }

const nothing: Cell = {}
const preparedNow = stateIn(images.prepared, 'prepared')
const dispatched: MessageDelivery = {
  status: 'waiting',
  attempts: 0,
  nextAttemptAtMs: LOG_MS,
  firstDispatchAtMs: WALL_MS,
  lastDispatchAtMs: WALL_MS + 5_000,
  databaseId: 'db1',
  error: '',
}
const published: readonly MessageEffect[] = [
  { type: 'Publication', index: 0, attempt: 1 },
  { type: 'Publication', index: 1, attempt: 1 },
]

const committedBy = (settledBy: Committed['settledBy'], checks: number): Cell => ({
  next: {
    phase: 'committed',
    checks,
    settledBy,
    settledAtMs: WALL_MS,
    order: 77,
    deliveries: [dispatched, dispatched],
    finishedAtMs: 0,
  },
  effects: published,
})
const rolledBackBy = (settledBy: Committed['settledBy'], checks: number, reason: string): Cell => ({
  next: { phase: 'rolledBack', checks, settledBy, settledAtMs: WALL_MS, reason },
})
/** The state with its first delivery changed. */
const first = (state: StateName, delivery: MessageDelivery, finishedAtMs = 0): Cell => {
  const from = stateIn(images[state], 'committed')
  return { next: { ...from, deliveries: from.deliveries.with(0, delivery), finishedAtMs } }
}

const unheard: Record<Exclude<CommandName, 'prepareAgain' | 'prepareOther'>, Cell> = {
  commit: 'notFound',
  rollback: 'notFound',
  requestCheckBack: 'notFound',
  checkBackDue: nothing,
  answerCommit: nothing,
  answerRollback: nothing,
  answerUnknown: nothing,
  answerNobody: nothing,
  dispatch: nothing,
  sayDelivered: nothing,
  sayFailed: nothing,
  sayRefused: nothing,
  sayUnknown: nothing,
  sayNobody: nothing,
  retryDelivery: 'notFound',
  retryLocal: 'notFound',
  skip: 'notFound',
  compensate: 'notFound',
}

const firstPrepare: Cell = {
  next: {
    phase: 'prepared',
    checks: 0,
    misses: 0,
    nextCheckAtMs: LOG_MS - 490,
    unresolvedAtMs: LOG_MS + 9_500,
    lastCheckAtMs: WALL_MS + 4_500,
  },
}

/** Where no delivery is under way. */
const noDelivery = {
  dispatch: nothing,
  sayDelivered: nothing,
  sayFailed: nothing,
  sayRefused: nothing,
  sayUnknown: nothing,
  sayNobody: nothing,
} as const
/** Where no check-back matters any more. */
const noCheckBack = {
  requestCheckBack: nothing,
  checkBackDue: nothing,
  answerCommit: nothing,
  answerRollback: nothing,
  answerUnknown: nothing,
  answerNobody: nothing,
} as const
const known = { prepareAgain: nothing, prepareOther: 'idReused', compensate: 'unsupported' } as const
const committedAlready = {
  ...known,
  ...noCheckBack,
  commit: nothing,
  rollback: 'resolutionConflict',
} as const

const underWay = (state: 'waiting' | 'partly', onDelivered: Cell): Record<CommandName, Cell> => ({
  ...committedAlready,
  dispatch: { effects: [{ type: 'Publication', index: 0, attempt: 2 }] },
  sayDelivered: onDelivered,
  sayFailed: first(state, { ...waiting, attempts: 2, nextAttemptAtMs: LOG_MS + 10, error: 'failed' }),
  sayRefused: first(state, { ...waiting, status: 'parked', attempts: 2, error: 'refused: refused' }),
  sayUnknown: first(state, { ...waiting, attempts: 2, nextAttemptAtMs: LOG_MS + 10, error: 'unknown' }),
  sayNobody: first(state, { ...waiting, nextAttemptAtMs: LOG_MS + 75 }),
  retryDelivery: 'notParked',
  retryLocal: 'unknownExecution',
  skip: 'notParked',
})

const table: Record<StateName, Record<CommandName, Cell>> = {
  none: { ...unheard, prepareAgain: firstPrepare, prepareOther: firstPrepare },
  prepared: {
    ...known,
    ...noDelivery,
    commit: committedBy('caller', 1),
    rollback: rolledBackBy('policy', 1, 'asked to'),
    requestCheckBack: { effects: [{ type: 'CheckBack', attempt: 2 }] },
    checkBackDue: { effects: [{ type: 'CheckBack', attempt: 2 }] },
    answerCommit: committedBy('checkBack', 2),
    answerRollback: rolledBackBy('checkBack', 2, 'as the checker says'),
    answerUnknown: { next: { ...preparedNow, checks: 2, nextCheckAtMs: LOG_MS + 15 } },
    answerNobody: { next: { ...preparedNow, misses: 1, nextCheckAtMs: LOG_MS + 15 } },
    retryDelivery: 'notParked',
    retryLocal: 'notParked',
    skip: 'notParked',
  },
  undecided: {
    ...known,
    ...noCheckBack,
    ...noDelivery,
    commit: committedBy('caller', 3),
    rollback: rolledBackBy('policy', 3, 'asked to'),
    // The question was asked before it was parked: its answer settles it as well as any.
    answerCommit: committedBy('checkBack', 4),
    answerRollback: rolledBackBy('checkBack', 4, 'as the checker says'),
    retryDelivery: 'unknownExecution',
    retryLocal: {
      next: {
        phase: 'prepared',
        checks: 0,
        misses: 0,
        nextCheckAtMs: LOG_MS,
        unresolvedAtMs: LOG_MS + 10_000,
        lastCheckAtMs: WALL_MS + 5_000,
      },
      effects: [{ type: 'CheckBack', attempt: 1 }],
    },
    skip: 'unsupported',
  },
  waiting: underWay('waiting', first('waiting', { ...waiting, status: 'delivered', error: '' })),
  partly: underWay('partly', first('partly', { ...waiting, status: 'delivered', error: '' }, WALL_MS)),
  parked: {
    ...committedAlready,
    ...noDelivery,
    retryDelivery: first('parked', { ...parked, status: 'waiting', attempts: 0 }),
    retryLocal: 'unknownExecution',
    skip: first('parked', { ...parked, status: 'skipped' }, WALL_MS),
  },
  delivered: {
    ...committedAlready,
    ...noDelivery,
    retryDelivery: 'notParked',
    retryLocal: 'unknownExecution',
    skip: 'notParked',
  },
  rolledBack: {
    ...known,
    ...noCheckBack,
    ...noDelivery,
    commit: 'resolutionConflict',
    rollback: nothing,
    retryDelivery: 'notParked',
    retryLocal: 'notParked',
    skip: 'notParked',
  },
}

for (const state of Object.keys(table) as StateName[]) {
  test(`${state}: every command has its next state, its effects and its refusal, and no others`, () => {
    for (const name of Object.keys(table[state]) as CommandName[]) {
      const image = images[state]
      const before = structuredClone(image)
      const { next, effects, refused } = decideMessage(image, commands[name], moment)
      const cell = table[state][name]
      const expected = typeof cell === 'string' ? { refused: cell } : cell
      const found = { next: next?.state, effects, refused: refused?.code }
      expect(found, name).toEqual({ next: undefined, effects: [], refused: undefined, ...expected })
      expect(image, `${name} changes nothing in place`).toEqual(before)
      if (next !== undefined && image !== undefined) expect(next.head).toBe(image.head)
    }
  })
}

test('the table has every command in every state', () => {
  for (const row of Object.values(table))
    expect(Object.keys(row).sort()).toEqual(Object.keys(commands).sort())
  expect(Object.keys(table).sort()).toEqual(Object.keys(images).sort())
})

const prepared = (changed: Partial<MessageHead> = {}, state: Partial<Prepared> = {}) => ({
  head: { ...head, ...changed },
  state: { ...preparedNow, ...state },
})

test.each([
  ['park', 'undecided', 0],
  ['commit', 'committed', 2],
  ['rollback', 'rolledBack', 0],
] as const)(
  'check-backs exhausted: what the caller chose at prepare (%s), and nothing else',
  (onExhausted, phase, effects) => {
    const image = prepared({ checkBack: { ...head.checkBack, onExhausted } }, { checks: 2 })
    const decision = decideMessage(image, commands.answerUnknown, moment)
    expect(decision.next?.state).toMatchObject({ phase, checks: 3 })
    expect(decision.effects.length).toBe(effects)
    expect(decideMessage(image, commands.answerNobody, moment).next?.state.phase).toBe('prepared')
  },
)

test('onCheckBackExhausted commit with a body still to be fixed parks: nothing could be published', () => {
  const messages = head.messages.map((message) => ({ ...message, body: undefined }))
  const image = prepared({ messages, checkBack: { ...head.checkBack, onExhausted: 'commit' } }, { checks: 2 })
  expect(decideMessage(image, commands.answerUnknown, moment).next?.state.phase).toBe('undecided')
})

const unusable = [
  { resolution: 'unusableCommit', error: 'body is 9, over the limit' },
  { resolution: 'commit', bodies: [], error: '' },
] as const

test.each(
  (['park', 'commit', 'rollback'] as const).flatMap((each) =>
    unusable.map((outcome) => [outcome, each] as const),
  ),
)(
  '%o as the last answer parks, whatever the caller chose (%s): the local transaction committed',
  (outcome, onExhausted) => {
    const messages = head.messages.map((message) => ({ ...message, body: undefined }))
    const image = prepared({ messages, checkBack: { ...head.checkBack, onExhausted } }, { checks: 1 })
    const first = decideMessage(image, { type: 'answerCheckBack', outcome }, moment)
    expect(first).toMatchObject({ next: { state: { phase: 'prepared', checks: 2 } }, effects: [] })
    const last = decideMessage(first.next, { type: 'answerCheckBack', outcome }, moment)
    const reason = expect.stringMatching(/^check-backs exhausted: .*body/)
    expect(last).toEqual({
      next: { ...first.next, state: { phase: 'undecided', checks: 3, reason } },
      effects: [],
    })
  },
)

test('a caller may not commit what is too large for a broker, and a checker may: nothing undoes what it tells of', () => {
  const messages = head.messages.map((message, at) => ({
    ...message,
    body: at === 0 ? undefined : message.body,
  }))
  const error = new EscrowError('tooLarge', 'over the limit of bus:orders')
  const refusing = (at: number) => ({
    ...moment,
    tooLarge: ({ destination }: HalfMessage) =>
      destination === head.messages[at]?.destination ? error : undefined,
  })
  const strict = refusing(0)
  const bodies = [{ index: 0, body: new Uint8Array(9) }]
  const commit = { type: 'commitMessage', by: 'caller', bodies } as const
  expect(decideMessage(prepared({ messages }), commit, strict)).toEqual({ effects: [], refused: error })
  // What was fixed at prepare was taken then.
  expect(decideMessage(prepared({ messages }), commit, refusing(1)).next?.state.phase).toBe('committed')
  const answer = { type: 'answerCheckBack', outcome: { resolution: 'commit', bodies, error: '' } } as const
  const { next } = decideMessage(prepared({ messages }), answer, strict)
  expect(next?.state).toMatchObject({ phase: 'committed', settledBy: 'checkBack' })
  // Said again, it is what it was: the same answer.
  expect(decideMessage(next, commit, strict)).toEqual({ effects: [] })
})

test('a check-back past unresolvedMsMax, or past what the barrier remembers, parks and asks nobody', () => {
  for (const late of [{ unresolvedAtMs: LOG_MS }, { lastCheckAtMs: WALL_MS }]) {
    for (const command of [commands.checkBackDue, commands.requestCheckBack]) {
      const decision = decideMessage(prepared({}, late), command, moment)
      expect(decision).toMatchObject({ next: { state: { phase: 'undecided', checks: 1 } }, effects: [] })
    }
  }
})

test('a repeated commit with other bodies is refused, with the same ones it is the same answer', () => {
  const withBody = (text: string) => ({
    type: 'commitMessage' as const,
    by: 'caller' as const,
    bodies: [{ index: 0, body: new TextEncoder().encode(text) }],
  })
  const messages = head.messages.with(0, { ...head.messages[0]!, body: undefined })
  const image = prepared({ messages })
  expect(decideMessage(image, commands.commit, moment).refused?.code).toBe('bodiesMissing')
  expect(
    decideMessage(image, { ...withBody('x'), bodies: [{ index: 2, body: Buffer.alloc(1) }] }, moment).refused
      ?.code,
  ).toBe('invalidArgument')
  const { next } = decideMessage(image, withBody('fixed'), moment)
  expect(Buffer.from(next?.head.messages[0]?.body ?? []).toString()).toBe('fixed')
  expect(decideMessage(next, withBody('fixed'), moment)).toEqual({ effects: [] })
  expect(decideMessage(next, withBody('other'), moment).refused?.code).toBe('resolutionConflict')
  expect(decideMessage(image, commands.answerCommit, moment).next?.state).toMatchObject({
    phase: 'prepared',
    checks: 2,
  })
})

test('past its last-dispatch deadline a delivery parks, and retry must accept a possible duplicate', () => {
  const late = { ...waiting, lastDispatchAtMs: WALL_MS }
  const state = { ...stateIn(images.waiting, 'committed'), deliveries: [late, late] }
  const { next, effects } = decideMessage({ head, state }, commands.dispatch, moment)
  expect(next?.state).toMatchObject({ deliveries: [{ status: 'parked' }, { status: 'waiting' }] })
  expect(effects).toEqual([])
  expect(decideMessage(next, commands.retryDelivery, moment).refused?.code).toBe('possibleDuplicate')
  const accepted = { type: 'retryExecution', executionId: 'e1.0', acceptPossibleDuplicate: true } as const
  expect(decideMessage(next, accepted, moment).next?.state).toMatchObject({
    deliveries: [
      { status: 'waiting', attempts: 0, firstDispatchAtMs: 0, lastDispatchAtMs: WALL_MS + 5_000 },
      {},
    ],
  })
})

test('what a participant says of its error is kept in part: an image stays bounded', () => {
  const error = 'x'.repeat(1 << 20)
  const outcome = {
    type: 'answerDelivery',
    index: 0,
    attempt: 2,
    outcome: { outcome: 'failed', error },
  } as const
  const { next } = decideMessage(images.waiting, outcome, moment)
  expect(stateIn(next, 'committed').deliveries[0]?.error.length).toBe(1_024)
  const answer = { type: 'answerCheckBack', outcome: { resolution: 'rollback', bodies: [], error } } as const
  expect(stateIn(decideMessage(images.prepared, answer, moment).next, 'rolledBack').reason.length).toBe(1_024)
})

test('nobody there at the commit: it is committed, and nothing leaves', () => {
  const { next, effects } = decideMessage(images.prepared, commands.commit, {
    ...moment,
    route: () => undefined,
  })
  expect(effects).toEqual([])
  expect(stateIn(next, 'committed').deliveries.map(({ firstDispatchAtMs }) => firstDispatchAtMs)).toEqual([
    0, 0,
  ])
})

test('an answer to an attempt that was given up changes nothing, unless it says delivered', () => {
  const late = (how: 'failed' | 'refused' | 'delivered') =>
    ({ type: 'answerDelivery', index: 0, attempt: 1, outcome: { outcome: how, error: '' } }) as const
  expect(decideMessage(images.waiting, late('failed'), moment)).toEqual({ effects: [] })
  expect(decideMessage(images.waiting, late('refused'), moment)).toEqual({ effects: [] })
  expect(decideMessage(images.waiting, late('delivered'), moment).next?.state).toMatchObject({
    deliveries: [{ ...delivered, attempts: 1 }, waiting],
  })
})
