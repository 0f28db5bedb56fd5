import { brief } from '../decision.ts'
import { EscrowError, unreachable } from '../errors.ts'
import { type StepAnswer, takeAnswer } from './decide-answer.ts'
import { migrate } from './decide-migration.ts'
import { giveUp, notParked, operate } from './decide-operator.ts'
import { dispatch, stepDeadlineDue } from './decide-step.ts'
import { runTurns } from './decide-turn.ts'
import { settle } from './decide-unwind.ts'
import {
  NOTHING_OF_SAGA,
  overBound,
  refuseSaga,
  type SagaCommand,
  type SagaDecision,
  type SagaMoment,
} from './decision.ts'
import { attributesBytes, bytesOf, Draft, parsedOf, textOf } from './draft.ts'
import {
  EMPTY_SAGA,
  executionNumber,
  isActive,
  type SagaHead,
  type SagaImage,
  sagaStatusOf,
} from './image.ts'
import type { Json } from './program.ts'

type Start = Extract<SagaCommand, { type: 'startSaga' }>
type Signal = Extract<SagaCommand, { type: 'signalSaga' }>
type Complete = Extract<SagaCommand, { type: 'completeStep' }>
type Migrate = Extract<SagaCommand, { type: 'migrateSaga' }>

/** What becomes of a draft: it changed, nothing did, or the command is refused. */
type Verdict = 'changed' | 'nothing' | SagaDecision

/**
 * Decides a command on an image, or on none: see the table in `image.ts`. Pure but for what `moment` tells; total: every
 * state answers every command, and what a user's code throws parks its saga or refuses its request.
 */
export function decideSaga(
  image: SagaImage | undefined,
  command: SagaCommand,
  moment: SagaMoment,
): SagaDecision {
  if (command.type === 'startSaga') return start(image, command, moment)
  const isAsked = isQuestion(command)
  if (image === undefined) return isAsked ? refuseSaga('notFound', 'no such transaction') : NOTHING_OF_SAGA
  const ended = answerEnded(image, command)
  if (ended !== undefined) return ended
  if (command.type === 'migrateSaga') {
    const migrated = migrate(image, command.version, moment)
    return migrated instanceof Draft ? conclude(migrated) : migrated
  }
  const { head, state } = image
  const program = moment.program(head)
  if (program === undefined) return isAsked ? definitionMissing(head) : NOTHING_OF_SAGA
  const draft = new Draft(head, state, program, moment)
  const verdict = decide(draft, command)
  if (verdict === 'nothing') return NOTHING_OF_SAGA
  return verdict === 'changed' ? conclude(draft) : verdict
}

/** Commands that somebody waits for an answer to; the others are the engine's own, and may come too late. */
function isQuestion(command: SagaCommand): boolean {
  switch (command.type) {
    case 'answerStep':
    case 'dispatchStep':
    case 'timerDue':
    case 'deadlineDue':
    case 'stepDeadlineDue':
      return false
    default:
      return true
  }
}

function definitionMissing({ saga, version }: SagaHead): SagaDecision {
  return refuseSaga('definitionMissing', `saga ${JSON.stringify(saga)} version ${version} isn't loaded here`)
}

/** Goes on from what was changed: turns, undoing, the end. */
function conclude(draft: Draft): SagaDecision {
  runTurns(draft)
  settle(draft)
  return draft.decision()
}

