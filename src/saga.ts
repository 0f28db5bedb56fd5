/** What defines sagas, without a coordinator: for definitions that services, tests and tools share. */
export {
  defineSaga,
  definitionOf,
  type FlowDefinition,
  type MachineOptions,
  type MachineStep,
  type SagaDefinition,
  type SagaOptions,
  type SignalSchemas,
} from './core/saga/define.ts'
export type {
  ChoiceNode,
  DelayNode,
  DoneContext,
  Flow,
  FlowBuilders,
  FlowContext,
  FlowNode,
  FlowResults,
  FlowSource,
  Handle,
  LoopNode,
  Mapping,
  ParallelNode,
  StepNode,
  StepOptions,
  SubNode,
  WaitNode,
  WaitOptions,
} from './core/saga/flow.ts'
export { type Migratable, type Migrations, migrateSaga } from './core/saga/migrate.ts'
export {
  type AnyStepRef,
  type AnyStepType,
  participantSteps,
  type StepName,
  type StepRef,
  type StepSettings,
  type StepType,
  stepType,
  untilDone,
} from './core/saga/policy.ts'
export type { SagaCheck, SagaProblem } from './core/saga/problems.ts'
export type {
  Json,
  SagaAttributes,
  SagaProgram,
  StepClass,
  StepPolicy,
  StepRetry,
} from './core/saga/program.ts'
export type { SchemaIssue, SchemaResult, StandardSchema } from './core/saga/schema.ts'
export { compileSlip, type RoutingSlip, type SlipGroup, type SlipStep } from './core/saga/slip.ts'
export { type AnyStateMachine, stepLogic } from './core/saga/statechart.ts'
