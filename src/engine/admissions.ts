import type { Entry } from './entry.ts'
import type { Gate } from './gates.ts'
import type { StepCode } from './step-calls.ts'

/** Calls of one log that are inside of gates: from the decision that lets them leave until their outcome. */
export class Admissions {
  /** Of the decision under way, in the order of its effects; with empty lists for those without gates. */
  readonly #entered: (readonly Gate[])[] = []
  /** By saga; nothing for calls without gates. */
  readonly #inside = new Map<Entry, readonly { readonly code: StepCode; readonly gates: readonly Gate[] }[]>()
  /** Whether any call ever had a gate: without limits nothing is kept. */
  #isUsed = false

  /** A decision lets a call leave: what follows in that decision sees less room. */
  enter(gates: readonly Gate[]): void {
    if (gates.length > 0) this.#isUsed = true
    if (this.#isUsed) this.#entered.push(gates)
    for (const gate of gates) gate.enter()
  }

  /** The decision stands; called for each of its effects, in their order. */
  decided(entry: Entry, code: StepCode): void {
    const gates = this.#isUsed ? this.#entered.shift() : undefined
    if (gates === undefined || gates.length === 0) return
    this.#inside.set(entry, [...(this.#inside.get(entry) ?? []), { code, gates }])
  }

  /** The decision came to nothing after all. */
  undecided(): void {
    for (const gates of this.#entered.splice(0)) for (const gate of gates) gate.leave()
  }

  /** A call has its outcome, or isn't made; returns the gates that have room for others now. */
  exit(entry: Entry, code: StepCode): readonly Gate[] {
    if (!this.#isUsed) return NONE
    const calls = this.#inside.get(entry)
    const left = calls?.find((each) => each.code === code)
    if (calls === undefined || left === undefined) return NONE
    const others = calls.filter((each) => each !== left)
    if (others.length === 0) this.#inside.delete(entry)
    else this.#inside.set(entry, others)
    for (const gate of left.gates) gate.leave()
    return left.gates
  }

  /** The log is no longer this one's to run: what it has under way counts for no gate any more. */
  stop(): void {
    this.undecided()
    for (const calls of this.#inside.values())
      for (const { gates } of calls) for (const gate of gates) gate.leave()
    this.#inside.clear()
  }
}

const NONE: readonly Gate[] = []
