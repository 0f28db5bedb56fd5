/**
 * Between the protobuf-es messages of gen/ and the shapes of core/api.ts, for every operation: what unary RPC and HTTP
 * use, and a session for what is seldom. An empty field of proto3 is a field left out in the API, and takes its default.
 */
import { create, type DescMessage, type MessageShape } from '@bufbuild/protobuf'
import type { ExecutionRef, Operation, Operations, TransactionRef } from '../core/api.ts'
import { bodiesFromProto, bodiesToProto, prepareFromProto, prepareToProto } from './convert-prepare.ts'
import {
  cancelFromProto,
  cancelToProto,
  completeFromProto,
  completeToProto,
  migrateFromProto,
  migrateToProto,
  signalFromProto,
  signalToProto,
  startedFromProto,
  startedToProto,
  startFromProto,
  startToProto,
} from './convert-saga.ts'
import { viewFromProto, viewToProto } from './convert-view.ts'
import {
  CancelSagaRequestSchema,
  CancelSagaResponseSchema,
  CommitRequestSchema,
  CommitResponseSchema,
  CompensateRequestSchema,
  CompensateResponseSchema,
  CompleteStepRequestSchema,
  CompleteStepResponseSchema,
  GetRequestSchema,
  GetResponseSchema,
  ListRequestSchema,
  ListResponseSchema,
  MigrateSagaRequestSchema,
  MigrateSagaResponseSchema,
  PrepareRequestSchema,
  PrepareResponseSchema,
  RequestCheckBackRequestSchema,
  RequestCheckBackResponseSchema,
  RetryRequestSchema,
  RetryResponseSchema,
  RollbackRequestSchema,
  RollbackResponseSchema,
  SignalSagaRequestSchema,
  SignalSagaResponseSchema,
  SkipRequestSchema,
  SkipResponseSchema,
  StartSagaRequestSchema,
  StartSagaResponseSchema,
  WaitRequestSchema,
  WaitResponseSchema,
} from './gen/escrow/v1/coordinator_pb.ts'
import {
  askedKindOf,
  askedStatusOf,
  bigintOf,
  checkUint32,
  kindNumber,
  numberOf,
  statusNumber,
  statusOf,
} from './scalars.ts'

export * from './convert-participant.ts'

/** The schemas of every operation's request and response. */
export const OPERATION_SCHEMAS = {
  prepare: { request: PrepareRequestSchema, response: PrepareResponseSchema },
  commit: { request: CommitRequestSchema, response: CommitResponseSchema },
  rollback: { request: RollbackRequestSchema, response: RollbackResponseSchema },
  requestCheckBack: { request: RequestCheckBackRequestSchema, response: RequestCheckBackResponseSchema },
  get: { request: GetRequestSchema, response: GetResponseSchema },
  list: { request: ListRequestSchema, response: ListResponseSchema },
  wait: { request: WaitRequestSchema, response: WaitResponseSchema },
  retry: { request: RetryRequestSchema, response: RetryResponseSchema },
  skip: { request: SkipRequestSchema, response: SkipResponseSchema },
  compensate: { request: CompensateRequestSchema, response: CompensateResponseSchema },
  startSaga: { request: StartSagaRequestSchema, response: StartSagaResponseSchema },
  signal: { request: SignalSagaRequestSchema, response: SignalSagaResponseSchema },
  cancel: { request: CancelSagaRequestSchema, response: CancelSagaResponseSchema },
  complete: { request: CompleteStepRequestSchema, response: CompleteStepResponseSchema },
  migrateSaga: { request: MigrateSagaRequestSchema, response: MigrateSagaResponseSchema },
} as const satisfies Record<Operation, { request: DescMessage; response: DescMessage }>

type Schemas = typeof OPERATION_SCHEMAS
/** The protobuf-es message of an operation's request. */
export type ProtoRequest<Op extends Operation> = MessageShape<Schemas[Op]['request']>
/** The protobuf-es message of an operation's response. */
export type ProtoResponse<Op extends Operation> = MessageShape<Schemas[Op]['response']>

