/**
 * Limits on calls of steps: of one step of a definition, in one log; and of a participant, over all definitions, routing
 * slips and logs of this coordinator.
 *
 * A gate that is full makes calls wait in lines, and serves the lines in turns, one call each, those of compensations
 * first. While a line waits, no other call passes by it: so nobody waits for ever, however many come anew. A call that waits
 * is no attempt yet, and its attempt's time-out has not begun. What waits for something else than the gate, as nobody
 * serves its step, leaves the lines and holds nobody up.
 */
import type { Namespace } from '../core/ids.ts'
import type { StepAddress } from '../core/saga/decision.ts'
import { calledAt, isPublication } from './step-calls.ts'

/** What a gate lets pass; 0: no limit. */
export interface GateLimits {
  /** Calls under way at once. */
  readonly concurrencyMax: number
  /** Calls that begin, on average; a second's worth may begin at once. */
  readonly ratePerSecond: number
}

/** The limits of one participant. */
export interface ParticipantLimits extends GateLimits {
  readonly namespace: Namespace
  readonly service: string
}

/** Calls that wait one behind another. */
export interface Waiting {
  readonly isCompensation: boolean
  /** The gate in whose lines it stands. */
  gate: Gate | undefined
  /** Lets its first call go. False where there is none, or something else than this gate keeps it. */
  offer(): boolean
}

/** Calls that wait one behind another: if the first can't go, none can. */
export class WaitingLine<Call> extends Set<Call> implements Waiting {
  readonly isCompensation: boolean
  gate: Gate | undefined = undefined
  readonly #offer: (line: WaitingLine<Call>) => boolean

  constructor(isCompensation: boolean, offer: (line: WaitingLine<Call>) => boolean) {
    super()
    this.isCompensation = isCompensation
    this.#offer = offer
  }

  offer(): boolean {
    return this.#offer(this)
  }
}

/** Lines in their order, but those of compensations first. */
export const byRank = <Line extends Waiting>(lines: readonly Line[]): readonly Line[] => [
  ...lines.filter(({ isCompensation }) => isCompensation),
  ...lines.filter(({ isCompensation }) => !isCompensation),
]

/** Calls that a gate lets go at once, so that a crowd doesn't hold up the log; the next look goes on. */
const SERVED_AT_ONCE_MAX = 256

/** One limit, who is inside, and who waits. */
export class Gate {
  readonly #limits: GateLimits
  #running = 0
  /** Calls that may begin now, and when that was so. */
  #tokens: number
  #atMs: number
  readonly #compensations = new Set<Waiting>()
  readonly #actions = new Set<Waiting>()
  #isServing = false

  constructor(limits: GateLimits, nowMs: number) {
    this.#limits = limits
    this.#tokens = Math.max(1, limits.ratePerSecond)
    this.#atMs = nowMs
  }

