/**
 * In which order executions are undone. X goes before Y if X began after Y had ended, unless they stand in different
 * regions of the same entry into the same parallel state: so a sequence unwinds from its end, and branches unwind each
 * for itself.
 */
import { type Execution, mayHaveHappened } from './image.ts'
import type { Branch } from './program.ts'

/** An execution that is still to be undone, and below it those that ended earlier. */
export interface PendingUndo {
  readonly n: number
  readonly began: number
  readonly ended: number
  readonly branch: Branch
  readonly rest: PendingUndo | undefined
}

/** All that is to be undone and isn't yet, what ended last on top. */
export function pendingUndo(executions: Iterable<Execution>): PendingUndo | undefined {
  const due: Execution[] = []
  for (const execution of executions) if (isToBeUndone(execution)) due.push(execution)
  due.sort((one, other) => one.ended - other.ended)
  let top: PendingUndo | undefined
  for (const { n, began, ended, branch } of due) top = { n, began, ended, branch, rest: top }
  return top
}

/** Whether its compensation is still to begin, should the saga unwind. */
export function isToBeUndone(execution: Execution): boolean {
  return execution.hasCompensation && execution.compensation === undefined && mayHaveHappened(execution)
}

/** Whether two executions stand in different regions of the same entry into the same parallel state. */
export function areSeparate(one: Branch, other: Branch): boolean {
  for (let depth = 0; depth < one.length && depth < other.length; depth++) {
    const a = one[depth] as Branch[number]
    const b = other[depth] as Branch[number]
    if (a.parallel !== b.parallel || a.entry !== b.entry) return false
    if (a.region !== b.region) return true
  }
  return false
}

/** What is to be undone, or is being undone, before others. For each branch only the latest beginning matters. */
export class Blockers {
  readonly #byBranch = new Map<string, { branch: Branch; began: number }>()
  /** The latest beginning outside of every parallel state: nothing is separate from it. */
  #began = 0

  add({ branch, began }: { readonly branch: Branch; readonly began: number }): void {
    if (branch.length === 0) {
      this.#began = Math.max(this.#began, began)
      return
    }
    const key = JSON.stringify(branch)
    const known = this.#byBranch.get(key)
    if (known === undefined) this.#byBranch.set(key, { branch, began })
    else known.began = Math.max(known.began, began)
  }

  /** Whether nothing that ended then, or earlier, can be undone yet. */
  blockAllUntil(ended: number): boolean {
    return this.#began > ended
  }

  /** Whether something is to be undone before this one. */
  block({ branch, ended }: { readonly branch: Branch; readonly ended: number }): boolean {
    if (this.#began > ended) return true
    for (const each of this.#byBranch.values()) {
      if (each.began > ended && !areSeparate(each.branch, branch)) return true
    }
    return false
  }
}
