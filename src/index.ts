/** What an application imports: a coordinator of its own, or the service's side of one that runs elsewhere. */
export type {
  Broker,
  BrokerMessage,
  PublishOutcome,
  SubscribeOptions,
  Subscription,
  Topic,
  TopicPolicy,
} from './broker/broker.ts'
export {
  type BrokerFactory,
  type ClusterSettings,
  type Config,
  defineConfig,
  type EscrowOptions,
  type ParticipantSettings,
  type PostgresSettings,
  parseConfig,
} from './config.ts'
export {
  type CallOptions,
  type Coordinator,
  type CoordinatorDependencies,
  type CoordinatorOperations,
  createCoordinator,
  type Log,
  type MemoryBroker,
  memory,
} from './coordinator.ts'
export type {
  CancelRequest,
  CommitRequest,
  CompleteRequest,
  DeliveryView,
  ExecutionRef,
  ListRequest,
  ListResponse,
  MessageStatus,
  MigrateRequest,
  PrepareRequest,
  PrepareResponse,
  Registration,
  RetryRequest,
  RollbackRequest,
  SagaStatus,
  SignalRequest,
  StartRequest,
  StatusResponse,
  StepRequest,
  StepResponse,
  TransactionKind,
  TransactionRef,
} from './core/api.ts'
export type { HalfMessageInput } from './core/envelope.ts'
export type { ErrorDetails, ErrorFamily } from './core/errors.ts'
export type { Runtime } from './core/runtime.ts'
export * from './participant/index.ts'
export * from './saga.ts'
