/** Items as they may cross a session, for properties. */
import fc, { type Arbitrary } from 'fast-check'
import type { Operation, OperationRequest, OperationResponse } from '../../src/core/api.ts'
import { ERROR_CODES, type ErrorCode, EscrowError } from '../../src/core/errors.ts'
import type { CoordinatorItem, ServiceItem } from '../../src/wire/items.ts'

const text = fc.oneof(
  fc.string({ unit: 'grapheme', maxLength: 20 }),
  fc.string({ unit: 'binary', maxLength: 200 }),
  fc.constantFrom(
    '',
    'default',
    'orders',
    'é',
    'x'.repeat(127),
    'x'.repeat(128),
    'ü'.repeat(100),
    'a'.repeat(20_000),
  ),
)
/** What the API leaves out where proto3 has an empty field. */
const optionalText = text.map((value) => value || undefined)
const notEmpty = text.filter((value) => value !== '')
const body = fc.oneof(
  fc.uint8Array({ maxLength: 300 }),
  fc.constantFrom(0, 1, 127, 128, 16_383, 16_384, 70_000).map((length) => new Uint8Array(length).fill(7)),
)
const int64 = fc.oneof(
  fc.integer(),
  fc.maxSafeInteger(),
  fc.constantFrom(
    0,
    127,
    128,
    2 ** 28,
    2 ** 31,
    2 ** 32,
    2 ** 49,
    Number.MAX_SAFE_INTEGER,
    -1,
    -Number.MAX_SAFE_INTEGER,
  ),
)
const uint32 = fc.oneof(
  fc.nat(300),
  fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  fc.constantFrom(0, 2 ** 28, 2 ** 31, 2 ** 32 - 1),
)
const counter = fc.oneof(fc.nat(), fc.maxSafeNat())
const texts = fc.dictionary(fc.oneof(text, fc.constant('__proto__')), text, {
  maxKeys: 3,
  noNullPrototype: true,
})
const trace = fc.record({ traceparent: text, tracestate: text, baggage: text })
const registration = fc.record({
  checkers: fc.array(text, { maxLength: 3 }),
  handlers: fc.array(text, { maxLength: 3 }),
  steps: fc.array(text, { maxLength: 3 }),
  databaseId: text,
})
const bodies = fc.array(fc.record({ index: uint32, body }), { maxLength: 3 })
const status = fc.constantFrom(
  'prepared',
  'committed',
  'delivered',
  'rolledBack',
  'parked',
  'running',
  'completed',
  'compensating',
  'compensated',
)
/** JSON, as bytes: what isn't there is no bytes at all. */
/** Long enough to be written at once, and not unit by unit. */
const longText = fc.oneof(text, fc.string({ unit: 'grapheme', minLength: 100, maxLength: 300 }))
const json = body.map((bytes) => (bytes.length === 0 ? undefined : bytes))
/** What the API leaves out where a map is empty. */
const optionalTexts = texts.map((given) => (Object.keys(given).length === 0 ? undefined : given))
const notZero = int64.filter((value) => value !== 0)
const ref = { namespace: optionalText, id: text }
const execution = { ...ref, executionId: text }

const halfMessage = fc
  .record({
    destination: text,
    body,
    bodyAtCommit: fc.boolean(),
    headers: texts,
    key: optionalText,
    deliverAtMs: int64,
    contentType: optionalText,
  })
  // A body that is given at commit isn't there at prepare.
  .map((message) => (message.bodyAtCommit ? { ...message, body: new Uint8Array(0) } : message))

const checkBackPolicy = fc.record(
  {
    delayMs: notZero,
    delayMsMax: notZero,
    checksMax: uint32.filter((value) => value !== 0),
    onExhausted: fc.constantFrom('park', 'commit', 'rollback'),
    unresolvedMsMax: notZero,
  },
  { requiredKeys: [] },
)
const retryPolicy = fc.record(
  {
    attemptsMax: uint32.filter((value) => value !== 0),
    delayMs: notZero,
    delayMsMax: notZero,
    attemptTimeoutMs: notZero,
  },
  { requiredKeys: [] },
)

const prepare = fc.record({
  namespace: optionalText,
  id: optionalText,
  checker: text,
  orderingKey: optionalText,
  messages: fc.array(halfMessage, { maxLength: 3 }),
  checkBack: fc.option(checkBackPolicy, { nil: undefined }),
  retry: fc.option(retryPolicy, { nil: undefined }),
  databaseId: optionalText,
  trace: fc.option(trace, { nil: undefined }),
})

