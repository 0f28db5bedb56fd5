/**
 * Executions of a saga in bytes: whole, or as much as changes once one has begun. What it is called with stands in the
 * record of its beginning alone.
 */
import type { Execution, OperationState } from '../core/saga/image.ts'
import type { Branch } from '../core/saga/program.ts'
import { type ByteReader, type ByteWriter, indexOf } from './binary.ts'

/** An execution as a record tells it. */
export interface ExecutionChange extends Omit<Execution, keyof Beginning | 'result'> {
  /** Undefined in a change of one that is known: it stays as it began. */
  readonly beginning: DecodedBeginning | undefined
  /** Undefined where it stays. */
  readonly result: string | undefined
}

/** What doesn't change any more once an execution has begun. */
type Beginning = Pick<Execution, 'step' | 'invocation' | 'branch' | 'input' | 'hasCompensation' | 'began'>

/** Its input is undefined where it is that of the saga. */
type DecodedBeginning = Omit<Beginning, 'input'> & { readonly input: string | undefined }

const STATUSES = ['running', 'stopping', 'parked', 'done', 'failed', 'stopped', 'skipped'] as const

/** Bits of an operation beside its status. */
const HAS_ATTEMPTS = 8
const IS_LATER = 16
const IS_UNCERTAIN = 32
const HAS_DATABASE = 64
const HAS_ERROR = 128

/** Bits of an execution. */
const BEGINS = 1
const IS_DONE = 2
const HAS_STEP_DEADLINE = 4
const IS_UNDONE = 8
const HAS_RESULT = 16

/** Bits of a beginning. */
const HAS_COMPENSATION = 1
const HAS_SAGA_INPUT = 2

/**
 * Writes an execution, or what changed of it. `sagaInput` is what its saga was started with: many steps are called with
 * the same, which is written once. Without bodies (undefined) it has no input and no result.
 */
export function putExecution(
  writer: ByteWriter,
  previous: Execution | undefined,
  execution: Execution,
  sagaInput: string | undefined,
): void {
  const { n, compensation, stepDeadlineAtMs, ended } = execution
  const result = sagaInput === undefined ? '' : execution.result
  const begins = previous === undefined
  let bits = begins ? BEGINS : 0
  if (execution.isDone) bits |= IS_DONE
  if (stepDeadlineAtMs !== 0) bits |= HAS_STEP_DEADLINE
  if (compensation !== undefined) bits |= IS_UNDONE
  if (begins || previous.result !== result) bits |= HAS_RESULT
  writer.varint(n)
  writer.byte(bits)
  if (begins) putBeginning(writer, execution, sagaInput)
  if (bits & HAS_RESULT) writer.text(result)
  writer.varint(ended)
  if (bits & HAS_STEP_DEADLINE) writer.number(stepDeadlineAtMs)
  putOperation(writer, execution.action)
  if (compensation !== undefined) putOperation(writer, compensation)
}

/** Reads what `putExecution` wrote. Throws `storeCorrupt`. */
export function takeExecution(reader: ByteReader): ExecutionChange {
  const n = reader.varint()
  const bits = reader.choice(32)
  // A literal's properties are evaluated in their order, which is the order of the bytes.
  return {
    n,
    isDone: (bits & IS_DONE) !== 0,
    beginning: bits & BEGINS ? takeBeginning(reader) : undefined,
    result: bits & HAS_RESULT ? reader.text() : undefined,
    ended: reader.varint(),
    stepDeadlineAtMs: bits & HAS_STEP_DEADLINE ? reader.number() : 0,
    action: takeOperation(reader),
    compensation: bits & IS_UNDONE ? takeOperation(reader) : undefined,
  }
}

/** The execution after a change, of a saga that was started with this; undefined for a change of one that isn't known. */
export function appliedExecution(
  previous: Execution | undefined,
  { beginning, result, ...rest }: ExecutionChange,
  sagaInput: string,
): Execution | undefined {
  const from = beginning ?? previous
  const kept = result ?? previous?.result
  if (from === undefined || kept === undefined) return undefined
  const { step, invocation, branch, input = sagaInput, hasCompensation, began } = from
  return { ...rest, step, invocation, branch, input, hasCompensation, began, result: kept }
}

