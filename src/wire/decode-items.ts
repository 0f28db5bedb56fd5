/**
 * Frames into items, field by field as protos/escrow/v1/session.proto numbers them: the counterpart of encode-items.ts.
 * As protobuf asks, a field that comes again wins, a nested message that comes again is merged, fields that aren't known
 * are skipped, and the fields of a message may stand in any order.
 */
import type {
  CommitRequest,
  Operation,
  OperationRequest,
  OperationResponse,
  RollbackRequest,
  TransactionRef,
} from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import { OPERATION_SCHEMAS, requestFromProto, responseFromProto } from './convert.ts'
import {
  type Draft,
  type LastNames,
  prepareDraft,
  readCommit,
  readEntry,
  readPrepare,
  readRef,
  readRollback,
} from './decode-parts.ts'
import { completeDraft, readComplete, readSignal, readStart, signalDraft, startDraft } from './decode-saga.ts'
import { OPERATION_FIELD } from './encode-items.ts'
import { errorFromProto, readMessage } from './handshake.ts'
import type { CoordinatorItem, ServiceItem, UnreadableCommandItem } from './items.ts'
import type { ProtoReader } from './proto-reader.ts'
import { statusOf } from './scalars.ts'

const OPERATION_BY_TAG: readonly (Operation | undefined)[] = (() => {
  const byTag: (Operation | undefined)[] = new Array(256).fill(undefined)
  for (const op of Object.keys(OPERATION_FIELD) as Operation[]) byTag[(OPERATION_FIELD[op] << 3) | 2] = op
  return byTag
})()

/** What is read by hand of an operation: its draft is the request, or the response, once all is read. */
type CommandItem = Extract<ServiceItem, { type: 'command' }>

/** The request that a command has had so far. */
type RequestDraft =
  | Exclude<OperationRequest, { op: ColdRequest }>
  | { readonly op: ColdRequest; readonly parts: Uint8Array[] }
type ColdRequest = 'get' | 'list' | 'wait' | 'retry' | 'skip' | 'compensate' | 'cancel' | 'migrateSaga'

/** Reads a command. What can be told from others but not carried out is answered alone, and its session goes on. */
export function readCommand(reader: ProtoReader, names: LastNames): CommandItem | UnreadableCommandItem {
  let commandId = 0
  let timeoutMs = 0
  let draft: RequestDraft | undefined
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 8) commandId = reader.counter()
    else if (tag === 16) timeoutMs = reader.uint32()
    else {
      const op = OPERATION_BY_TAG[tag]
      if (op === undefined) reader.skip(tag, 16)
      else draft = readRequest(reader, names, op, draft)
    }
  }
  reader.leave(outer)
  if (reader.problem !== undefined) return unreadable(commandId, reader)
  if (draft === undefined) {
    reader.note(
      new EscrowError('malformed', 'a command without an operation, or one that only a newer version knows'),
    )
    return unreadable(commandId, reader)
  }
  // A literal each, not a spread: this is the way of every command, and a known shape is several times cheaper.
  switch (draft.op) {
    case 'prepare':
      return { type: 'command', commandId, timeoutMs, op: draft.op, request: draft.request }
    case 'commit':
      return { type: 'command', commandId, timeoutMs, op: draft.op, request: draft.request }
    case 'rollback':
      return { type: 'command', commandId, timeoutMs, op: draft.op, request: draft.request }
    case 'requestCheckBack':
      return { type: 'command', commandId, timeoutMs, op: draft.op, request: draft.request }
    case 'startSaga':
      return { type: 'command', commandId, timeoutMs, op: draft.op, request: draft.request }
    case 'signal':
      return { type: 'command', commandId, timeoutMs, op: draft.op, request: draft.request }
    case 'complete':
      return { type: 'command', commandId, timeoutMs, op: draft.op, request: draft.request }
    default:
      return readColdCommand(reader, commandId, timeoutMs, draft)
  }
}

function unreadable(commandId: number, reader: ProtoReader): UnreadableCommandItem {
  const error = reader.problem as EscrowError
  reader.problem = undefined
  return { type: 'unreadableCommand', commandId, error }
}

function readRequest(
  reader: ProtoReader,
  names: LastNames,
  op: Operation,
  known: RequestDraft | undefined,
): RequestDraft {
  switch (op) {
    case 'prepare': {
      const request = known?.op === op ? known.request : prepareDraft()
      readPrepare(reader, names, request)
      return { op, request }
    }
    case 'commit': {
      const request: Draft<CommitRequest> =
        known?.op === op ? known.request : { namespace: undefined, id: '', bodies: undefined }
      readCommit(reader, names, request)
      return { op, request }
    }
    case 'rollback': {
      const request: Draft<RollbackRequest> =
        known?.op === op ? known.request : { namespace: undefined, id: '', reason: undefined }
      readRollback(reader, names, request)
      return { op, request }
    }
    case 'requestCheckBack': {
      const request: Draft<TransactionRef> =
        known?.op === op ? known.request : { namespace: undefined, id: '' }
      readRef(reader, names, request)
      return { op, request }
    }
    case 'startSaga': {
      const request = known?.op === op ? known.request : startDraft()
      readStart(reader, names, request)
      return { op, request }
    }
    case 'signal': {
      const request = known?.op === op ? known.request : signalDraft()
      readSignal(reader, names, request)
      return { op, request }
    }
    case 'complete': {
      const request = known?.op === op ? known.request : completeDraft()
      readComplete(reader, names, request)
      return { op, request }
    }
    default: {
      const parts = known?.op === op ? known.parts : []
      parts.push(reader.raw())
      return { op, parts }
    }
  }
}