function start(image: SagaImage | undefined, command: Start, moment: SagaMoment): SagaDecision {
  const { head } = command
  if (image !== undefined) {
    if (image.head.contentHash === head.contentHash) return NOTHING_OF_SAGA
    return refuseSaga('idReused', `id ${JSON.stringify(head.id)} belongs to a transaction with other content`)
  }
  const program = moment.program(head)
  if (program === undefined) return definitionMissing(head)
  const { attributesBytesMax } = moment.limits
  const kept = attributesBytes(command.businessKey, command.tags)
  if (kept > attributesBytesMax) {
    const error = overBound('business key and tags', kept, 'attributesBytesMax', attributesBytesMax)
    return { effects: [], refused: error }
  }
  const parsed = parsedText('input', head.input, moment, (value) => program.parseInput(value))
  if (parsed instanceof EscrowError) return { effects: [], refused: parsed }
  const { text, bytes } = parsed
  const draft = new Draft(text === head.input ? head : { ...head, input: text }, EMPTY_SAGA, program, moment)
  draft.parsedInput = parsed
  draft.next.bytes = bytes
  draft.next.businessKey = command.businessKey
  draft.next.tags = command.tags
  draft.next.queue = [{ type: 'start' }]
  return conclude(draft)
}

/** A value after the user's schema, and its text: the same where the schema changed nothing. */
function parsedText(
  what: string,
  text: string,
  { limits }: SagaMoment,
  parse: (value: Json | undefined) => Json | undefined,
): { readonly text: string; readonly bytes: number; readonly value: Json | undefined } | EscrowError {
  try {
    const bytes = bytesOf(text)
    if (bytes > limits.payloadBytesMax)
      return overBound(`the ${what}`, bytes, 'payloadBytesMax', limits.payloadBytesMax)
    const given = parsedOf(text)
    const value = parse(given)
    if (value === given) return { text, bytes, value }
    const changed = textOf(value)
    return { text: changed, bytes: bytesOf(changed), value }
  } catch (thrown) {
    if (thrown instanceof EscrowError) return thrown
    // What isn't JSON, or a validator that throws: either way the request is what it was given.
    return new EscrowError('invalidArgument', brief(`${what}: ${EscrowError.from(thrown).message}`), {
      cause: thrown,
    })
  }
}

/** The answer of a saga that has ended, or is being undone, where that alone decides it. */
function answerEnded(image: SagaImage, command: SagaCommand): SagaDecision | undefined {
  const { phase, isMachineDone } = image.state
  if (phase === 'running' && !(isMachineDone && command.type === 'cancelSaga')) return undefined
  const isEnded = phase === 'completed' || phase === 'compensated'
  switch (command.type) {
    case 'cancelSaga':
      if (phase === 'compensating' || phase === 'compensated') return NOTHING_OF_SAGA
      return refuseSaga('alreadyEnded', 'the saga has completed')
    case 'signalSaga':
      if (command.signalId !== '' && image.state.signalIds.includes(command.signalId)) return NOTHING_OF_SAGA
      return refuseSaga('alreadyEnded', `the saga is ${phase}: it takes no signal any more`)
    case 'timerDue':
    case 'deadlineDue':
      return NOTHING_OF_SAGA
    case 'retryExecution':
    case 'skipExecution':
    case 'compensateExecution':
      return isEnded ? notParked(sagaStatusOf(image)) : undefined
    case 'migrateSaga':
      return isEnded ? refuseSaga('alreadyEnded', `the saga is ${phase}`) : undefined
    case 'completeStep': {
      if (!isEnded) return undefined
      const execution = image.state.executions.get(executionNumber(image.head, command.executionId))
      return execution === undefined ? neverCalled(command.executionId) : NOTHING_OF_SAGA
    }
    default:
      return isEnded ? NOTHING_OF_SAGA : undefined
  }
}

function decide(draft: Draft, command: Exclude<SagaCommand, Start | Migrate>): Verdict {
  switch (command.type) {
    case 'signalSaga':
      return signal(draft, command)
    case 'cancelSaga':
      return giveUp(draft, brief(`cancelled: ${command.reason}`)) ?? 'changed'
    case 'deadlineDue': {
      const isDue = draft.head.deadlineAtMs > 0 && draft.moment.wallMs >= draft.head.deadlineAtMs
      if (!isDue || draft.next.isMachineDone || draft.next.pivot !== 0) return 'nothing'
      return giveUp(draft, 'timed out') ?? 'changed'
    }
    case 'timerDue':
      return timerDue(draft, command.timer)
    case 'completeStep':
      return completeStep(draft, command)
    case 'answerStep': {
      const execution = draft.next.executions.get(command.n)
      return execution !== undefined && takeAnswer(draft, execution, command) ? 'changed' : 'nothing'
    }
    case 'dispatchStep': {
      const execution = draft.next.executions.get(command.n)
      return execution !== undefined && dispatch(draft, execution, command.operation) ? 'changed' : 'nothing'
    }
    case 'stepDeadlineDue': {
      const execution = draft.next.executions.get(command.n)
      return execution !== undefined && stepDeadlineDue(draft, execution) ? 'changed' : 'nothing'
    }
    case 'retryExecution':
    case 'skipExecution':
    case 'compensateExecution':
      return operate(draft, command) ?? 'changed'
    default:
      return unreachable(command)
  }
}

