/** What is asked about sagas, with values where the API has JSON. */
import type {
  CompleteRequest,
  SignalRequest,
  StartRequest,
  StepResponse,
  TransactionView,
} from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import { encodeJson } from './body.ts'
import { boundedText } from './refusal.ts'

/** What tells the types of a saga apart: its definition does, and so does anything with its name. */
export interface SagaType<Input = unknown, Output = unknown> {
  readonly name: string
  /** Left out, or 0: the newest. */
  readonly version?: number | undefined
  /** Never there: it carries types alone. */
  readonly types?: ((input: Input) => Output) | undefined
}

/** Begins a saga: of a definition, by its name, or of a routing slip. */
export interface SagaStart<Input = unknown, Output = unknown>
  extends Omit<StartRequest, 'saga' | 'input' | 'slip'> {
  /** A definition, or its name. Left out with a slip. */
  readonly saga?: SagaType<Input, Output> | string | undefined
  /** A value that JSON can carry, or JSON as bytes. */
  readonly input?: NoInfer<Input> | Uint8Array | undefined
  /** A routing slip: a value that JSON can carry, or JSON as bytes. */
  readonly slip?: object | undefined
}

/** Tells a saga something. */
export interface SagaSignal extends Omit<SignalRequest, 'payload'> {
  /** A value that JSON can carry, or JSON as bytes. */
  readonly payload?: unknown
}

/** How a step ended that was answered `later`. */
export interface SagaCompletion extends Omit<CompleteRequest, 'response'> {
  readonly response: {
    readonly outcome: 'done' | 'refused' | 'failed'
    /** Of an action that is done: a value that JSON can carry, or JSON as bytes. */
    readonly result?: unknown
    readonly code?: string | undefined
    /** What went wrong; at most 1,024 bytes are kept. */
    readonly error?: string | undefined
  }
}

/** How a saga ended, or that it waits for an operator. */
export interface SagaOutcome<Output> {
  readonly status: TransactionView['status']
  /** What it gave; undefined unless it is completed, and for nothing. */
  readonly output: Output | undefined
  /** Why it was undone, or why it is parked; empty otherwise. */
  readonly error: string
  readonly view: TransactionView
}

/** The request of a start. Throws `invalidArgument`. */
export function toStart<Input, Output>(request: SagaStart<Input, Output>): StartRequest {
  const { saga, input, slip, ...rest } = request
  const { name, version } = typeof saga === 'object' ? saga : { name: saga ?? '', version: undefined }
  return {
    ...rest,
    saga: name,
    version: rest.version ?? version,
    input: encodeJson('the input', input),
    slip: encodeJson('the slip', slip),
  }
}

/** The request of a signal. Throws `invalidArgument`. */
export const toSignal = (request: SagaSignal): SignalRequest => ({
  ...request,
  payload: encodeJson('the payload', request.payload),
})

const OUTCOMES: ReadonlySet<unknown> = new Set(['done', 'refused', 'failed'])

/** The request of a completion. Throws `invalidArgument`. */
export function toComplete(request: SagaCompletion): CompleteRequest {
  const { outcome, result, code = '', error = '' } = request.response
  if (!OUTCOMES.has(outcome))
    throw new EscrowError('invalidArgument', `outcome ${String(outcome)} is not done, refused or failed`)
  const response: StepResponse = {
    outcome,
    result: encodeJson('the result', result),
    code,
    error: boundedText(error),
  }
  return { ...request, response }
}

/** How a saga stands, with what it gave. Throws `unsupported` for what is none. */
export function sagaOutcome<Output>(view: TransactionView): SagaOutcome<Output> {
  const { saga, status, reason } = view
  if (saga === undefined) throw new EscrowError('unsupported', `transaction ${view.id} is no saga`)
  const output = saga.output === undefined ? undefined : (JSON.parse(textOf(saga.output)) as Output)
  return { status, output, error: saga.error || reason, view }
}

const textOf = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString()
