import type { StartRequest, StepRequest, TransactionView } from '../../src/core/api.ts'
import type { Namespace } from '../../src/core/ids.ts'
import { defineSaga, type FlowDefinition, type SagaDefinition } from '../../src/core/saga/define.ts'
import type { Flow, FlowBuilders, Mapping } from '../../src/core/saga/flow.ts'
import type { Migrations } from '../../src/core/saga/migrate.ts'
import type { StepSettings } from '../../src/core/saga/policy.ts'
import type { EngineOptions } from '../../src/engine/engine.ts'
import type { Coordinator } from './world.ts'
import { World } from './world.ts'

type AnyDefinition = Pick<SagaDefinition, 'program'>
type Builders = FlowBuilders<unknown, Record<string, undefined>>

/** A saga of untyped steps. */
export const sagaOf = (
  flow: (builders: Builders) => Flow,
  more: {
    readonly name?: string
    readonly version?: number
    readonly timeoutMs?: number
    readonly signals?: readonly string[]
    readonly output?: Mapping<unknown, unknown>
    readonly migrations?: Migrations
  } = {},
): FlowDefinition<unknown, unknown> => {
  const { name = 'order', version = 1, timeoutMs, signals = [], output, migrations } = more
  return defineSaga<unknown, unknown, Record<string, undefined>>({
    name,
    version,
    timeoutMs,
    output,
    migrations,
    signals: Object.fromEntries(signals.map((signal) => [signal, undefined])),
    flow,
  })
}

/** A step that `shop/<name>` undoes as well. */
export const undoable = ({ step }: Builders, name: string, settings: StepSettings = {}) =>
  step(name, { action: `shop/${name}`, compensation: true, ...settings })

/** Undoable steps one after another. */
export const line =
  (names: readonly string[], settings: StepSettings = {}) =>
  (builders: Builders): Flow =>
    names.map((name) => undoable(builders, name, settings))

/** Every pause is short, so that little time passes. */
export const quick = { retry: { delayMs: 100, delayMsMax: 400, attemptsMax: 3 }, attemptTimeoutMs: 1_000 }

/** Starts a coordinator that knows these sagas, with all of their participants there. */
export async function openSagas(
  definitions: readonly AnyDefinition[],
  {
    seed,
    logs,
    databaseId = '',
    ...overrides
  }: {
    readonly seed?: number
    readonly logs?: number
    readonly databaseId?: string
  } & Partial<EngineOptions> = {},
): Promise<World> {
  const world = new World({
    ...(seed === undefined ? {} : { seed }),
    ...(logs === undefined ? {} : { logs }),
  })
  await world.start({ sagas: definitions.map(({ program }) => program), ...overrides })
  await world.introduce()
  for (const { program } of definitions) {
    for (const { service, action, compensation } of program.steps.values()) {
      if (action !== '') await introduceStep(world, service, action, databaseId)
      if (compensation !== undefined)
        await introduceStep(world, compensation.service, compensation.step, databaseId)
    }
  }
  return world
}

/** Makes a step known, and somebody present who serves it. */
export async function introduceStep(
  world: World,
  service: string,
  step: string,
  databaseId = '',
): Promise<void> {
  const names = { checkers: [], handlers: [], steps: [step], databaseId }
  await world.coordinator.engine.register('default' as Namespace, service, names)
  world.steps.comes(`${service}/${step}`, databaseId)
}

/** Kills the coordinator, and starts another that knows these sagas. */
export const restartWith = (
  world: World,
  definitions: readonly AnyDefinition[],
  outageMs = 0,
  overrides: Partial<EngineOptions> = {},
): Promise<Coordinator> =>
  world.restart(outageMs, { sagas: definitions.map(({ program }) => program), ...overrides })

/** Starts a saga; returns its id. */
export async function startSaga(world: World, request: Partial<StartRequest> = {}): Promise<string> {
  return (await world.call('startSaga', { saga: 'order', ...request })).id
}

export const view = (world: World, id: string): Promise<TransactionView> => world.call('get', { id })

/** Lets time pass until a saga has ended or is parked; returns what it is then. */
export async function endOf(world: World, id: string, timeoutMs = 600_000): Promise<TransactionView> {
  return world.call('wait', { id }, { timeoutMs })
}

/** What a participant says to the actions of one step; everything else is done. */
export const saying =
  (steps: Readonly<Record<string, World['steps']['take']>>): World['steps']['take'] =>
  (request) => {
    const name = `${request.operation === 'action' ? '' : '-'}${request.step}`
    return steps[name]?.(request) ?? { outcome: 'done', code: '', error: '' }
  }

export const bytes = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value))

export const parsed = (given: Uint8Array | undefined): unknown =>
  given === undefined ? undefined : JSON.parse(Buffer.from(given).toString())

/** How the executions of a saga stand, one by one: `step status compensation`. */
export const executionsOf = ({ saga }: TransactionView): string[] =>
  (saga?.executions ?? []).map(({ step, status, compensation }) => `${step} ${status} ${compensation}`.trim())

/** The execution of a step that began last. */
export function executionOf({ saga }: TransactionView, step: string): string {
  const found = saga?.executions.findLast((each) => each.step === step)
  if (found === undefined) throw new Error(`no execution of ${step}`)
  return found.executionId
}

/**
 * What participants with a barrier did: an effect for an execution once, whatever comes twice; an action that comes after
 * its compensation does nothing.
 */
export class Ledger {
  readonly effects: { readonly saga: string; readonly n: number; readonly what: string }[] = []
  readonly #rows = new Map<string, 'done' | 'refused' | 'barred'>()

  /** Has an action or a compensation done; tells the outcome. */
  do({ transactionId, executionId, step, operation }: StepRequest, isRefused = false): 'done' | 'refused' {
    const key = `${executionId}/${operation}`
    const known = this.#rows.get(key)
    if (known !== undefined) return known === 'done' ? 'done' : 'refused'
    if (operation === 'action' && isRefused) {
      this.#rows.set(key, 'refused')
      return 'refused'
    }
    this.#rows.set(key, 'done')
    const n = Number(executionId.slice(executionId.lastIndexOf('.') + 1))
    if (operation === 'compensation' && this.#rows.get(`${executionId}/action`) !== 'done') {
      this.#rows.set(`${executionId}/action`, 'barred')
      return 'done'
    }
    this.effects.push({ saga: transactionId, n, what: `${operation === 'action' ? '' : '-'}${step}` })
    return 'done'
  }

  /** What was done for a saga, in order. */
  of(saga: string): string[] {
    return this.effects.filter((effect) => effect.saga === saga).map(({ what }) => what)
  }
}
