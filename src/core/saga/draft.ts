/**
 * The next image of a saga while one command is decided: the only thing here that changes in place, and nobody sees it
 * before it is done. What isn't touched is shared with the image before.
 */
import { InvariantViolation } from '../errors.ts'
import { overBound, type SagaDecision, type SagaEffect, type SagaMoment } from './decision.ts'
import type { ExecutionTable } from './execution-table.ts'
import {
  type Execution,
  isActive,
  isUndoing,
  type KeptMachine,
  type KeptSignal,
  type OperationState,
  type QueuedEvent,
  type SagaHead,
  type SagaState,
  type SagaTimer,
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
  for (const tag of Object.keys(tags)) bytes += bytesOf(tag) + bytesOf(tags[tag] as string)
  return bytes
}

const NO_EFFECTS: SagaEffect[] = []

/** The next image, as far as it is decided. */
export class Draft implements StepResults {
  readonly head: SagaHead
  readonly program: SagaProgram
  readonly moment: SagaMoment
  phase: SagaState['phase']
  machine: KeptMachine
  isMachineDone: boolean
  executions: ExecutionTable
  active: readonly number[]
  undoing: readonly number[]
  plan: SagaState['plan']
  places: number
  pivot: number
  timers: readonly SagaTimer[]
  signals: readonly KeptSignal[]
  awaited: readonly string[]
  signalIds: readonly string[]
  queue: readonly QueuedEvent[]
  stuck: string
  bytes: number
  businessKey: string
  tags: Readonly<Record<string, string>>
  reason: string
  output: string
  finishedAtMs: number
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
    this.phase = state.phase
    this.machine = state.machine
    this.isMachineDone = state.isMachineDone
    this.executions = state.executions
    this.active = state.active
    this.undoing = state.undoing
    this.plan = state.plan
    this.places = state.places
    this.pivot = state.pivot
    this.timers = state.timers
    this.signals = state.signals
    this.awaited = state.awaited
    this.signalIds = state.signalIds
    this.queue = state.queue
    this.stuck = state.stuck
    this.bytes = state.bytes
    this.businessKey = state.businessKey
    this.tags = state.tags
    this.reason = state.reason
    this.output = state.output
    this.finishedAtMs = state.finishedAtMs
    this.abandoned = undefined
    this.parsedInput = undefined
    this.lastResult = undefined
  }

  /** The decision that this comes to. */
  decision(): SagaDecision {
    return { next: { head: this.head, state: this.#state() }, effects: this.effects }
  }

  /** The execution with this number, which must exist. */
  execution(n: number): Execution {
    const execution = this.executions.get(n)
    if (execution === undefined) throw new InvariantViolation(`saga ${this.head.id}: no execution ${n}`)
    return execution
  }

  /** The policy of an execution's step. Undefined only if the definition was changed under its version. */
  policyOf(execution: Execution): StepPolicy | undefined {
    return this.program.steps.get(execution.step)
  }

  /** Puts an execution in its place, and in or out of the lists of what is under way. */
  put(execution: Execution): Execution {
    this.executions = this.executions.with(execution)
    this.active = listed(this.active, execution.n, isActive(execution))
    this.undoing = listed(this.undoing, execution.n, isUndoing(execution))
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
    this.queue = this.queue.length === 0 ? [event] : [...this.queue, event]
  }

  /** The next place in the order of beginnings and ends. */
  nextPlace(): number {
    this.places += 1
    return this.places
  }

  /** What the saga was started with. Throws `SyntaxError`. */
  input(): Json | undefined {
    this.parsedInput ??= { value: parsedOf(this.head.input) }
    return this.parsedInput.value
  }

  /** The machine, alive. Throws what `restore` throws. */
  liveMachine(): MachineState {
    const { text, live } = this.machine
    if (live !== undefined) return live
    const restored = this.program.restore(parsedOf(text) as Json, this.input())
    this.machine = { text, live: restored }
    return restored
  }

  /** Counts bytes that are kept from now on. Throws `tooLarge`. */
  addBytes(what: string, text: string): void {
    const { payloadBytesMax, sagaBytesMax } = this.moment.limits
    const bytes = bytesOf(text)
    if (bytes > payloadBytesMax) throw overBound(what, bytes, 'payloadBytesMax', payloadBytesMax)
    if (this.bytes + bytes > sagaBytesMax)
      throw overBound(`what the saga keeps, with ${what},`, this.bytes + bytes, 'sagaBytesMax', sagaBytesMax)
    this.bytes += bytes
  }

  /** The result of the entry into a step that began last and is done. */
  get(step: string): Json | undefined {
    const done = this.executions.findLast((each) => each.step === step && each.action.status === 'done')
    if (done === undefined) return undefined
    return this.lastResult?.n === done.n ? this.lastResult.value : parsedOf(done.result)
  }

  /** Puts everything that only what is running needs out of the way. */
  clearWaits(): void {
    for (const { payload } of this.signals) this.bytes -= bytesOf(payload)
    for (const event of this.queue) if (event.type === 'signal') this.bytes -= bytesOf(event.payload)
    const { timers, signals, awaited, queue } = NO_WAITS
    this.timers = timers
    this.signals = signals
    this.awaited = awaited
    this.queue = queue
    this.stuck = ''
  }

  #state(): SagaState {
    return {
      phase: this.phase,
      machine: this.machine,
      isMachineDone: this.isMachineDone,
      executions: this.executions,
      active: this.active,
      undoing: this.undoing,
      plan: this.plan,
      places: this.places,
      pivot: this.pivot,
      timers: this.timers,
      signals: this.signals,
      awaited: this.awaited,
      signalIds: this.signalIds,
      queue: this.queue,
      stuck: this.stuck,
      bytes: this.bytes,
      businessKey: this.businessKey,
      tags: this.tags,
      reason: this.reason,
      output: this.output,
      finishedAtMs: this.finishedAtMs,
    }
  }
}

const NO_WAITS: Pick<SagaState, 'timers' | 'signals' | 'awaited' | 'queue'> = {
  timers: [],
  signals: [],
  awaited: [],
  queue: [],
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
