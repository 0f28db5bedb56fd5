/**
 * Routing slips: sagas that are sent as data. A slip is parsed, bounded and compiled like any flow, so that one machine
 * and one way of compensating serve both.
 *
 * ```json
 * { "steps": [
 *   { "name": "reserve", "action": "inventory/reserve", "compensation": "inventory/release", "input": { "sku": "x" } },
 *   { "parallel": [
 *     { "name": "charge", "action": "payments/charge", "compensation": true },
 *     { "name": "label", "action": "shipping/label", "readOnly": true },
 *     { "name": "pack", "action": "shipping/pack", "compensation": true, "after": ["charge", "label"] }
 *   ] },
 *   { "name": "confirm", "action": "orders/confirm", "pivot": true },
 *   { "name": "tell", "to": "kafka:orders", "input": { "sku": "x" } }
 * ] }
 * ```
 * A step without `input` is given the slip's own. Steps of a group run at once, except that each waits for those of the
 * group that its `after` names. A branch of a group may be a sequence: an array of steps, which then names no `after`.
 */
import { EscrowError } from '../errors.ts'
import type { SagaDefinition } from './define.ts'
import { defineFlow } from './define.ts'
import type { Flow, FlowNode, StepNode } from './flow.ts'
import { checkJson } from './json.ts'
import type { StepName, StepSettings } from './policy.ts'
import type { Json, StepRetry } from './program.ts'

/** One step of a routing slip: a participant's step, or with `to` a message. */
export interface SlipStep extends Omit<StepSettings, 'compensation' | 'irreversible' | 'readOnly'> {
  /** 1-63 of a-z, 0-9 and '-', unique in the slip. */
  readonly name: string
  /** `service/step`; left out for a message. */
  readonly action?: string
  /** `service/step`, or `true` for the compensation of the action's own step. */
  readonly compensation?: string | boolean
  readonly pivot?: boolean
  readonly irreversible?: boolean
  readonly readOnly?: boolean
  /** The destination of a message; only behind the pivot. */
  readonly to?: string
  /** What the step is called with, or the message's body; default: the slip's input. */
  readonly input?: Json
  /** Steps of the same group that end before this one begins. */
  readonly after?: readonly string[]
}

/** Steps that run at once. */
export interface SlipGroup {
  readonly parallel: readonly (SlipStep | readonly SlipStep[])[]
}

/** A saga as data. */
export interface RoutingSlip {
  readonly steps: readonly (SlipStep | SlipGroup)[]
}

/** Steps of one slip. */
export const SLIP_STEPS_MAX = 200

/** A routing slip as it comes in. Throws `invalidArgument`. */
export function parseSlip(text: string): Json {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new EscrowError('invalidArgument', `the routing slip is not JSON: ${(cause as Error).message}`, {
      cause,
    })
  }
}

/**
 * Compiles a routing slip: a definition named `slip`, version 1, whose `program.timeoutMs` is 0 (the start says it).
 * Throws `invalidArgument` with the path of what is no slip, `tooLarge` beyond `SLIP_STEPS_MAX`, and `invalidSaga` for a
 * slip that breaks the rules which every definition is held to.
 */
export function compileSlip(slip: Json | undefined): SagaDefinition<Json | undefined, undefined> {
  checkJson(slip, 'the routing slip')
  const parser = new SlipParser()
  const flow = parser.flow(slip)
  return defineFlow('slip', 1, flow)
}

const STEP_FIELDS = [
  'name',
  'action',
  'compensation',
  'pivot',
  'irreversible',
  'readOnly',
  'to',
  'input',
  'after',
  'retry',
  'attemptTimeoutMs',
  'stepTimeoutMs',
  'nonRetryable',
  'concurrencyMax',
  'ratePerSecond',
]
const RETRY_FIELDS: readonly (keyof StepRetry)[] = ['delayMs', 'delayMsMax', 'attemptsMax']
const FLAGS = ['pivot', 'irreversible', 'readOnly'] as const
const NUMBERS = ['attemptTimeoutMs', 'stepTimeoutMs', 'concurrencyMax', 'ratePerSecond'] as const

type Fields = Readonly<Record<string, Json>>

class SlipParser {
  #steps = 0
  #groups = 0

  flow(slip: Json | undefined): Flow {
    const { steps } = fieldsOf(slip, '', ['steps'])
    return this.#list(steps, 'steps').map((each, index) => this.#entry(each, `steps[${index}]`))
  }

