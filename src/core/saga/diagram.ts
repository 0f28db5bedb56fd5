/** A definition for the eye: Mermaid text, and the JSON that xstate's own tools read. */
import { callsOf, type Edge, edgesOf } from './chart-graph.ts'
import type { Json, StepPolicy } from './program.ts'
import type { AnyStateMachine, AnyStateNode } from './statechart.ts'

/**
 * A Mermaid `stateDiagram-v2`: states with what they call and what undoes it, and transitions with what makes them.
 * What leads on from everywhere stands as a note.
 */
export function mermaidOf(machine: AnyStateMachine, steps: ReadonlyMap<string, StepPolicy>): string {
  const called = new Map<AnyStateNode, StepPolicy[]>()
  for (const { node, step } of callsOf(machine)) {
    const policy = steps.get(step)
    if (policy !== undefined) called.set(node, [...(called.get(node) ?? []), policy])
  }
  const lines = inside(machine.root, { called }, 1)
  return `${['stateDiagram-v2', ...lines, ...everywhere(machine.root)].join('\n')}\n`
}

/** The machine's definition as JSON: what is code stands by its name. */
export function xstateJsonOf(machine: AnyStateMachine): Json {
  return JSON.parse(JSON.stringify(machine.toJSON())) as Json
}

interface Drawing {
  readonly called: ReadonlyMap<AnyStateNode, readonly StepPolicy[]>
}

function inside(node: AnyStateNode, drawing: Drawing, depth: number): readonly string[] {
  const indent = '  '.repeat(depth)
  const children = Object.values(node.states as Record<string, AnyStateNode>)
  if (node.type === 'parallel')
    return children.flatMap((region, index) => [
      ...(index === 0 ? [] : [`${indent}--`]),
      ...(region.type === 'compound' ? inside(region, drawing, depth) : state(region, drawing, depth)),
    ])
  const initial = node.type === 'compound' ? ((node.initial.target ?? []) as readonly AnyStateNode[]) : []
  return [
    ...initial.map((first) => `${indent}[*] --> ${idOf(first)}`),
    ...children.flatMap((child) => state(child, drawing, depth)),
  ]
}

function state(node: AnyStateNode, drawing: Drawing, depth: number): readonly string[] {
  const indent = '  '.repeat(depth)
  const id = idOf(node)
  const body = inside(node, drawing, depth + 1)
  const named = `${indent}state "${labelOf(node, drawing)}" as ${id}`
  return [
    ...(body.length === 0 ? [named] : [`${named} {`, ...body, `${indent}}`]),
    ...edgesOf(node).flatMap((edge) => arrows(edge).map((arrow) => `${indent}${arrow}`)),
    ...(node.type === 'final' ? [`${indent}${id} --> [*]`] : []),
  ]
}

function labelOf(node: AnyStateNode, { called }: Drawing): string {
  const calls = (called.get(node) ?? []).map((policy) => {
    const whom = policy.destination === '' ? `${policy.service}/${policy.action}` : `to ${policy.destination}`
    const { compensation } = policy
    // Read-only or irreversible: a policy doesn't tell these apart.
    const other = policy.class === 'irreversible' ? 'not undone' : policy.class
    const undo = compensation === undefined ? other : `undone by ${compensation.service}/${compensation.step}`
    return `${whom}, ${undo}`
  })
  const history = node.type === 'history' ? [`${node.history} history`] : []
  const about = [...calls, ...history].join('; ')
  return plain(about === '' ? node.key : `${node.key} (${about})`)
}

function arrows(edge: Edge): readonly string[] {
  const label = eventOf(edge)
  const said = label === '' ? '' : ` : ${plain(label)}`
  return edge.targets.map((target) => `${idOf(edge.source)} --> ${idOf(target)}${said}`)
}

function everywhere(root: AnyStateNode): readonly string[] {
  return edgesOf(root).flatMap((edge) =>
    edge.targets.map(
      (target) => `  note right of ${idOf(target)} : from everywhere, ${plain(eventOf(edge))}`,
    ),
  )
}

/** What makes a transition, in words. */
function eventOf({ event, guard, isGuarded }: Edge): string {
  const name = typeof guard === 'string' ? guard : ((guard as { type?: string } | undefined)?.type ?? 'guard')
  const condition = isGuarded ? `[${name}]` : ''
  return [eventText(event), condition].filter((text) => text !== '').join(' ')
}

function eventText(event: string): string {
  const after = /^xstate\.after\.([^.]+)\./.exec(event)
  if (after !== null) return Number.isNaN(Number(after[1])) ? `after ${after[1]}` : `after ${after[1]} ms`
  if (event === 'xstate.error.actor.*') return 'a step failed'
  if (event.startsWith('xstate.done.')) return 'done'
  return event.startsWith('xstate.error.') ? 'failed' : event
}

/** An id that Mermaid takes: the state's path, each other character as its code. */
function idOf(node: AnyStateNode): string {
  const path = (node.path as readonly string[]).join('.')
  return `s_${path.replace(/[^a-zA-Z0-9]/g, (one) => (one === '.' ? '__' : one === '-' ? '_' : `_${one.codePointAt(0)}_`))}`
}

/** Text without what ends a label in Mermaid. */
const plain = (text: string): string => text.replace(/[":;#\n]/g, ' ')
