/** Who serves one name, in turns. */
import type { CheckBackRequest, DeliverRequest, StepRequest } from '../core/api.ts'
import type { CheckBackOutcome, DeliveryOutcome } from '../engine/outlet.ts'
import type { StepOutcome } from '../engine/step-outlet.ts'

/** One who can be called: a session, or a participant that listens. */
export interface Receiver {
  /** Whether it takes one more delivery now. */
  readonly takesDelivery: boolean
  /** Whether it takes one more check-back now. */
  readonly takesCheckBack: boolean
  /** Whether it takes one more call of a step now. */
  readonly takesStep: boolean
  /** Sends; `done` is called exactly once, later. `receivers` gets room once it is done. */
  deliver(request: DeliverRequest, receivers: Receivers, done: (outcome: DeliveryOutcome) => void): void
  checkBack(request: CheckBackRequest, receivers: Receivers, done: (outcome: CheckBackOutcome) => void): void
  step(request: StepRequest, receivers: Receivers, done: (outcome: StepOutcome) => void): void
}

/** What receivers are chosen for. */
export type Takes = 'takesDelivery' | 'takesCheckBack' | 'takesStep'

/** A receiver under one name, with the database behind that name. */
export interface Member {
  readonly receiver: Receiver
  readonly databaseId: string
}

/** A choice, or why there is none. */
export type Choice =
  | { readonly member: Member }
  | { readonly member: undefined; readonly why: 'none' | 'database' | 'full' }

const NONE: Choice = { member: undefined, why: 'none' }
const OTHER_DATABASE: Choice = { member: undefined, why: 'database' }
const FULL: Choice = { member: undefined, why: 'full' }

/** The receivers of one destination, of one checker, or of one step. */
export class Receivers {
  readonly #members: Member[] = []
  readonly #takes: Takes
  /** Tells that there may be room. */
  readonly tellRoom: () => void
  #next = 0
  /** Somebody was turned away since room was told last. */
  wanted = false

  constructor(takes: Takes, tellRoom: () => void) {
    this.#takes = takes
    this.tellRoom = tellRoom
  }

  get size(): number {
    return this.#members.length
  }

  /** Adds a receiver, or changes the database of one that is there already. */
  add(receiver: Receiver, databaseId: string): void {
    this.remove(receiver)
    this.#members.push({ receiver, databaseId })
  }

  remove(receiver: Receiver): void {
    const at = this.#members.findIndex((member) => member.receiver === receiver)
    if (at >= 0) this.#members.splice(at, 1)
  }

  /**
   * The next one in turn that has room. With a database only those that told the same one. With the empty one only
   * checkers without: a barrier knows nothing of a local transaction that has no row, and would roll it back. Receivers of
   * deliveries and steps without one are merely preferred: what is repeated without a barrier had better not go to two
   * databases. Hot.
   */
  choose(databaseId: string | undefined): Choice {
    const count = this.#members.length
    if (count === 0) return NONE
    let fallback = -1
    let sawMatch = false
    for (let i = 0; i < count; i++) {
      const at = (this.#next + i) % count
      const member = this.#members[at] as Member
      const isSame = databaseId === undefined || member.databaseId === databaseId
      if (!isSame && (databaseId !== '' || this.#takes === 'takesCheckBack')) continue
      sawMatch = true
      if (!member.receiver[this.#takes]) continue
      if (isSame) return this.#take(at)
      if (fallback < 0) fallback = at
    }
    if (fallback >= 0) return this.#take(fallback)
    this.wanted = true
    return sawMatch ? FULL : OTHER_DATABASE
  }

  #take(at: number): Choice {
    this.#next = at + 1
    return { member: this.#members[at] as Member }
  }
}
