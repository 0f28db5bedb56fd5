/** Who serves one name, in turns. */
import type { CheckBackRequest, DeliverRequest, StepRequest } from '../core/api.ts'
import type { CheckBackOutcome, DeliveryOutcome } from '../engine/outlet.ts'
import type { StepOutcome } from '../engine/step-outlet.ts'

/** One who can be called: a session, a participant that listens, or another node for its own sessions. */
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

/** Members of whom one is as good as another, and whose turn it is. */
interface Circle {
  readonly members: Member[]
  next: number
}

/** The receivers of one destination, of one checker, or of one step. */
export class Receivers {
  readonly #here: Circle = { members: [], next: 0 }
  readonly #elsewhere: Circle = { members: [], next: 0 }
  readonly #circles: readonly Circle[] = [this.#here, this.#elsewhere]
  readonly #circlesHere: readonly Circle[] = [this.#here]
  readonly #takes: Takes
  /** Tells that there may be room. */
  readonly tellRoom: () => void
  /** Somebody was turned away since room was told last. */
  wanted = false

  constructor(takes: Takes, tellRoom: () => void) {
    this.#takes = takes
    this.tellRoom = tellRoom
  }

  /** Adds a receiver that this node calls itself, or changes the database of one that is there already. */
  add(receiver: Receiver, databaseId: string): void {
    this.remove(receiver)
    this.#here.members.push({ receiver, databaseId })
  }

  /** Adds another node. */
  addElsewhere(receiver: Receiver, databaseId: string): void {
    this.#elsewhere.members.push({ receiver, databaseId })
  }

  remove(receiver: Receiver): void {
    for (const { members } of this.#circles) {
      const at = members.findIndex((member) => member.receiver === receiver)
      if (at >= 0) members.splice(at, 1)
    }
  }

  /**
   * The next one in turn that has room; another node only where nobody here has any, and never if it must be here. With
   * a database only those that told the same one. With the empty one only checkers without: a barrier knows nothing of a
   * local transaction that has no row, and would roll it back. Receivers of deliveries and steps without one are merely
   * preferred, be they on another node: what is repeated without a barrier had better not go to two databases. Hot.
   */
  choose(databaseId: string | undefined, isHereOnly: boolean): Choice {
    let fallback: Circle | undefined
    let fallbackAt = 0
    let sawMember = false
    let sawMatch = false
    for (const circle of isHereOnly ? this.#circlesHere : this.#circles) {
      const { members, next } = circle
      const count = members.length
      if (count > 0) sawMember = true
      for (let i = 0; i < count; i++) {
        const at = (next + i) % count
        const member = members[at] as Member
        const isSame = databaseId === undefined || member.databaseId === databaseId
        if (!isSame && (databaseId !== '' || this.#takes === 'takesCheckBack')) continue
        sawMatch = true
        if (!member.receiver[this.#takes]) continue
        if (isSame) return take(circle, at)
        if (fallback !== undefined) continue
        fallback = circle
        fallbackAt = at
      }
    }
    if (fallback !== undefined) return take(fallback, fallbackAt)
    if (!sawMember) return NONE
    this.wanted = true
    return sawMatch ? FULL : OTHER_DATABASE
  }
}

function take(circle: Circle, at: number): Choice {
  circle.next = at + 1
  return { member: circle.members[at] as Member }
}