interface Converter<Op extends Operation> {
  requestFrom(message: ProtoRequest<Op>): Operations[Op]['request']
  requestTo(request: Operations[Op]['request']): ProtoRequest<Op>
  responseFrom(message: ProtoResponse<Op>): Operations[Op]['response']
  responseTo(response: Operations[Op]['response']): ProtoResponse<Op>
}

/** The request of a message. Throws `invalidArgument` for what the API can't carry, such as a time beyond 2^53. */
export function requestFromProto<Op extends Operation>(
  op: Op,
  message: ProtoRequest<Op>,
): Operations[Op]['request'] {
  return converterOf(op).requestFrom(message)
}

/** The message of a request. Throws `invalidArgument` for what the protos can't carry, such as a broken number. */
export function requestToProto<Op extends Operation>(
  op: Op,
  request: Operations[Op]['request'],
): ProtoRequest<Op> {
  return converterOf(op).requestTo(request)
}

/** The response of a message. Throws `uncertain` for a word of a newer coordinator. */
export function responseFromProto<Op extends Operation>(
  op: Op,
  message: ProtoResponse<Op>,
): Operations[Op]['response'] {
  return converterOf(op).responseFrom(message)
}

/** The message of a response. */
export function responseToProto<Op extends Operation>(
  op: Op,
  response: Operations[Op]['response'],
): ProtoResponse<Op> {
  return converterOf(op).responseTo(response)
}

const refFrom = (message: { namespace: string; id: string }): TransactionRef => ({
  namespace: message.namespace || undefined,
  id: message.id,
})

const executionFrom = (message: { namespace: string; id: string; executionId: string }): ExecutionRef => ({
  namespace: message.namespace || undefined,
  id: message.id,
  executionId: message.executionId,
})

const refInit = (request: TransactionRef): { namespace: string; id: string } => ({
  namespace: request.namespace ?? '',
  id: request.id,
})

const executionInit = (request: ExecutionRef): { namespace: string; id: string; executionId: string } => ({
  namespace: request.namespace ?? '',
  id: request.id,
  executionId: request.executionId,
})

/** What the operations share whose answer is a status and nothing else. */
function statusAnswer<Op extends Exclude<Operation, 'prepare' | 'startSaga' | 'get' | 'list' | 'wait'>>(
  op: Op,
): Pick<Converter<Op>, 'responseFrom' | 'responseTo'> {
  const schema = OPERATION_SCHEMAS[op].response as DescMessage
  return {
    responseFrom: (message) => ({ status: statusOf(message.status) }),
    responseTo: ({ status }) =>
      create(schema, { status: statusNumber(status) } as Record<string, unknown>) as ProtoResponse<Op>,
  }
}

/** What the operations share whose answer is a transaction. */
function viewAnswer<Op extends 'get' | 'wait'>(op: Op): Pick<Converter<Op>, 'responseFrom' | 'responseTo'> {
  const schema = OPERATION_SCHEMAS[op].response as DescMessage
  return {
    responseFrom: (message) => viewFromProto(message.transaction),
    responseTo: (view) =>
      create(schema, { transaction: viewToProto(view) } as Record<string, unknown>) as ProtoResponse<Op>,
  }
}

