/**
 * The next image of a saga while one command is decided: the only thing here that changes in place, and nobody sees it
 * before it is done. What isn't touched is shared with the image before.
 */
import { InvariantViolation } from '../errors.ts'
import { overBound, type SagaDecision, type SagaEffect, type SagaMoment } from './decision.ts'
import {
  EMPTY_SAGA,
  type Execution,
  isActive,
  isUndoing,
  type OperationState,
  type QueuedEvent,
  type SagaHead,
  type SagaState,
} from './image.ts'
import type { Json, MachineState, SagaProgram, StepPolicy, StepResults } from './program.ts'

/** JSON text of a value; empty for none. Throws what `JSON.stringify` throws. */
export const textOf = (value: Json | undefined): string =>
  value === undefined ? '' : (JSON.stringify(value) ?? '')
/** The value of JSON text. Throws `SyntaxError`. */
export const parsedOf = (text: string): Json | undefined =>
  text === '' ? undefined : (JSON.parse(text) as Json)

/** The bytes of a text in UTF-8. */
export const bytesOf = (text: string): number => (text === '' ? 0 : Buffer.byteLength(text))

/** The bytes of search attributes. */
export function attributesBytes(businessKey: string, tags: Readonly<Record<string, string>>): number {
  let bytes = bytesOf(businessKey)
  for (const tag in tags) bytes += bytesOf(tag) + bytesOf(tags[tag] as string)
  return bytes
}

const NO_EFFECTS: SagaEffect[] = []

type Changing = { -readonly [Field in keyof SagaState]: SagaState[Field] }

/** Each property by name: this is made for every decision, and a spread costs twice as much. */
function copyOf(state: SagaState): Changing {
  return {
    phase: state.phase,
    machine: state.machine,
    isMachineDone: state.isMachineDone,
    executions: state.executions,
    active: state.active,
    undoing: state.undoing,
    plan: state.plan,
    places: state.places,
    pivot: state.pivot,
    timers: state.timers,
    signals: state.signals,
    awaited: state.awaited,
    signalIds: state.signalIds,
    queue: state.queue,
    stuck: state.stuck,
    bytes: state.bytes,
    businessKey: state.businessKey,
    tags: state.tags,
    reason: state.reason,
    output: state.output,
    finishedAtMs: state.finishedAtMs,
  }
}

/** The next image, as far as it is decided. */
export class Draft implements StepResults {
  readonly head: SagaHead
  readonly program: SagaProgram
  readonly moment: SagaMoment
  readonly next: Changing
  effects: SagaEffect[] = NO_EFFECTS
  /** Executions that the flow goes on without, although they may have happened. */
  abandoned: number[] | undefined
  /** The value of the input, so that its text isn't parsed twice. */
  parsedInput: { readonly value: Json | undefined } | undefined
  /** The value of the result that came with this command, so that its text isn't parsed twice. */
  lastResult: { readonly n: number; readonly value: Json | undefined } | undefined

  constructor(head: SagaHead, state: SagaState, program: SagaProgram, moment: SagaMoment) {
    this.head = head
    this.program = program
    this.moment = moment
    this.next = copyOf(state)
    this.abandoned = undefined
    this.parsedInput = undefined
    this.lastResult = undefined
  }

  /** The decision that this comes to. */
  decision(): SagaDecision {
    return { next: { head: this.head, state: this.next }, effects: this.effects }
  }

  /** The execution with this number, which must exist. */
  execution(n: number): Execution {
    const execution = this.next.executions.get(n)
    if (execution === undefined) throw new InvariantViolation(`saga ${this.head.id}: no execution ${n}`)
    return execution
  }

  /** The policy of an execution's step. Undefined only if the definition was changed under its version. */
  policyOf(execution: Execution): StepPolicy | undefined {
    return this.program.steps.get(execution.step)
  }