  /** Whether there is room for one more. */
  isOpen(nowMs: number): boolean {
    const { concurrencyMax, ratePerSecond } = this.#limits
    if (concurrencyMax > 0 && this.#running >= concurrencyMax) return false
    return ratePerSecond === 0 || this.#refilled(nowMs) >= 1
  }

  #refilled(nowMs: number): number {
    const { ratePerSecond } = this.#limits
    const more = (Math.max(0, nowMs - this.#atMs) / 1_000) * ratePerSecond
    this.#tokens = Math.min(Math.max(1, ratePerSecond), this.#tokens + more)
    this.#atMs = nowMs
    return this.#tokens
  }

  /** Whether one that comes now may pass: there is room, and nobody waits before it. */
  admits(isCompensation: boolean, nowMs: number): boolean {
    const isFirst = this.#compensations.size === 0 && (isCompensation || this.#actions.size === 0)
    return isFirst && this.isOpen(nowMs)
  }

  enter(): void {
    this.#running += 1
    this.#tokens -= 1
  }

  leave(): void {
    this.#running -= 1
  }

  /** Puts it behind those that wait. */
  wait(line: Waiting): void {
    line.gate?.forget(line)
    line.gate = this
    this.#rank(line).add(line)
  }

  forget(line: Waiting): void {
    if (line.gate !== this) return
    line.gate = undefined
    this.#rank(line).delete(line)
  }

  #rank({ isCompensation }: Waiting): Set<Waiting> {
    return isCompensation ? this.#compensations : this.#actions
  }

  /** Gives room to those who wait for it, line by line. */
  serve(nowMs: number): void {
    if (this.#isServing) return
    this.#isServing = true
    try {
      for (let left = SERVED_AT_ONCE_MAX; left > 0 && this.isOpen(nowMs); left--) {
        const [line] = this.#compensations.size > 0 ? this.#compensations : this.#actions
        if (line === undefined) return
        this.forget(line)
        if (line.offer() && line.gate === undefined) this.wait(line)
      }
    } finally {
      this.#isServing = false
    }
  }

  /** Whether it can be forgotten: a new one would let pass the same. */
  isIdle(nowMs: number): boolean {
    if (this.#running > 0 || this.#compensations.size > 0 || this.#actions.size > 0) return false
    const { ratePerSecond } = this.#limits
    return ratePerSecond === 0 || this.#refilled(nowMs) >= Math.max(1, ratePerSecond)
  }
}

/** The gates of participants, shared by all logs. */
export class ParticipantGates {
  /** Monotonic, in milliseconds. */
  readonly nowMs: () => number
  readonly #gates = new Map<string, Gate>()

  constructor(limits: readonly ParticipantLimits[], nowMs: () => number) {
    this.nowMs = nowMs
    for (const limit of limits)
      this.#gates.set(`${limit.namespace}/${limit.service}`, new Gate(limit, nowMs()))
  }

  get isEmpty(): boolean {
    return this.#gates.size === 0
  }

  of(namespace: Namespace, service: string): Gate | undefined {
    return this.#gates.get(`${namespace}/${service}`)
  }

  values(): Iterable<Gate> {
    return this.#gates.values()
  }
}

const NONE: readonly Gate[] = []

/** All gates that calls of one log pass. */
export class Gates {
  readonly #participants: ParticipantGates
  /** Of steps with limits of their own; those that are idle are forgotten. */
  readonly #steps = new Map<string, Gate>()

  constructor(participants: ParticipantGates) {
    this.#participants = participants
  }

  get nowMs(): number {
    return this.#participants.nowMs()
  }

  /** The gates of a call; none, mostly. Hot. */
  of(address: StepAddress): readonly Gate[] {
    const { head, policy, operation } = address
    const isLimited = policy.concurrencyMax > 0 || policy.ratePerSecond > 0
    if (!isLimited && this.#participants.isEmpty) return NONE
    const gates = isLimited ? [this.#step(address)] : []
    if (isPublication(policy, operation)) return gates
    const gate = this.#participants.of(head.namespace, calledAt(policy, operation).service)
    if (gate !== undefined) gates.push(gate)
    return gates
  }

  #step({ head, policy }: StepAddress): Gate {
    const name = `${head.namespace} ${head.saga} ${head.version} ${policy.step}`
    const known = this.#steps.get(name)
    if (known !== undefined) return known
    const gate = new Gate(policy, this.nowMs)
    this.#steps.set(name, gate)
    return gate
  }

  /** Serves those who wait at gates that were left. */
  serve(gates: readonly Gate[]): void {
    for (const gate of gates) gate.serve(this.nowMs)
  }

  /** Serves what became free by time alone. */
  sweep(): void {
    if (this.#steps.size === 0 && this.#participants.isEmpty) return
    const { nowMs } = this
    for (const gate of this.#participants.values()) gate.serve(nowMs)
    for (const [name, gate] of this.#steps) {
      gate.serve(nowMs)
      if (gate.isIdle(nowMs)) this.#steps.delete(name)
    }
  }
}