const CONVERTERS: { readonly [Op in Operation]: Converter<Op> } = {
  prepare: {
    requestFrom: prepareFromProto,
    requestTo: prepareToProto,
    responseFrom: (message) => ({
      id: message.id,
      executionId: message.executionId,
      status: statusOf(message.status),
    }),
    responseTo: (response) =>
      create(PrepareResponseSchema, {
        id: response.id,
        executionId: response.executionId,
        status: statusNumber(response.status),
      }),
  },
  commit: {
    ...statusAnswer('commit'),
    requestFrom: (message) => ({
      ...refFrom(message),
      bodies: message.bodies.length === 0 ? undefined : bodiesFromProto(message.bodies),
    }),
    requestTo: (request) =>
      create(CommitRequestSchema, { ...refInit(request), bodies: bodiesToProto(request.bodies ?? []) }),
  },
  rollback: {
    ...statusAnswer('rollback'),
    requestFrom: (message) => ({ ...refFrom(message), reason: message.reason || undefined }),
    requestTo: (request) =>
      create(RollbackRequestSchema, { ...refInit(request), reason: request.reason ?? '' }),
  },
  requestCheckBack: {
    ...statusAnswer('requestCheckBack'),
    requestFrom: refFrom,
    requestTo: (request) => create(RequestCheckBackRequestSchema, refInit(request)),
  },
  get: {
    ...viewAnswer('get'),
    requestFrom: refFrom,
    requestTo: (request) => create(GetRequestSchema, refInit(request)),
  },
  wait: {
    ...viewAnswer('wait'),
    requestFrom: refFrom,
    requestTo: (request) => create(WaitRequestSchema, refInit(request)),
  },
  list: {
    requestFrom: (message) => ({
      namespace: message.namespace || undefined,
      statuses: message.statuses.length === 0 ? undefined : message.statuses.map(askedStatusOf),
      limit: message.limit || undefined,
      pageToken: message.pageToken || undefined,
      kind: askedKindOf(message.kind),
      saga: message.saga || undefined,
      businessKey: message.businessKey || undefined,
      tags: Object.keys(message.tags).length === 0 ? undefined : message.tags,
    }),
    requestTo: (request) =>
      create(ListRequestSchema, {
        namespace: request.namespace ?? '',
        statuses: (request.statuses ?? []).map(statusNumber),
        limit: checkUint32('limit', request.limit ?? 0),
        pageToken: request.pageToken ?? '',
        kind: kindNumber(request.kind),
        saga: request.saga ?? '',
        businessKey: request.businessKey ?? '',
        tags: { ...request.tags },
      }),
    responseFrom: (message) => ({
      transactions: message.transactions.map(viewFromProto),
      asOfMs: numberOf('as_of_ms', message.asOfMs),
      nextPageToken: message.nextPageToken,
    }),
    responseTo: (response) =>
      create(ListResponseSchema, {
        transactions: response.transactions.map(viewToProto),
        asOfMs: bigintOf('asOfMs', response.asOfMs),
        nextPageToken: response.nextPageToken,
      }),
  },
  retry: {
    ...statusAnswer('retry'),
    requestFrom: (message) => ({
      ...executionFrom(message),
      acceptPossibleDuplicate: message.acceptPossibleDuplicate,
    }),
    requestTo: (request) =>
      create(RetryRequestSchema, {
        ...executionInit(request),
        acceptPossibleDuplicate: request.acceptPossibleDuplicate ?? false,
      }),
  },
  skip: {
    ...statusAnswer('skip'),
    requestFrom: executionFrom,
    requestTo: (request) => create(SkipRequestSchema, executionInit(request)),
  },
  compensate: {
    ...statusAnswer('compensate'),
    requestFrom: executionFrom,
    requestTo: (request) => create(CompensateRequestSchema, executionInit(request)),
  },
  startSaga: {
    requestFrom: startFromProto,
    requestTo: startToProto,
    responseFrom: startedFromProto,
    responseTo: startedToProto,
  },
  signal: { ...statusAnswer('signal'), requestFrom: signalFromProto, requestTo: signalToProto },
  cancel: { ...statusAnswer('cancel'), requestFrom: cancelFromProto, requestTo: cancelToProto },
  complete: { ...statusAnswer('complete'), requestFrom: completeFromProto, requestTo: completeToProto },
  migrateSaga: { ...statusAnswer('migrateSaga'), requestFrom: migrateFromProto, requestTo: migrateToProto },
}

// TypeScript can't see that an entry of the table belongs to the operation that it was read by.
const converterOf = <Op extends Operation>(op: Op): Converter<Op> =>
  CONVERTERS[op] as unknown as Converter<Op>