  /** Puts an execution in its place, and in or out of the lists of what is under way. */
  put(execution: Execution): Execution {
    this.next.executions = this.next.executions.with(execution)
    this.next.active = listed(this.next.active, execution.n, isActive(execution))
    this.next.undoing = listed(this.next.undoing, execution.n, isUndoing(execution))
    return execution
  }

  /** Changes one half of an execution. */
  putAction(execution: Execution, changes: Partial<OperationState>): Execution {
    return this.put({ ...execution, action: { ...execution.action, ...changes } })
  }

  /** Changes the compensation of an execution that has begun to be undone. */
  putCompensation(execution: Execution, changes: Partial<OperationState>): Execution {
    if (execution.compensation === undefined)
      throw new InvariantViolation(`saga ${this.head.id}: execution ${execution.n} isn't being undone`)
    return this.put({ ...execution, compensation: { ...execution.compensation, ...changes } })
  }

  /** Has an effect leave. */
  leave(effect: SagaEffect): void {
    // An array that grows from nothing takes room for many at once; most decisions have one effect.
    if (this.effects === NO_EFFECTS) this.effects = [effect]
    else this.effects.push(effect)
  }

  /** Has the machine told something. */
  enqueue(event: QueuedEvent): void {
    this.next.queue = this.next.queue.length === 0 ? [event] : [...this.next.queue, event]
  }

  /** The next place in the order of beginnings and ends. */
  nextPlace(): number {
    this.next.places += 1
    return this.next.places
  }

  /** What the saga was started with. Throws `SyntaxError`. */
  input(): Json | undefined {
    this.parsedInput ??= { value: parsedOf(this.head.input) }
    return this.parsedInput.value
  }

  /** The machine, alive. Throws what `restore` throws. */
  liveMachine(): MachineState {
    const { text, live } = this.next.machine
    if (live !== undefined) return live
    const restored = this.program.restore(parsedOf(text) as Json, this.input())
    this.next.machine = { text, live: restored }
    return restored
  }

  /** Counts bytes that are kept from now on. Throws `tooLarge`. */
  addBytes(what: string, text: string): void {
    const { payloadBytesMax, sagaBytesMax } = this.moment.limits
    const bytes = bytesOf(text)
    if (bytes > payloadBytesMax) throw overBound(what, bytes, 'payloadBytesMax', payloadBytesMax)
    if (this.next.bytes + bytes > sagaBytesMax)
      throw overBound(
        `what the saga keeps, with ${what},`,
        this.next.bytes + bytes,
        'sagaBytesMax',
        sagaBytesMax,
      )
    this.next.bytes += bytes
  }

  /** The result of the entry into a step that began last and is done. */
  get(step: string): Json | undefined {
    const done = this.next.executions.findLast((each) => each.step === step && each.action.status === 'done')
    if (done === undefined) return undefined
    return this.lastResult?.n === done.n ? this.lastResult.value : parsedOf(done.result)
  }

  /** Puts everything that only what is running needs out of the way. */
  clearWaits(): void {
    for (const { payload } of this.next.signals) this.next.bytes -= bytesOf(payload)
    for (const event of this.next.queue)
      if (event.type === 'signal') this.next.bytes -= bytesOf(event.payload)
    // The very lists that a saga begins with: what never waited has not changed, and no record tells of it.
    const { timers, signals, awaited, queue } = EMPTY_SAGA
    this.next.timers = timers
    this.next.signals = signals
    this.next.awaited = awaited
    this.next.queue = queue
    this.next.stuck = ''
  }
}

const NONE: readonly number[] = []

/** The ascending list with this number in or out of it; the same list where nothing changes. */
function listed(list: readonly number[], n: number, isIn: boolean): readonly number[] {
  const at = list.indexOf(n)
  if (at >= 0 === isIn) return list
  if (!isIn) return list.length === 1 ? NONE : list.toSpliced(at, 1)
  if (list.length === 0) return [n]
  const place = list.findIndex((each) => each > n)
  return place < 0 ? [...list, n] : list.toSpliced(place, 0, n)
}