function readColdCommand(
  reader: ProtoReader,
  commandId: number,
  timeoutMs: number,
  { op, parts }: Extract<RequestDraft, { op: ColdRequest }>,
): CommandItem | UnreadableCommandItem {
  const message = readMessage(OPERATION_SCHEMAS[op].request, merged(parts))
  try {
    const request = requestFromProto(op, message)
    return { type: 'command', commandId, timeoutMs, op, request } as CommandItem
  } catch (error) {
    reader.note(error)
    return unreadable(commandId, reader)
  }
}

/** Encoded messages are merged by standing one after the other: put together once, or many small ones would cost squares. */
const merged = (parts: readonly Uint8Array[]): Uint8Array =>
  parts.length === 1 ? (parts[0] as Uint8Array) : Buffer.concat(parts)

/** The result that a reply has had so far; a response read by hand has its status as a number still. */
type ResultDraft =
  | { readonly op: 'error'; readonly error: ErrorDraft }
  | { readonly op: HotReply; readonly response: StatusDraft }
  | { readonly op: ColdReply; readonly parts: Uint8Array[] }
type ColdReply = 'get' | 'list' | 'wait'
type HotReply = Exclude<Operation, ColdReply>
type StatusDraft = { id: string; executionId: string; status: number; version: number }
type ErrorDraft = { code: string; message: string; retryable: boolean; details: Record<string, string> }

/** Reads the outcome of a command; an outcome that isn't said, or isn't known here, is `uncertain`. */
export function readReply(reader: ProtoReader, names: LastNames): CoordinatorItem {
  let commandId = 0
  let draft: ResultDraft | undefined
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 8) commandId = reader.counter()
    else if (tag === 18) draft = readErrorResult(reader, names, draft)
    else {
      const op = OPERATION_BY_TAG[tag]
      if (op === undefined) reader.skip(tag, 16)
      else draft = readResult(reader, op, draft)
    }
  }
  reader.leave(outer)
  try {
    return replyOf(commandId, draft)
  } catch (thrown) {
    const error = EscrowError.from(thrown)
    if (error.code === 'malformed') throw error
    return { type: 'failure', commandId, error }
  }
}

function replyOf(commandId: number, draft: ResultDraft | undefined): CoordinatorItem {
  if (draft === undefined) {
    throw new EscrowError('uncertain', 'the coordinator answered what this version does not know')
  }
  switch (draft.op) {
    case 'error':
      return { type: 'failure', commandId, error: errorFromProto(draft.error) }
    case 'prepare': {
      const { id, executionId, status } = draft.response
      return {
        type: 'reply',
        commandId,
        op: draft.op,
        response: { id, executionId, status: statusOf(status) },
      }
    }
    case 'startSaga': {
      const { id, executionId, status, version } = draft.response
      return {
        type: 'reply',
        commandId,
        op: draft.op,
        response: { id, executionId, status: statusOf(status), version },
      }
    }
    case 'get':
    case 'list':
    case 'wait': {
      const response = responseFromProto(
        draft.op,
        readMessage(OPERATION_SCHEMAS[draft.op].response, merged(draft.parts)),
      )
      return { type: 'reply', commandId, ...({ op: draft.op, response } as OperationResponse) }
    }
    default:
      return { type: 'reply', commandId, op: draft.op, response: { status: statusOf(draft.response.status) } }
  }
}

function readResult(reader: ProtoReader, op: Operation, known: ResultDraft | undefined): ResultDraft {
  if (op === 'get' || op === 'list' || op === 'wait') {
    const parts = known?.op === op ? known.parts : []
    parts.push(reader.raw())
    return { op, parts }
  }
  const response = known?.op === op ? known.response : { id: '', executionId: '', status: 0, version: 0 }
  if (op === 'prepare') readPrepareResponse(reader, response)
  else if (op === 'startSaga') readStartResponse(reader, response)
  else readStatusResponse(reader, response)
  return { op, response }
}

function readPrepareResponse(reader: ProtoReader, draft: StatusDraft): void {
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 10) draft.id = reader.text()
    else if (tag === 18) draft.executionId = reader.text()
    else if (tag === 24) draft.status = reader.uint32()
    else reader.skip(tag, 3)
  }
  reader.leave(outer)
}

function readStartResponse(reader: ProtoReader, draft: StatusDraft): void {
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 10) draft.id = reader.text()
    else if (tag === 18) draft.executionId = reader.text()
    else if (tag === 24) draft.status = reader.uint32()
    else if (tag === 32) draft.version = reader.uint32()
    else reader.skip(tag, 4)
  }
  reader.leave(outer)
}

function readStatusResponse(reader: ProtoReader, draft: StatusDraft): void {
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 8) draft.status = reader.uint32()
    else reader.skip(tag, 1)
  }
  reader.leave(outer)
}

function readErrorResult(reader: ProtoReader, names: LastNames, known: ResultDraft | undefined): ResultDraft {
  const error = known?.op === 'error' ? known.error : { code: '', message: '', retryable: false, details: {} }
  const outer = reader.enter()
  while (reader.more) {
    const tag = reader.tag()
    if (tag === 10) error.code = reader.text()
    else if (tag === 18) error.message = reader.text()
    else if (tag === 24) error.retryable = reader.bool()
    else if (tag === 34) readEntry(reader, error.details, names.headerName)
    else reader.skip(tag, 4)
  }
  reader.leave(outer)
  return { op: 'error', error }
}
