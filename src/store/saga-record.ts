/**
 * The codec of the records and images of sagas: kind 2 beside the messages of `record.ts`, under the same opening.
 *
 * | bytes        | layout                                                                             |
 * |--------------|------------------------------------------------------------------------------------|
 * | full record  | format, key id, kind × 2, head, changes from a saga of which nothing is known yet  |
 * | delta record | format, key id, kind × 2 + 1, transaction key, changes                             |
 * | image        | format, key id, kind × 2 (+ 1: without bodies), head, changes from nothing         |
 *
 * Changes are the fields that differ, by a bit each, and the executions that differ: so what a step costs doesn't grow
 * with the steps before it. A migration changes the head, and has a bit for it. Which executions are under
 * way follows from them, and isn't written. A finished saga is kept without bodies: no inputs, results, nor machine.
 */

import {
  type ExecutionId,
  type Namespace,
  type TransactionId,
  type TransactionKey,
  transactionKey,
} from '../core/ids.ts'
import {
  EMPTY_SAGA,
  isActive,
  isUndoing,
  type QueuedEvent,
  type SagaHead,
  type SagaImage,
  type SagaState,
} from '../core/saga/image.ts'
import { ByteReader, type ByteWriter, corrupt, indexOf } from './binary.ts'
import { putOpening, takeOpening } from './opening.ts'
import {
  appliedExecution,
  type ExecutionChange,
  putExecution,
  putList,
  takeExecution,
  takeList,
} from './saga-execution.ts'

/** The kind of a saga, as records and images name it. */
export const KIND_SAGA = 2

/** What a record says of a saga: the whole, or what changed. */
export interface DecodedSagaRecord {
  readonly key: TransactionKey
  /** Undefined in a delta that leaves it as it is. */
  readonly head: SagaHead | undefined
  /** A delta changes an image that must be known; a full record begins one. */
  readonly isDelta: boolean
  readonly fields: Partial<SagaState>
  readonly executions: readonly ExecutionChange[]
}

/** Bits of what a record tells; the order of the fields is that of the bits. */
const HEAD = 1 << 0
const PHASE = 1 << 1
const MACHINE = 1 << 2
const EXECUTIONS = 1 << 3
const COUNTERS = 1 << 4
const TIMERS = 1 << 5
const SIGNALS = 1 << 6
const AWAITED = 1 << 7
const SIGNAL_IDS = 1 << 8
const QUEUE = 1 << 9
const ATTRIBUTES = 1 << 10
const ALL = (1 << 11) - 1

const PHASES = ['running', 'compensating', 'completed', 'compensated'] as const
const EVENTS = ['start', 'step', 'timer', 'signal'] as const

/** Writes the record that turns `previous` into `next`: whole if there is no previous image. */
export function encodeSagaRecord(writer: ByteWriter, previous: SagaImage | undefined, next: SagaImage): void {
  const { head, state } = next
  putOpening(writer, KIND_SAGA, previous !== undefined)
  if (previous === undefined) {
    putHead(writer, head, true)
    putChanges(writer, EMPTY_SAGA, state, head.input)
    return
  }
  writer.text(head.namespace)
  writer.text(head.id)
  const isMigrated = previous.head !== head
  const bits = changedFields(previous.state, state) | (isMigrated ? HEAD : 0)
  writer.varint(bits)
  if (isMigrated) putHead(writer, head, true)
  putFields(writer, bits, previous.state, state, head.input)
}

/** Reads one record; the reader stands behind it afterwards. Throws `storeCorrupt`. */
export function decodeSagaRecord(reader: ByteReader): DecodedSagaRecord {
  const isDelta = takeOpening(reader, KIND_SAGA)
  if (!isDelta) {
    const head = takeHead(reader)
    return { key: transactionKey(head.namespace, head.id), head, isDelta, ...takeChanges(reader) }
  }
  const key = transactionKey(reader.text() as Namespace, reader.text() as TransactionId)
  const bits = takeBits(reader, ALL)
  const head = bits & HEAD ? takeHead(reader) : undefined
  return { key, head, isDelta, ...takeFields(reader, bits) }
}

/** The image after a record. Throws `storeCorrupt` for a delta to an image that nobody has, or that isn't the one before. */
export function applySagaRecord(image: SagaImage | undefined, record: DecodedSagaRecord): SagaImage {
  const head = record.head ?? image?.head
  if (head === undefined || (record.isDelta && image === undefined))
    throw corrupt(`transaction ${record.key}: a change of it is stored, but not what it changes`)
  const from = record.isDelta && image !== undefined ? image.state : EMPTY_SAGA
  return { head, state: applied(from, head.input, record) }
}

/**
 * Writes an image as the bytes of a row. `bodies` false leaves inputs, results and the machine out: what is finished is
 * kept so for its retention time, with its output and its errors.
 */
