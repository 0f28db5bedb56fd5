/**
 * Turns of the machine: each event is told to it, and what it wants done is begun. A turn that throws changes nothing: its
 * event stays first in the queue, and the saga is stuck until somebody has it tried again.
 */
import { brief } from '../decision.ts'
import { EscrowError } from '../errors.ts'
import { abandon, begin, park, stop } from './decide-step.ts'
import { beginUnwinding } from './decide-unwind.ts'
import { briefStack, overBound } from './decision.ts'
import { attributesBytes, bytesOf, type Draft, parsedOf, textOf } from './draft.ts'
import { EMPTY_SAGA, type QueuedEvent } from './image.ts'
import type { SagaEvent, Turn } from './program.ts'

/** Tells the machine what is queued, and kept signals that it then waits for. Bounded: each turn takes an event away. */
export function runTurns(draft: Draft): void {
  while (draft.next.phase === 'running' && !draft.next.isMachineDone && draft.next.stuck === '') {
    if (draft.next.queue.length === 0) takeKeptSignal(draft)
    const [event] = draft.next.queue
    if (event === undefined) return
    runTurn(draft, event)
  }
}

function takeKeptSignal(draft: Draft): void {
  if (draft.next.signals.length === 0 || draft.next.awaited.length === 0) return
  const at = draft.next.signals.findIndex(({ signal }) => draft.next.awaited.includes(signal))
  const kept = draft.next.signals[at]
  if (kept === undefined) return
  draft.next.signals = draft.next.signals.toSpliced(at, 1)
  draft.next.queue = [{ type: 'signal', ...kept }]
}

function runTurn(draft: Draft, event: QueuedEvent): void {
  let checked: CheckedTurn
  try {
    checked = check(draft, ask(draft, event), event.type === 'start')
  } catch (thrown) {
    draft.next.stuck = briefStack(thrown)
    return
  }
  const { turn } = checked
  if (turn.status === 'failed' && draft.next.pivot !== 0) {
    failAfterPivot(draft, event, turn.error)
    return
  }
  dequeue(draft, event)
  draft.next.machine = { text: checked.text, live: turn.state }
  draft.next.bytes += checked.inputBytes
  draft.next.businessKey = checked.businessKey
  draft.next.tags = checked.tags
  if (event.type === 'step') tell(draft, event.n)
  if (turn.status === 'failed') {
    beginUnwinding(draft, brief(turn.error))
  } else if (turn.status === 'completed') {
    complete(draft, checked.output)
  } else {
    apply(draft, checked)
  }
}

/** Has the program answer an event. Throws whatever the user's code throws. */
function ask(draft: Draft, event: QueuedEvent): Turn {
  if (event.type === 'start') return draft.program.start(draft.input())
  return draft.program.next(draft.liveMachine(), sagaEventOf(draft, event), draft)
}

function sagaEventOf(draft: Draft, event: Exclude<QueuedEvent, { type: 'start' }>): SagaEvent {
  if (event.type === 'timer') return event
  if (event.type === 'signal')
    return { type: 'signal', signal: event.signal, payload: parsedOf(event.payload) }
  const { n, invocation, action, result } = draft.execution(event.n)
  if (action.status === 'failed')
    return { type: 'stepFailed', invocation, error: { code: action.code, message: action.error } }
  if (action.status === 'skipped') return { type: 'stepDone', invocation, result: undefined }
  const value = draft.lastResult?.n === n ? draft.lastResult.value : parsedOf(result)
  return { type: 'stepDone', invocation, result: value }
}

/** A turn with its texts, all within their bounds. */
interface CheckedTurn {
  readonly turn: Turn
  readonly text: string
  readonly output: string
  /** Of the steps to start, in their order. */
  readonly inputs: readonly string[]
  readonly inputBytes: number
  readonly businessKey: string
  readonly tags: Readonly<Record<string, string>>
}

// An array that grows from nothing takes room for many at once; most turns start one step, or none.
const NO_INPUTS: string[] = []

/** Makes the texts that a turn leaves behind. Throws `tooLarge`, `unknownStep`. */
function check(draft: Draft, turn: Turn, isStart: boolean): CheckedTurn {
  const { limits } = draft.moment
  const { text } = turn.state
  bounded("the machine's state", bytesOf(text), 'contextBytesMax', limits.contextBytesMax)
  const output = textOf(turn.output)
  bounded('the output', bytesOf(output), 'payloadBytesMax', limits.payloadBytesMax)
  let inputs: string[] = NO_INPUTS
  let inputBytes = 0
  let timers = draft.next.timers.length
  for (const effect of turn.effects) {
    if (effect.type === 'startTimer') timers += 1
    if (effect.type === 'stopTimer') timers -= 1
    if (effect.type !== 'startStep') continue
    if (!draft.program.steps.has(effect.step))
      throw new EscrowError(
        'unknownStep',
        `the machine starts ${JSON.stringify(effect.step)}, which is no step`,
      )
    const input = effect.isSagaInput ? draft.head.input : textOf(effect.input)
    const bytes = bytesOf(input)
    bounded(`the input of step ${effect.step}`, bytes, 'payloadBytesMax', limits.payloadBytesMax)
    if (inputs === NO_INPUTS) inputs = [input]
    else inputs.push(input)
    inputBytes += bytes
  }
  bounded('what the saga keeps', draft.next.bytes + inputBytes, 'sagaBytesMax', limits.sagaBytesMax)
  bounded('executions', draft.next.executions.length + inputs.length, 'executionsMax', limits.executionsMax)
  bounded('steps under way', draft.next.active.length + inputs.length, 'activeMax', limits.activeMax)
  bounded('timers', timers, 'timersMax', limits.timersMax)
  const { businessKey, tags } = attributesAfter(draft, turn, isStart)
  return { turn, text, output, inputs, inputBytes, businessKey, tags }
}

