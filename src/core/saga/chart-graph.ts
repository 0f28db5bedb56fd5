/** A machine as a graph: which states can come after which. Guards are taken to hold or not, whichever reaches more. */
import { invocationId, invokesOf } from './driven-config.ts'
import type { AnyStateMachine, AnyStateNode } from './statechart.ts'

/** One way from a state to others. */
export interface Edge {
  readonly source: AnyStateNode
  /** Empty for `always`. */
  readonly event: string
  readonly targets: readonly AnyStateNode[]
  readonly isGuarded: boolean
  readonly guard: unknown
  readonly isReentering: boolean
  readonly actions: readonly unknown[]
}

/** An invoke where it stands. */
export interface Call {
  readonly id: string
  readonly step: string
  readonly node: AnyStateNode
}

/** The name of a state for a reader: the keys from the root, with dots. */
export const pathOf = (node: AnyStateNode): string => (node.path.length === 0 ? node.id : node.path.join('.'))

/** All states of a machine, the root first, in document order. */
export function statesOf(node: AnyStateNode): readonly AnyStateNode[] {
  return [node, ...Object.values(node.states as Record<string, AnyStateNode>).flatMap(statesOf)]
}

/** All invokes of a machine in document order. */
export function callsOf(machine: AnyStateMachine): readonly Call[] {
  return statesOf(machine.root).flatMap((node) =>
    invokesOf(node.config).map((invoke, index) => ({
      id: invocationId(node.path, invoke, index, machine.id),
      step: String(invoke.src),
      node,
    })),
  )
}

/** The states around one, innermost first. */
export function ancestorsOf(node: AnyStateNode): readonly AnyStateNode[] {
  return node.parent === undefined ? [] : [node.parent, ...ancestorsOf(node.parent)]
}

interface Transition {
  readonly target?: readonly AnyStateNode[]
  readonly guard?: unknown
  readonly reenter?: boolean
  readonly actions: readonly unknown[]
}

/** The ways out of a state itself. What stands behind a candidate without a guard is never taken, and left out. */
export function edgesOf(source: AnyStateNode): readonly Edge[] {
  const always: readonly (readonly [string, readonly Transition[]])[] = [['', (source.always ?? []) as never]]
  const events = [...(source.transitions as ReadonlyMap<string, readonly Transition[]>)]
  return [...always, ...events].flatMap(([event, candidates]) => {
    const last = candidates.findIndex((candidate) => candidate.guard === undefined)
    const live = last < 0 ? candidates : candidates.slice(0, last + 1)
    return live.map(({ target, guard, reenter, actions }) => ({
      source,
      event: ownEvent(source, event),
      targets: target ?? [],
      isGuarded: guard !== undefined,
      guard,
      isReentering: reenter === true,
      actions,
    }))
  })
}

/** Where an invoke has no id, xstate's default becomes ours. */
function ownEvent(node: AnyStateNode, event: string): string {
  for (const [index, invoke] of invokesOf(node.config).entries()) {
    if (invoke.id !== undefined) continue
    for (const kind of ['done', 'error'])
      if (event === `xstate.${kind}.actor.${index}.${node.id}`)
        return `xstate.${kind}.actor.${invocationId(node.path, invoke, index, node.machine.id)}`
  }
  return event
}

/** States that can be active once `entered` are, over the edges that `isTaken` allows. */
export function reach(
  entered: readonly AnyStateNode[],
  isTaken: (edge: Edge) => boolean = () => true,
): ReadonlySet<AnyStateNode> {
  const search = new Search()
  for (const node of entered) search.enter(node)
  const waiting = new Map<AnyStateNode, readonly Edge[]>()
  for (let size = -1; size !== search.active.size; ) {
    size = search.active.size
    // A set is walked with what is added meanwhile: a long sequence takes one pass.
    for (const node of search.active) {
      const edges = waiting.get(node) ?? edgesOf(node).filter(isTaken)
      const [open, closed] = [edges.filter(search.isOpen), edges.filter((edge) => !search.isOpen(edge))]
      waiting.set(node, closed)
      for (const { targets } of open) for (const target of targets) search.enter(target)
    }
  }
  return search.active
}

class Search {
  readonly active = new Set<AnyStateNode>()
  readonly #descended = new Set<AnyStateNode>()

  enter(node: AnyStateNode): void {
    for (const ancestor of ancestorsOf(node)) this.#surround(ancestor, node)
    this.#descend(node)
  }

  /** Whether an edge can be taken: what waits for the end of a state needs that end. */
  readonly isOpen = ({ event, source }: Edge): boolean =>
    event !== `xstate.done.state.${source.id}` || this.#canEnd(source)

  #surround(ancestor: AnyStateNode, inside: AnyStateNode): void {
    if (this.active.has(ancestor)) return
    this.active.add(ancestor)
    if (ancestor.type !== 'parallel') return
    for (const region of childrenOf(ancestor))
      if (region !== inside && !ancestorsOf(inside).includes(region)) this.#descend(region)
  }

  #descend(node: AnyStateNode): void {
    if (this.#descended.has(node)) return
    this.#descended.add(node)
    this.active.add(node)
    switch (node.type) {
      case 'compound':
        for (const each of node.initial.target as readonly AnyStateNode[]) this.enter(each)
        return
      case 'parallel':
        for (const each of childrenOf(node)) this.#descend(each)
        return
      case 'history':
        return this.enter(historyDefault(node))
      default:
        return
    }
  }

  #canEnd(node: AnyStateNode): boolean {
    if (node.type === 'compound')
      return childrenOf(node).some((child) => child.type === 'final' && this.active.has(child))
    if (node.type === 'parallel') return childrenOf(node).every((region) => this.#canEnd(region))
    return node.type === 'final'
  }
}

const childrenOf = (node: AnyStateNode): readonly AnyStateNode[] =>
  Object.values(node.states as Record<string, AnyStateNode>).filter((child) => child.type !== 'history')

function historyDefault(node: AnyStateNode): AnyStateNode {
  const parent = node.parent as AnyStateNode
  const { target } = node.config as { target?: string }
  if (target === undefined) return parent
  return target.startsWith('#')
    ? node.machine.getStateNodeById(target)
    : ((parent.states as Record<string, AnyStateNode>)[target.replace(/^\./, '')] ?? parent)
}