  #entry(entry: Json, path: string): FlowNode {
    if (isFields(entry) && 'parallel' in entry) return this.#group(entry, path)
    const { node, after } = this.#step(entry, path)
    if (after.length > 0)
      throw invalid(
        `${path}.after`,
        'stands outside of a group',
        'put the step into a group, or leave `after` out',
      )
    return node
  }

  #group(entry: Fields, path: string): FlowNode {
    const { parallel } = fieldsOf(entry, path, ['parallel'])
    const after = new Map<string, readonly string[]>()
    const heads = new Set<string>()
    const branches = this.#list(parallel, `${path}.parallel`).map((each, index) => {
      const at = `${path}.parallel[${index}]`
      const inside = Array.isArray(each) ? (each as readonly Json[]) : [each]
      if (inside.length === 0) throw invalid(at, 'is empty', 'give it a step, or leave it out')
      return inside.map((one, position) => {
        const parsed = this.#step(one, Array.isArray(each) ? `${at}[${position}]` : at)
        if (Array.isArray(each) && parsed.after.length > 0)
          throw invalid(
            `${at}[${position}].after`,
            'stands in a sequence',
            'take the step out of the inner array',
          )
        after.set(parsed.node.name, parsed.after)
        if (inside.length === 1) heads.add(parsed.node.name)
        return parsed.node
      })
    })
    checkOrder(after, heads, path)
    const waits = new Map([...after].filter(([, names]) => names.length > 0))
    return { kind: 'parallel', name: `group-${++this.#groups}`, branches, waits }
  }

  #step(given: Json, path: string): { readonly node: StepNode; readonly after: readonly string[] } {
    if (++this.#steps > SLIP_STEPS_MAX)
      throw new EscrowError(
        'tooLarge',
        `a routing slip has at most ${SLIP_STEPS_MAX} steps (SLIP_STEPS_MAX)`,
        {
          details: { bound: 'SLIP_STEPS_MAX' },
        },
      )
    const fields = fieldsOf(given, path, STEP_FIELDS)
    const { name, action, to, input, after = [] } = fields
    if (typeof name !== 'string') throw invalid(`${path}.name`, 'is no text', 'give every step a name')
    if ((action === undefined) === (to === undefined))
      throw invalid(
        path,
        'has both or none of `action` and `to`',
        'give a step its action, a message its destination',
      )
    if (action !== undefined && typeof action !== 'string')
      throw invalid(`${path}.action`, 'is no text', 'write "service/step"')
    if (to !== undefined && typeof to !== 'string')
      throw invalid(`${path}.to`, 'is no text', 'write "broker:topic" or "service/handler"')
    if (!Array.isArray(after) || !after.every((each) => typeof each === 'string'))
      throw invalid(`${path}.after`, 'is no list of names', 'name steps of the same group')
    return {
      after: after as readonly string[],
      node: {
        kind: 'step',
        name,
        action: action as StepName | undefined,
        destination: to ?? '',
        isPivot: fields.pivot === true,
        settings: settingsOf(fields, path),
        input: input === undefined ? undefined : () => input,
        inputSchema: undefined,
        result: undefined,
        attributes: undefined,
      },
    }
  }

  #list(value: Json | undefined, path: string): readonly Json[] {
    if (Array.isArray(value) && value.length > 0) return value as readonly Json[]
    throw invalid(path, 'is no list with something in it', 'give at least one step')
  }
}

function settingsOf(fields: Fields, path: string): StepSettings {
  const { compensation, retry, nonRetryable } = fields
  for (const flag of FLAGS)
    if (fields[flag] !== undefined && typeof fields[flag] !== 'boolean')
      throw invalid(`${path}.${flag}`, 'is neither true nor false', 'write true, or leave it out')
  for (const number of NUMBERS)
    if (fields[number] !== undefined && typeof fields[number] !== 'number')
      throw invalid(`${path}.${number}`, 'is no number', 'write a whole number')
  if (compensation !== undefined && typeof compensation !== 'string' && typeof compensation !== 'boolean')
    throw invalid(`${path}.compensation`, 'is neither text nor true', 'write "service/step" or true')
  if (retry !== undefined)
    for (const [field, value] of Object.entries(fieldsOf(retry, `${path}.retry`, RETRY_FIELDS)))
      if (typeof value !== 'number')
        throw invalid(`${path}.retry.${field}`, 'is no number', 'write a whole number')
  if (nonRetryable !== undefined && !Array.isArray(nonRetryable))
    throw invalid(`${path}.nonRetryable`, 'is no list', 'list error codes')
  const settings: Record<string, unknown> = {
    compensation: compensation === false ? undefined : compensation,
    retry,
    nonRetryable,
  }
  for (const flag of ['irreversible', 'readOnly'] as const) if (fields[flag] === true) settings[flag] = true
  for (const number of NUMBERS) settings[number] = fields[number]
  return settings as StepSettings
}

/** Each name stands in the group, and no step waits for itself, by whatever detour. */
function checkOrder(
  after: ReadonlyMap<string, readonly string[]>,
  heads: ReadonlySet<string>,
  path: string,
): void {
  for (const [step, names] of after) {
    for (const name of names)
      if (!heads.has(name))
        throw invalid(
          path,
          `${JSON.stringify(step)} comes after ${JSON.stringify(name)}, which is no single step of this group`,
          'name a step of the same group that stands in no inner array',
        )
  }
  const done = new Set<string>()
  const visit = (step: string, way: readonly string[]): void => {
    if (way.includes(step))
      throw invalid(
        path,
        `${[...way.slice(way.indexOf(step)), step].join(' after ')} is a circle`,
        'take one `after` away',
      )
    if (done.has(step)) return
    for (const name of after.get(step) ?? []) visit(name, [...way, step])
    done.add(step)
  }
  for (const step of after.keys()) visit(step, [])
}

const isFields = (value: Json | undefined): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

function fieldsOf(value: Json | undefined, path: string, allowed: readonly string[]): Fields {
  const what = path === '' ? 'the routing slip' : path
  if (!isFields(value)) throw invalid(what, 'is no object', 'see the routing slip in the README')
  const unknown = Object.keys(value).find((field) => !allowed.includes(field))
  if (unknown !== undefined)
    throw invalid(
      path === '' ? unknown : `${path}.${unknown}`,
      'is unknown',
      `allowed are ${allowed.join(', ')}`,
    )
  return value
}

const invalid = (path: string, why: string, remedy: string): EscrowError =>
  new EscrowError('invalidArgument', `routing slip: ${path} ${why}: ${remedy}`, { details: { path, remedy } })