/**
 * The search attributes after a turn: it adds tags, and changes those of the same name; but the first turn changes nothing
 * that the start gave, as whoever starts a saga knows more of it than its definition. Throws `tooLarge`.
 */
function attributesAfter(
  draft: Draft,
  { attributes }: Turn,
  isStart: boolean,
): Pick<CheckedTurn, 'businessKey' | 'tags'> {
  const { next } = draft
  if (attributes === undefined) return next
  const { attributesBytesMax } = draft.moment.limits
  const set = attributes.businessKey ?? next.businessKey
  const businessKey = isStart ? next.businessKey || set : set
  const added = isStart ? { ...attributes.tags, ...next.tags } : { ...next.tags, ...attributes.tags }
  const tags = attributes.tags === undefined ? next.tags : added
  const bytes = attributesBytes(businessKey, tags)
  bounded('business key and tags', bytes, 'attributesBytesMax', attributesBytesMax)
  return { businessKey, tags }
}

function bounded(what: string, actual: number, bound: Parameters<typeof overBound>[2], max: number): void {
  if (actual > max) throw overBound(what, actual, bound, max)
}

function dequeue(draft: Draft, event: QueuedEvent): void {
  draft.next.queue = draft.next.queue.length === 1 ? EMPTY_SAGA.queue : draft.next.queue.slice(1)
  if (event.type === 'signal') draft.next.bytes -= bytesOf(event.payload)
}

/** Past the pivot nothing is undone: the step that led to it can be tried again, and the saga otherwise. */
function failAfterPivot(draft: Draft, event: QueuedEvent, error: string): void {
  if (event.type !== 'step') {
    draft.next.stuck = brief(`the flow failed after its pivot, from where it only goes forward: ${error}`)
    return
  }
  dequeue(draft, event)
  park(draft, draft.execution(event.n), 'action', `failed after the pivot: ${error}`)
}

/** The machine knows how this step ended; one that failed and may have happened is undone behind its back. */
function tell(draft: Draft, n: number): void {
  const execution = draft.execution(n)
  if (execution.action.status === 'failed') abandon(draft, execution)
}

function complete(draft: Draft, output: string): void {
  draft.next.isMachineDone = true
  draft.next.output = output
  for (const each of draft.next.queue) if (each.type === 'step') drop(draft, each.n)
  draft.clearWaits()
  for (const n of draft.next.active) stop(draft, draft.execution(n))
}

function apply(draft: Draft, { turn, inputs }: CheckedTurn): void {
  let started = 0
  for (const effect of turn.effects) {
    switch (effect.type) {
      case 'startStep':
        begin(draft, effect, inputs[started++] as string)
        break
      case 'stopStep':
        stopStep(draft, effect.invocation)
        break
      case 'startTimer':
        draft.next.timers = [
          ...draft.next.timers.filter(({ timer }) => timer !== effect.timer),
          { timer: effect.timer, atMs: draft.moment.logMs + Math.max(0, Math.ceil(effect.delayMs)) },
        ]
        break
      case 'stopTimer':
        draft.next.timers = draft.next.timers.filter(({ timer }) => timer !== effect.timer)
    }
  }
  if (draft.program.signals.size > 0) noteAwaited(draft, turn)
}

function noteAwaited(draft: Draft, turn: Turn): void {
  const awaited: string[] = []
  for (const signal of draft.program.signals) if (turn.takes(signal)) awaited.push(signal)
  const isSame =
    awaited.length === draft.next.awaited.length &&
    awaited.every((each, at) => each === draft.next.awaited[at])
  if (!isSame) draft.next.awaited = awaited
}

/** The state around a step was left: no outcome of it is told to the machine any more. */
function stopStep(draft: Draft, invocation: string): void {
  for (const n of draft.next.active) {
    const execution = draft.execution(n)
    if (execution.invocation === invocation && execution.action.status !== 'stopping') {
      stop(draft, execution)
      return
    }
  }
  const queued = draft.next.queue.find(
    (each) => each.type === 'step' && draft.execution(each.n).invocation === invocation,
  )
  if (queued?.type !== 'step') return
  draft.next.queue = draft.next.queue.filter((each) => each !== queued)
  drop(draft, queued.n)
}

/** What has ended, and will not be told: to the flow it is as if it had been stopped. */
function drop(draft: Draft, n: number): void {
  abandon(draft, draft.putAction(draft.execution(n), { status: 'stopped' }))
}