export function encodeSagaImage(
  writer: ByteWriter,
  image: SagaImage,
  options: { readonly bodies: boolean },
): void {
  putOpening(writer, KIND_SAGA, !options.bodies)
  putHead(writer, image.head, options.bodies)
  putChanges(writer, EMPTY_SAGA, image.state, options.bodies ? image.head.input : undefined)
}

/** Reads the image of a row. Throws `storeCorrupt`. */
export function decodeSagaImage(bytes: Uint8Array): SagaImage {
  const reader = new ByteReader(bytes, 'a stored image')
  takeOpening(reader, KIND_SAGA)
  const head = takeHead(reader)
  const changes = takeChanges(reader)
  if (reader.remaining > 0) throw reader.corrupt(`${reader.remaining} bytes too many`)
  const key = transactionKey(head.namespace, head.id)
  return { head, state: applied(EMPTY_SAGA, head.input, { key, ...changes }) }
}

function putHead(writer: ByteWriter, head: SagaHead, withBodies: boolean): void {
  writer.text(head.namespace)
  writer.text(head.id)
  writer.text(head.executionId)
  writer.text(head.saga)
  writer.number(head.version)
  writer.text(head.hash)
  writer.text(withBodies ? head.slip : '')
  writer.text(head.orderingKey)
  writer.text(withBodies ? head.input : '')
  writer.text(head.trace.traceparent)
  writer.text(head.trace.tracestate)
  writer.text(head.trace.baggage)
  writer.text(head.contentHash)
  writer.number(head.startedAtMs)
  writer.number(head.startedAtLogMs)
  writer.number(head.deadlineAtMs)
}

function takeHead(reader: ByteReader): SagaHead {
  // A literal's properties are evaluated in their order, which is the order of the bytes.
  return {
    kind: 'saga',
    namespace: reader.text() as Namespace,
    id: reader.text() as TransactionId,
    executionId: reader.text() as ExecutionId,
    saga: reader.text(),
    version: reader.number(),
    hash: reader.text(),
    slip: reader.text(),
    orderingKey: reader.text(),
    input: reader.text(),
    trace: { traceparent: reader.text(), tracestate: reader.text(), baggage: reader.text() },
    contentHash: reader.text(),
    startedAtMs: reader.number(),
    startedAtLogMs: reader.number(),
    deadlineAtMs: reader.number(),
  }
}

function changedFields(from: SagaState, to: SagaState): number {
  let bits = 0
  if (
    from.phase !== to.phase ||
    from.isMachineDone !== to.isMachineDone ||
    from.finishedAtMs !== to.finishedAtMs ||
    from.reason !== to.reason ||
    from.output !== to.output
  )
    bits |= PHASE
  if (from.machine.text !== to.machine.text) bits |= MACHINE
  if (from.executions !== to.executions) bits |= EXECUTIONS
  if (from.places !== to.places || from.pivot !== to.pivot || from.bytes !== to.bytes) bits |= COUNTERS
  if (from.timers !== to.timers) bits |= TIMERS
  if (from.signals !== to.signals) bits |= SIGNALS
  if (from.awaited !== to.awaited) bits |= AWAITED
  if (from.signalIds !== to.signalIds) bits |= SIGNAL_IDS
  if (from.queue !== to.queue || from.stuck !== to.stuck) bits |= QUEUE
  if (from.businessKey !== to.businessKey || from.tags !== to.tags) bits |= ATTRIBUTES
  return bits
}

/** Without bodies `sagaInput` is undefined. */
function putChanges(writer: ByteWriter, from: SagaState, to: SagaState, sagaInput: string | undefined): void {
  const bits = changedFields(from, to) & (sagaInput === undefined ? ~MACHINE : ALL)
  writer.varint(bits)
  putFields(writer, bits, from, to, sagaInput)
}

function putFields(
  writer: ByteWriter,
  bits: number,
  from: SagaState,
  to: SagaState,
  sagaInput: string | undefined,
): void {
  if (bits & PHASE) {
    writer.byte(indexOf(PHASES, to.phase) * 2 + (to.isMachineDone ? 1 : 0))
    writer.number(to.finishedAtMs)
    writer.text(to.reason)
    writer.text(to.output)
  }
  if (bits & MACHINE) writer.text(to.machine.text)
  if (bits & EXECUTIONS) {
    const changed = to.executions.changedSince(from.executions)
    writer.varint(changed.length)
    for (const execution of changed)
      putExecution(writer, from.executions.get(execution.n), execution, sagaInput)
  }
  if (bits & COUNTERS) {
    writer.varint(to.places)
    writer.varint(to.pivot)
    writer.varint(to.bytes)
  }
  if (bits & TIMERS) putList(writer, to.timers, putTimer)
  if (bits & SIGNALS) putList(writer, to.signals, putSignal)
  if (bits & AWAITED) putList(writer, to.awaited, putText)
  if (bits & SIGNAL_IDS) putList(writer, to.signalIds, putText)
  if (bits & QUEUE) {
    writer.text(to.stuck)
    putList(writer, to.queue, putEvent)
  }
  if (bits & ATTRIBUTES) {
    writer.text(to.businessKey)
    putTags(writer, to.tags)
  }
}

