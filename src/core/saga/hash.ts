/** The hash of a definition: of its structure and policies, not of function bodies, which differ from build to build. */
import { createHash } from 'node:crypto'
import { edgesOf, statesOf } from './chart-graph.ts'
import { invocationId, invokesOf } from './driven-config.ts'
import type { StepPolicy } from './program.ts'
import type { AnyStateMachine, AnyStateNode } from './statechart.ts'

/** What of a definition is hashed. */
export interface HashedSaga {
  readonly name: string
  readonly version: number
  readonly machine: AnyStateMachine
  readonly steps: ReadonlyMap<string, StepPolicy>
  readonly signals: Iterable<string>
  readonly timeoutMs: number
}

/** SHA-256 in hex over the canonical JSON of what can be serialised. */
export function hashSaga({ name, version, machine, steps, signals, timeoutMs }: HashedSaga): string {
  const structure = {
    name,
    version,
    timeoutMs,
    signals: [...signals].sort(),
    steps: Object.fromEntries(steps),
    states: statesOf(machine.root).map((node) => stateStructure(node, machine.id)),
  }
  return createHash('sha256').update(canonicalJson(structure)).digest('hex')
}

/** JSON with the keys of every object in order, and without what JSON can't carry: functions become their place only. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, each: unknown) => {
    if (typeof each === 'function') return { inline: true }
    if (typeof each !== 'object' || each === null || Array.isArray(each)) return each
    return Object.fromEntries(Object.entries(each).sort(([one], [other]) => (one < other ? -1 : 1)))
  })
}

function stateStructure(node: AnyStateNode, machine: string): object {
  return {
    id: node.id,
    type: node.type,
    history: node.history,
    target: (node.config as { target?: unknown }).target,
    initial: node.type === 'compound' ? node.initial.target?.map(({ id }) => id) : undefined,
    tags: node.tags,
    meta: node.meta,
    entry: node.entry.map(actionStructure),
    exit: node.exit.map(actionStructure),
    invokes: invokesOf(node.config).map((invoke, index) => ({
      id: invocationId(node.path, invoke, index, machine),
      src: invoke.src,
    })),
    edges: edgesOf(node).map(({ event, targets, guard, isReentering, actions }) => ({
      event,
      targets: targets.map(({ id }) => id),
      guard: guardStructure(guard),
      isReentering,
      actions: actions.map(actionStructure),
    })),
  }
}

/** A built-in action by its kind and what of it is data; a named one by its name and params. */
function actionStructure(action: unknown): unknown {
  if (typeof action !== 'function') return action
  const { type, id, delay, event, sendId } = action as unknown as Record<string, unknown>
  return { type, id, delay, event, sendId }
}

function guardStructure(guard: unknown): unknown {
  if (typeof guard !== 'function') return guard
  const { guards, stateValue } = guard as unknown as { guards?: readonly unknown[]; stateValue?: unknown }
  return { inline: true, guards: guards?.map(guardStructure), stateValue }
}
