/** How the steps of a definition are called: what a user writes, checked, bounded and completed with defaults. */
import { EscrowError } from '../errors.ts'
import { parseDestination, parseName } from '../ids.ts'
import type { Json, StepClass, StepPolicy, StepRetry } from './program.ts'
import { checkSchema, type StandardSchema } from './schema.ts'

const TYPES: unique symbol = Symbol('types')

/** A step of a participant, with the types of its input and of its result. */
export interface StepRef<Input = Json | undefined, Result = Json | undefined> {
  readonly service: string
  readonly step: string
  /** Checks the input before the step is called, and the result before it is stored. */
  readonly type: StepType<Input, Result>
}

/** What a step takes and gives: by validators, or by types alone (`stepType`). */
export interface StepType<Input = Json | undefined, Result = Json | undefined> {
  readonly input?: StandardSchema<unknown, Input> | undefined
  readonly result?: StandardSchema<unknown, Result> | undefined
  readonly [TYPES]?: (input: Input) => Result
}

/** Any step of a participant, whatever its types. */
export interface AnyStepRef {
  readonly service: string
  readonly step: string
  readonly type: AnyStepType
}

/** What any step takes and gives. */
export interface AnyStepType {
  readonly input?: StandardSchema<unknown, unknown> | undefined
  readonly result?: StandardSchema<unknown, unknown> | undefined
}

/** A step of a participant by its name alone, `service/step`. */
export type StepName = `${string}/${string}`

/** The types of a step without validators: nothing is checked when it runs. */
export const stepType = <Input = Json | undefined, Result = Json | undefined>(): StepType<
  Input,
  Result
> => ({})

/**
 * Names the steps of a participant once, with their types: `participantSteps('inventory', { reserve: stepType<Order,
 * Reservation>(), release: { input: OrderSchema } }).reserve`. Throws `invalidArgument` for a name that is none.
 */
export function participantSteps<Steps extends Readonly<Record<string, AnyStepType>>>(
  service: string,
  steps: Steps,
): {
  readonly [Name in keyof Steps]: Steps[Name] extends StepType<infer Input, infer Result>
    ? StepRef<Input, Result>
    : never
} {
  parseName('service', service)
  const refs = Object.entries(steps).map(([step, type]) => {
    parseName('step', step)
    if (type.input !== undefined) checkSchema(type.input, `the input of ${service}/${step}`)
    if (type.result !== undefined) checkSchema(type.result, `the result of ${service}/${step}`)
    return [step, { service, step, type }]
  })
  return Object.fromEntries(refs)
}

/** What a step may be given beside its action. Times are milliseconds of log time. */
export interface StepSettings {
  /** Undoes it: another step of a participant, or `true` for the compensation of the action's own step. */
  readonly compensation?: AnyStepRef | StepName | true | undefined
  /** It can't be undone, and the saga accepts that. Refused before a pivot. */
  readonly irreversible?: true | undefined
  /** There is nothing to undo: a check, a look-up. */
  readonly readOnly?: true | undefined
  /** Default 200 ms to 30 s, 10 attempts; behind the pivot without end. */
  readonly retry?: Partial<StepRetry> | undefined
  /** 1 ms to 30 days; default 30 s. One that answers `later` has until `stepTimeoutMs`, or 7 days without one. */
  readonly attemptTimeoutMs?: number | undefined
  /** From its entry to its outcome, all attempts told; up to 366 days; default 0: none. Refused behind the pivot. */
  readonly stepTimeoutMs?: number | undefined
  /** Error codes of the participant that end the step as failed at once; up to 100. */
  readonly nonRetryable?: readonly string[] | undefined
  /** How many of this step are in flight at once for each log; default 0: no limit. */
  readonly concurrencyMax?: number | undefined
  /** How many of this step are begun a second for each log; default 0: no limit. */
  readonly ratePerSecond?: number | undefined
}

/** Tries a step until it is done. */
export const untilDone: Partial<StepRetry> = Object.freeze({ attemptsMax: 0 })

/** A step of a definition before its class is known. */
export interface PlannedStep {
  readonly settings: StepSettings
  /** Undefined for a message. */
  readonly action: AnyStepRef | StepName | undefined
  /** Empty for a call. */
  readonly destination: string
  readonly isPivot: boolean
}