function signal(draft: Draft, { signal: name, payload: given, signalId }: Signal): Verdict {
  if (signalId !== '' && draft.next.signalIds.includes(signalId)) return 'nothing'
  const { program, moment } = draft
  if (!program.signals.has(name))
    return refuseSaga('unknownSignal', `saga ${program.name} has no signal ${JSON.stringify(name)}`)
  if (draft.next.isMachineDone)
    return refuseSaga('alreadyEnded', 'the saga has completed: it takes no signal any more')
  const payload = parsedText('payload', given, moment, (value) => program.parseSignal(name, value))
  if (payload instanceof EscrowError) return { effects: [], refused: payload }
  const { text } = payload
  const { signalsMax } = moment.limits
  const isTaken = draft.next.stuck === '' && draft.next.awaited.includes(name)
  if (!isTaken && draft.next.signals.length >= signalsMax) {
    return refuseSaga(
      'overloaded',
      `${signalsMax} signals are kept that the saga didn't wait for yet: the limit signalsMax`,
    )
  }
  try {
    draft.addBytes('the payload', text)
  } catch (thrown) {
    return { effects: [], refused: EscrowError.from(thrown) }
  }
  if (signalId !== '') draft.next.signalIds = [...draft.next.signalIds, signalId].slice(-signalsMax)
  // Through the kept ones, so that those of the same name that came earlier go first.
  draft.next.signals = [...draft.next.signals, { signal: name, payload: text }]
  return 'changed'
}

function timerDue(draft: Draft, timer: string): Verdict {
  const running = draft.next.timers.find((each) => each.timer === timer)
  // One that was started again under its name is due later.
  if (running === undefined || draft.next.stuck !== '' || draft.moment.logMs < running.atMs) return 'nothing'
  draft.next.timers = draft.next.timers.filter((each) => each !== running)
  draft.enqueue({ type: 'timer', timer })
  return 'changed'
}

const neverCalled = (executionId: string): SagaDecision =>
  refuseSaga('unknownExecution', `no execution ${JSON.stringify(executionId)} of this saga was ever called`)

function completeStep(draft: Draft, { executionId, attempt, outcome }: Complete): Verdict {
  const execution = draft.next.executions.get(executionNumber(draft.head, executionId))
  if (execution === undefined) return neverCalled(executionId)
  const { firstDispatchAtMs, attempts, isUncertain, databaseId } = execution.action
  if (firstDispatchAtMs === 0) return neverCalled(executionId)
  const current = attempts + 1
  // What happened, happened; and with a barrier the attempts of an execution are one and the same work.
  const isOfAny = outcome.outcome === 'done' || databaseId !== ''
  if (!isOfAny && attempt === 0 && isActive(execution) && (attempts > 0 || isUncertain))
    return refuseSaga(
      'invalidArgument',
      `execution ${JSON.stringify(executionId)} is at attempt ${current}, and an earlier one may end as well: give the attempt that this is said of`,
    )
  // Always the action: one that is told twice must not be taken for the end of what undoes it.
  const answer: StepAnswer = { operation: 'action', attempt: isOfAny ? current : attempt || 1, outcome }
  return takeAnswer(draft, execution, answer) ? 'changed' : 'nothing'
}
