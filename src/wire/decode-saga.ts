/** What sagas need on a session, out of frames: drafts and their readers, as in decode-parts.ts. */
import type { CompleteRequest, SignalRequest, StartRequest, StepRequest, StepResponse } from '../core/api.ts'
import { NO_TRACE } from '../core/envelope.ts'
import { type Draft, type LastNames, readEntry, readTrace } from './decode-parts.ts'
import type { ProtoReader } from './proto-reader.ts'
import { stepOperationOf, stepOutcomeOf } from './scalars.ts'

/** A start to be read into. */
export const startDraft = (): Draft<StartRequest> => ({
  namespace: undefined,
  id: undefined,
  saga: '',
  version: undefined,
  slip: undefined,
  input: undefined,
  orderingKey: undefined,
  businessKey: undefined,
  tags: undefined,
  timeoutMs: undefined,
  trace: undefined,
})

/** Reads a start. */
export function readStart(reader: ProtoReader, names: LastNames, draft: Draft<StartRequest>): void {
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    switch (tag) {
      case 10:
        draft.namespace = reader.name(names.namespace) || undefined
        break
      case 18:
        draft.id = reader.text() || undefined
        break
      case 26:
        draft.saga = reader.name(names.saga)
        break
      case 32:
        draft.version = reader.uint32() || undefined
        break
      case 42:
        draft.slip = readJson(reader)
        break
      case 50:
        draft.input = readJson(reader)
        break
      case 58:
        draft.orderingKey = reader.text() || undefined
        break
      case 66:
        draft.businessKey = reader.text() || undefined
        break
      case 74:
        draft.tags ??= {}
        readEntry(reader, draft.tags as Record<string, string>, names.headerName)
        break
      case 80:
        draft.timeoutMs = reader.int64('timeout_ms') || undefined
        break
      case 90:
        draft.trace = readTrace(reader, draft.trace)
        break
      default:
        reader.skip(tag, 11)
    }
  }
  reader.leave(outer)
}

/** A signal to be read into. */
export const signalDraft = (): Draft<SignalRequest> => ({
  namespace: undefined,
  id: '',
  signal: '',
  payload: undefined,
  signalId: undefined,
})

/** Reads a signal. */
export function readSignal(reader: ProtoReader, names: LastNames, draft: Draft<SignalRequest>): void {
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 10) draft.namespace = reader.name(names.namespace) || undefined
    else if (tag === 18) draft.id = reader.text()
    else if (tag === 26) draft.signal = reader.name(names.signal)
    else if (tag === 34) draft.payload = readJson(reader)
    else if (tag === 42) draft.signalId = reader.text() || undefined
    else reader.skip(tag, 5)
  }
  reader.leave(outer)
}

/** A completion to be read into. */
export const completeDraft = (): Draft<CompleteRequest> => ({
  namespace: undefined,
  id: '',
  executionId: '',
  response: stepResponseDraft(),
  attempt: undefined,
})

/** Reads a completion. */
export function readComplete(reader: ProtoReader, names: LastNames, draft: Draft<CompleteRequest>): void {
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 10) draft.namespace = reader.name(names.namespace) || undefined
    else if (tag === 18) draft.id = reader.text()
    else if (tag === 26) draft.executionId = reader.text()
    else if (tag === 34) readStepResponse(reader, draft.response)
    else if (tag === 40) draft.attempt = reader.uint32() || undefined
    else reader.skip(tag, 5)
  }
  reader.leave(outer)
}

/** A call of a step to be read into. Until its operation was read it has none, and must not be handed on. */
export const stepDraft = (): Draft<StepRequest> => ({
  namespace: '',
  transactionId: '',
  executionId: '',
  attempt: 0,
  service: '',
  step: '',
  operation: NO_OPERATION,
  input: '',
  result: '',
  isActionDone: false,
  saga: '',
  trace: NO_TRACE,
  timeoutMs: 0,
})

const NO_OPERATION = '' as StepRequest['operation']

/** Reads a call of a step. */
export function readStep(reader: ProtoReader, names: LastNames, draft: Draft<StepRequest>): void {
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    switch (tag) {
      case 10:
        draft.namespace = reader.name(names.namespace)
        break
      case 18:
        draft.transactionId = reader.text()
        break
      case 26:
        draft.executionId = reader.text()
        break
      case 32:
        draft.attempt = reader.uint32()
        break
      case 42:
        draft.service = reader.name(names.service)
        break
      case 50:
        draft.step = reader.name(names.step)
        break
      case 56:
        readOperation(reader, draft)
        break
      case 66:
        draft.input = reader.text()
        break
      case 74:
        draft.result = reader.text()
        break
      case 80:
        draft.isActionDone = reader.bool()
        break
      case 90:
        draft.saga = reader.name(names.saga)
        break
      case 98:
        draft.trace = readTrace(reader, draft.trace)
        break
      case 104:
        draft.timeoutMs = reader.int64('timeout_ms')
        break
      default:
        reader.skip(tag, 13)
    }
  }
  reader.leave(outer)
  if (draft.operation === NO_OPERATION) noteOperation(reader, 0)
}

function readOperation(reader: ProtoReader, draft: Draft<StepRequest>): void {
  draft.operation = noteOperation(reader, reader.uint32())
}

function noteOperation(reader: ProtoReader, value: number): StepRequest['operation'] {
  try {
    return stepOperationOf(value)
  } catch (error) {
    reader.note(error)
    return NO_OPERATION
  }
}

/** An answer to be read into. */
export const stepResponseDraft = (): Draft<StepResponse> => ({
  outcome: 'unknown',
  result: undefined,
  code: '',
  error: '',
})

/** Reads the answer to a call of a step. */
export function readStepResponse(reader: ProtoReader, draft: Draft<StepResponse>): void {
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 8) draft.outcome = stepOutcomeOf(reader.uint32())
    else if (tag === 18) draft.result = readJson(reader)
    else if (tag === 26) draft.code = reader.text()
    else if (tag === 34) draft.error = reader.text()
    else reader.skip(tag, 4)
  }
  reader.leave(outer)
}

function readJson(reader: ProtoReader): Uint8Array | undefined {
  const json = reader.body()
  return json.length === 0 ? undefined : json
}