const DAY_MS = 86_400_000
const RETRY: StepRetry = { delayMs: 200, delayMsMax: 30_000, attemptsMax: 10 }
const ATTEMPT_TIMEOUT_MS = 30_000
const NON_RETRYABLE_MAX = 100

/** Checks and completes the policy of a step. Throws `invalidArgument` with the step, the field and its bound. */
export function stepPolicy(step: string, planned: PlannedStep, stepClass: StepClass): StepPolicy {
  const { settings, action, destination } = planned
  const number = (field: string, value: number, [min, max]: readonly [number, number]): number => {
    if (Number.isSafeInteger(value) && value >= min && value <= max) return value
    throw new EscrowError(
      'invalidArgument',
      `step ${JSON.stringify(step)}: ${field} is ${value}, allowed are whole numbers ${min}-${max}`,
    )
  }
  const called =
    action === undefined ? { service: '', step: '' } : parseRef(action, `step ${JSON.stringify(step)}`)
  const retry = { ...RETRY, ...(stepClass === 'retriable' && untilDone), ...defined(settings.retry) }
  const delayMs = number('retry.delayMs', retry.delayMs, [1, DAY_MS])
  return {
    step,
    service: called.service,
    action: called.step,
    compensation: compensationOf(step, settings, called),
    class: stepClass,
    destination: destination === '' ? '' : parseDestination(destination),
    retry: {
      delayMs,
      delayMsMax: number('retry.delayMsMax', Math.max(retry.delayMsMax, delayMs), [1, DAY_MS]),
      attemptsMax: number('retry.attemptsMax', retry.attemptsMax, [0, 1_000_000]),
    },
    attemptTimeoutMs: number('attemptTimeoutMs', settings.attemptTimeoutMs ?? ATTEMPT_TIMEOUT_MS, [
      1,
      30 * DAY_MS,
    ]),
    stepTimeoutMs: number('stepTimeoutMs', settings.stepTimeoutMs ?? 0, [0, 366 * DAY_MS]),
    nonRetryable: parseCodes(step, settings.nonRetryable ?? []),
    concurrencyMax: number('concurrencyMax', settings.concurrencyMax ?? 0, [0, 1_000_000]),
    ratePerSecond: number('ratePerSecond', settings.ratePerSecond ?? 0, [0, 1_000_000]),
  }
}

/** Parses `service/step` or a ref. Throws `invalidArgument`. */
export function parseRef(ref: unknown, what: string): { readonly service: string; readonly step: string } {
  if (typeof ref === 'string') {
    const slash = ref.indexOf('/')
    if (slash > 0)
      return {
        service: parseName(`${what}: service`, ref.slice(0, slash)),
        step: parseName(`${what}: participant's step`, ref.slice(slash + 1)),
      }
  } else if (typeof ref === 'object' && ref !== null && 'service' in ref && 'step' in ref) {
    const { service, step } = ref as { service: unknown; step: unknown }
    if (typeof service === 'string' && typeof step === 'string') return { service, step }
  }
  throw new EscrowError(
    'invalidArgument',
    `${what}: ${JSON.stringify(ref)} names no step of a participant: write "service/step", or use participantSteps`,
  )
}

function compensationOf(
  step: string,
  { compensation }: StepSettings,
  action: { service: string; step: string },
): StepPolicy['compensation'] {
  if (compensation === undefined) return undefined
  return compensation === true
    ? action
    : parseRef(compensation, `the compensation of step ${JSON.stringify(step)}`)
}

function parseCodes(step: string, codes: readonly string[]): readonly string[] {
  const isCode = (code: unknown) => typeof code === 'string' && code.length >= 1 && code.length <= 100
  if (Array.isArray(codes) && codes.length <= NON_RETRYABLE_MAX && codes.every(isCode)) return [...codes]
  throw new EscrowError(
    'invalidArgument',
    `step ${JSON.stringify(step)}: nonRetryable is no list of up to ${NON_RETRYABLE_MAX} codes of 1-100 characters`,
  )
}

function defined<Value extends object>(value: Value | undefined): Partial<Value> {
  const entries = Object.entries(value ?? {}).filter(([, each]) => each !== undefined)
  return Object.fromEntries(entries) as Partial<Value>
}