function putBeginning(writer: ByteWriter, beginning: Beginning, sagaInput: string | undefined): void {
  const hasSagaInput = sagaInput === undefined || beginning.input === sagaInput
  writer.text(beginning.step)
  writer.text(beginning.invocation)
  putList(writer, beginning.branch, putRegion)
  writer.byte((beginning.hasCompensation ? HAS_COMPENSATION : 0) | (hasSagaInput ? HAS_SAGA_INPUT : 0))
  if (!hasSagaInput) writer.text(beginning.input)
  writer.varint(beginning.began)
}

function takeBeginning(reader: ByteReader): DecodedBeginning {
  const [step, invocation, branch] = [reader.text(), reader.text(), takeList(reader, takeRegion)]
  const bits = reader.choice(4)
  return {
    step,
    invocation,
    branch,
    hasCompensation: (bits & HAS_COMPENSATION) !== 0,
    input: bits & HAS_SAGA_INPUT ? undefined : reader.text(),
    began: reader.varint(),
  }
}

function putOperation(writer: ByteWriter, half: OperationState): void {
  let bits = indexOf(STATUSES, half.status)
  if (half.attempts !== 0) bits |= HAS_ATTEMPTS
  if (half.isLater) bits |= IS_LATER
  if (half.isUncertain) bits |= IS_UNCERTAIN
  if (half.databaseId !== '') bits |= HAS_DATABASE
  if (half.code !== '' || half.error !== '') bits |= HAS_ERROR
  writer.byte(bits)
  if (bits & HAS_ATTEMPTS) writer.number(half.attempts)
  writer.number(half.nextAttemptAtMs)
  writer.number(half.attemptDeadlineAtMs)
  writer.number(half.firstDispatchAtMs)
  writer.number(half.lastDispatchAtMs)
  if (bits & HAS_DATABASE) writer.text(half.databaseId)
  if (bits & HAS_ERROR) {
    writer.text(half.code)
    writer.text(half.error)
  }
}

function takeOperation(reader: ByteReader): OperationState {
  const bits = reader.byte()
  const status = STATUSES[bits & 7]
  if (status === undefined) throw reader.corrupt(`${bits & 7} is no status of an operation`)
  return {
    status,
    attempts: bits & HAS_ATTEMPTS ? reader.number() : 0,
    nextAttemptAtMs: reader.number(),
    attemptDeadlineAtMs: reader.number(),
    isLater: (bits & IS_LATER) !== 0,
    isUncertain: (bits & IS_UNCERTAIN) !== 0,
    firstDispatchAtMs: reader.number(),
    lastDispatchAtMs: reader.number(),
    databaseId: bits & HAS_DATABASE ? reader.text() : '',
    code: bits & HAS_ERROR ? reader.text() : '',
    error: bits & HAS_ERROR ? reader.text() : '',
  }
}

function putRegion(writer: ByteWriter, { parallel, entry, region }: Branch[number]): void {
  writer.text(parallel)
  writer.varint(entry)
  writer.text(region)
}

const takeRegion = (reader: ByteReader): Branch[number] => ({
  parallel: reader.text(),
  entry: reader.varint(),
  region: reader.text(),
})

/** Writes a list after its length. */
export function putList<Item>(
  writer: ByteWriter,
  items: readonly Item[],
  put: (writer: ByteWriter, item: Item) => void,
): void {
  writer.varint(items.length)
  for (const item of items) put(writer, item)
}

/** Reads a list that `putList` wrote. */
export function takeList<Item>(reader: ByteReader, take: (reader: ByteReader) => Item): readonly Item[] {
  const items: Item[] = []
  for (let left = reader.count(); left > 0; left--) items.push(take(reader))
  return items
}
