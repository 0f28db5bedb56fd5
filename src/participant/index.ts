/** The service's side: a session with a coordinator, handlers, checkers and the barrier. */
export type {
  CheckBackRequest,
  ExecutionView,
  FixedBody,
  Resolution,
  SagaView,
  StartResponse,
  TransactionStatus,
  TransactionView,
} from '../core/api.ts'
export type { Headers, Limits, TraceContext } from '../core/envelope.ts'
export { ERROR_CODES, type ErrorCode, EscrowError } from '../core/errors.ts'
export type { CheckBackPolicy, RetryPolicy } from '../core/message.ts'
export { participantSteps, type StepRef, type StepType, stepType } from '../core/saga/policy.ts'
export type { StandardSchema } from '../core/saga/schema.ts'
export type { Addresses } from './addresses.ts'
export {
  type PostgresBarrier,
  type PostgresBarrierOptions,
  postgresBarrier,
  type RunOptions,
  type StepRunOptions,
} from './barrier/postgres-barrier.ts'
export type { PostgresClient, PostgresPool } from './barrier/postgres-client.ts'
export type { BarrierOperation, BarrierSubject, Isolation } from './barrier/run.ts'
export type { BodyInput } from './body.ts'
export type { CheckerAnswer, CheckerInput, TransactionChecker } from './checker.ts'
export { type ConnectOptions, connect } from './connect.ts'
export type { ConnectionState, OpenStream } from './connection.ts'
export { type Later, later } from './later.ts'
export type { LocalTransaction, OutgoingMessage, TransactionRequest } from './local-transaction.ts'
export {
  type ListeningParticipant,
  type ListenOptions,
  type ListenPorts,
  type Participant,
  type ParticipantOptions,
  participant,
} from './participant.ts'
export type { MessageHandler, ReceivedMessage } from './received-message.ts'
export { Refusal, refuse } from './refusal.ts'
export type { RequestOptions } from './requests.ts'
export type { SagaCompletion, SagaOutcome, SagaSignal, SagaStart, SagaType } from './saga-requests.ts'
export type { TransactionResult } from './send-in-transaction.ts'
export type { BarrierOfHandlers, Handlers } from './serving.ts'
export type { Session } from './session.ts'
export type { SessionOptions } from './session-options.ts'
export { type ActionCall, defineStep, type Step, type StepCall } from './step.ts'