// Apart from the other fields: a closure over them would cost every record an object that holds them.
function putTags(writer: ByteWriter, tags: SagaState['tags']): void {
  putList(writer, Object.keys(tags), (each, tag) => {
    each.text(tag)
    each.text(tags[tag] as string)
  })
}

type Changes = Pick<DecodedSagaRecord, 'fields' | 'executions'>

function takeChanges(reader: ByteReader): Changes {
  return takeFields(reader, takeBits(reader, ALL & ~HEAD))
}

function takeBits(reader: ByteReader, known: number): number {
  const bits = reader.varint()
  if (bits > ALL || (bits & ~known) !== 0) throw reader.corrupt(`fields ${bits} are not known`)
  return bits
}

type Changing = { -readonly [Field in keyof SagaState]?: SagaState[Field] }

function takeFields(reader: ByteReader, bits: number): Changes {
  const fields: Changing = {}
  if (bits & PHASE) {
    const choice = reader.choice(PHASES.length * 2)
    fields.phase = PHASES[choice >> 1] as SagaState['phase']
    fields.isMachineDone = (choice & 1) === 1
    fields.finishedAtMs = reader.number()
    fields.reason = reader.text()
    fields.output = reader.text()
  }
  if (bits & MACHINE) fields.machine = { text: reader.text(), live: undefined }
  const executions = bits & EXECUTIONS ? takeList(reader, takeExecution) : []
  if (bits & COUNTERS) {
    fields.places = reader.varint()
    fields.pivot = reader.varint()
    fields.bytes = reader.varint()
  }
  if (bits & TIMERS) fields.timers = takeList(reader, takeTimer)
  if (bits & SIGNALS) fields.signals = takeList(reader, takeSignal)
  if (bits & AWAITED) fields.awaited = takeList(reader, takeText)
  if (bits & SIGNAL_IDS) fields.signalIds = takeList(reader, takeText)
  if (bits & QUEUE) {
    fields.stuck = reader.text()
    fields.queue = takeList(reader, takeEvent)
  }
  if (bits & ATTRIBUTES) {
    fields.businessKey = reader.text()
    fields.tags = Object.fromEntries(takeList(reader, (each) => [each.text(), each.text()] as const))
  }
  return { fields, executions }
}

function applied(
  from: SagaState,
  sagaInput: string,
  { key, fields, executions }: Changes & { key: TransactionKey },
): SagaState {
  if (executions.length === 0) return { ...from, ...fields, plan: undefined }
  let table = from.executions
  const active = new Set(from.active)
  const undoing = new Set(from.undoing)
  for (const change of executions) {
    const { n } = change
    const known = table.get(n)
    const execution = n <= table.length + 1 ? appliedExecution(known, change, sagaInput) : undefined
    if (execution === undefined)
      throw corrupt(`transaction ${key}: a change of execution ${n} is stored, but not what it changes`)
    table = table.with(execution)
    active.delete(n)
    undoing.delete(n)
    if (isActive(execution)) active.add(n)
    if (isUndoing(execution)) undoing.add(n)
  }
  return {
    ...from,
    ...fields,
    plan: undefined,
    executions: table,
    active: ascending(active),
    undoing: ascending(undoing),
  }
}

const ascending = (numbers: ReadonlySet<number>): readonly number[] => [...numbers].sort((a, b) => a - b)

function putEvent(writer: ByteWriter, event: QueuedEvent): void {
  writer.byte(indexOf(EVENTS, event.type))
  if (event.type === 'step') writer.varint(event.n)
  else if (event.type === 'timer') writer.text(event.timer)
  else if (event.type === 'signal') putSignal(writer, event)
}

function takeEvent(reader: ByteReader): QueuedEvent {
  const type = EVENTS[reader.choice(EVENTS.length)] as QueuedEvent['type']
  switch (type) {
    case 'start':
      return { type }
    case 'step':
      return { type, n: reader.varint() }
    case 'timer':
      return { type, timer: reader.text() }
    case 'signal':
      return { type, ...takeSignal(reader) }
  }
}

const putText = (writer: ByteWriter, text: string): void => writer.text(text)
const takeText = (reader: ByteReader): string => reader.text()

function putTimer(writer: ByteWriter, { timer, atMs }: SagaState['timers'][number]): void {
  writer.text(timer)
  writer.number(atMs)
}

const takeTimer = (reader: ByteReader): SagaState['timers'][number] => ({
  timer: reader.text(),
  atMs: reader.number(),
})

function putSignal(writer: ByteWriter, { signal, payload }: SagaState['signals'][number]): void {
  writer.text(signal)
  writer.text(payload)
}

const takeSignal = (reader: ByteReader): SagaState['signals'][number] => ({
  signal: reader.text(),
  payload: reader.text(),
})