const start = fc.record({
  namespace: optionalText,
  id: optionalText,
  saga: text,
  version: uint32.map((value) => value || undefined),
  slip: json,
  input: json,
  orderingKey: optionalText,
  businessKey: optionalText,
  tags: optionalTexts,
  timeoutMs: int64.map((value) => value || undefined),
  trace: fc.option(trace, { nil: undefined }),
})

/** Any answer to a call of a step. */
export const stepResponse = fc.record({
  outcome: fc.constantFrom('done', 'refused', 'failed', 'unknown', 'later'),
  result: json,
  code: text,
  error: text,
})

const REQUESTS: Record<Operation, Arbitrary<unknown>> = {
  prepare,
  commit: fc.record({ ...ref, bodies: bodies.map((given) => (given.length === 0 ? undefined : given)) }),
  rollback: fc.record({ ...ref, reason: optionalText }),
  requestCheckBack: fc.record(ref),
  get: fc.record(ref),
  list: fc.record({
    namespace: optionalText,
    statuses: fc.array(status, { maxLength: 3 }).map((given) => (given.length === 0 ? undefined : given)),
    limit: uint32.map((value) => value || undefined),
    pageToken: optionalText,
    kind: fc.constantFrom(undefined, 'message', 'saga'),
    saga: optionalText,
    businessKey: optionalText,
    tags: optionalTexts,
  }),
  wait: fc.record(ref),
  retry: fc.record({ ...execution, acceptPossibleDuplicate: fc.boolean() }),
  skip: fc.record(execution),
  compensate: fc.record(execution),
  startSaga: start,
  signal: fc.record({ ...ref, signal: text, payload: json, signalId: optionalText }),
  cancel: fc.record({ ...ref, reason: optionalText }),
  complete: fc.record({
    ...execution,
    response: stepResponse,
    attempt: uint32.map((value) => value || undefined),
  }),
  migrateSaga: fc.record({ ...ref, toVersion: uint32 }),
}

const saga = fc.record({
  name: text,
  version: uint32,
  hash: text,
  businessKey: text,
  tags: texts,
  output: json,
  error: text,
  state: text,
  executions: fc.array(
    fc.record({
      executionId: text,
      step: text,
      status: text,
      attempts: uint32,
      error: text,
      compensation: text,
    }),
    { maxLength: 2 },
  ),
  signals: fc.array(text, { maxLength: 2 }),
  timers: uint32,
})

const view = fc.record({
  namespace: text,
  id: text,
  kind: fc.constantFrom('message', 'saga'),
  status,
  executionId: text,
  checker: text,
  orderingKey: text,
  preparedAtMs: int64,
  settledAtMs: int64,
  settledBy: fc.constantFrom('', 'caller', 'checkBack', 'policy'),
  checks: uint32,
  reason: text,
  deliveries: fc.array(
    fc.record({
      executionId: text,
      destination: text,
      status: fc.constantFrom('waiting', 'delivered', 'parked', 'skipped'),
      attempts: uint32,
      error: text,
      nextAttemptAtMs: int64,
    }),
    { maxLength: 2 },
  ),
  trace,
  saga: fc.option(saga, { nil: undefined }),
})
const statusOnly = fc.record({ status })

const RESPONSES: Record<Operation, Arbitrary<unknown>> = {
  prepare: fc.record({ id: text, executionId: text, status }),
  commit: statusOnly,
  rollback: statusOnly,
  requestCheckBack: statusOnly,
  get: view,
  list: fc.record({ transactions: fc.array(view, { maxLength: 2 }), asOfMs: int64, nextPageToken: text }),
  wait: view,
  retry: statusOnly,
  skip: statusOnly,
  compensate: statusOnly,
  startSaga: fc.record({ id: text, executionId: text, status, version: uint32 }),
  signal: statusOnly,
  cancel: statusOnly,
  complete: statusOnly,
  migrateSaga: statusOnly,
}

const operations = Object.keys(REQUESTS) as Operation[]

/** Any request. */
export const operationRequest = fc.oneof(
  ...operations.map((op) => REQUESTS[op].map((request) => ({ op, request }) as OperationRequest)),
)
/** Any response. */
export const operationResponse = fc.oneof(
  ...operations.map((op) => RESPONSES[op].map((response) => ({ op, response }) as OperationResponse)),
)

const error = fc
  .record({
    code: fc.constantFrom(...(Object.keys(ERROR_CODES) as ErrorCode[])),
    message: text,
    details: texts,
  })
  .map(({ code, message, details }) => new EscrowError(code, message, { details }))

/** Any delivery. */
export const deliverRequest = fc.record({
  namespace: text,
  transactionId: text,
  executionId: text,
  attempt: uint32,
  service: text,
  handler: text,
  body,
  headers: texts,
  key: text,
  contentType: text,
  trace,
  timeoutMs: int64,
})

/** Any check-back. */
export const checkBackRequest = fc.record({
  namespace: text,
  transactionId: text,
  executionId: text,
  attempt: uint32,
  checker: text,
  preparedAtMs: int64,
  trace,
  timeoutMs: int64,
})

/** Any call of a step. */
export const stepRequest = fc.record({
  namespace: text,
  transactionId: text,
  executionId: text,
  attempt: uint32,
  service: text,
  step: text,
  operation: fc.constantFrom('action', 'compensation'),
  input: longText,
  result: longText,
  isActionDone: fc.boolean(),
  saga: text,
  trace,
  timeoutMs: int64,
})

/** Anything that a service may send. */
export const serviceItem: Arbitrary<ServiceItem> = fc.oneof(
  fc.record({ commandId: counter, timeoutMs: uint32, operation: operationRequest }).map(
    ({ commandId, timeoutMs, operation }): ServiceItem => ({
      type: 'command',
      commandId,
      timeoutMs,
      ...operation,
    }),
  ),
  fc.record({
    type: fc.constant('deliveryAnswer' as const),
    callId: counter,
    response: fc.record({
      outcome: fc.constantFrom('delivered', 'failed', 'refused', 'unknown'),
      error: text,
    }),
  }),
  fc.record({
    type: fc.constant('checkBackAnswer' as const),
    callId: counter,
    response: fc.record({
      resolution: fc.constantFrom('commit', 'rollback', 'unknown'),
      bodies,
      error: text,
    }),
  }),
  fc.record({ type: fc.constant('stepAnswer' as const), callId: counter, response: stepResponse }),
  fc.record({
    type: fc.constant('register' as const),
    number: uint32,
    registration,
    owner: fc.option(fc.record({ namespace: text, service: notEmpty }), { nil: undefined }),
  }),
  fc.record({ type: fc.constant('noSession' as const), callId: counter, error: text }),
  fc.record({
    type: fc.constant('hello' as const),
    namespace: text,
    service: text,
    deliveriesMax: uint32,
    checkBacksMax: uint32,
    stepsMax: uint32,
    previousSession: text,
    registration,
    node: fc.option(fc.record({ node: notEmpty, incarnation: text }), { nil: undefined }),
  }),
)

const call = { callId: counter, databaseId: optionalText }

/** Anything that a coordinator may send. */
export const coordinatorItem: Arbitrary<CoordinatorItem> = fc.oneof(
  fc
    .record({ commandId: counter, operation: operationResponse })
    .map(({ commandId, operation }): CoordinatorItem => ({ type: 'reply', commandId, ...operation })),
  fc.record({ type: fc.constant('failure' as const), commandId: counter, error }),
  fc.record({ type: fc.constant('delivery' as const), ...call, request: deliverRequest }),
  fc.record({ type: fc.constant('checkBack' as const), ...call, request: checkBackRequest }),
  fc.record({ type: fc.constant('step' as const), ...call, request: stepRequest }),
  fc.record({
    type: fc.constant('registered' as const),
    number: uint32,
    error: fc.option(error, { nil: undefined }),
  }),
  fc.record({
    type: fc.constant('welcome' as const),
    session: text,
    commandsMax: uint32,
    routings: fc.array(text, { maxLength: 3 }),
    limits: fc.record({
      bodyBytesMax: uint32,
      headerBytesMax: uint32,
      messagesMax: uint32,
      transactionBytesMax: uint32,
      frameBytesMax: uint32,
    }),
  }),
  fc.constant({ type: 'drain' as const }),
  fc.record({ type: fc.constant('routings' as const), routings: fc.array(text, { maxLength: 3 }) }),
)
