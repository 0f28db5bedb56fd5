/** Check-backs on their way out of one log: asked when due, asked again as soon as a checker comes, one at a time a transaction. */
import type { CheckBackRequest } from '../core/api.ts'
import type { MessageCommand, UnusableCommit } from '../core/decision.ts'
import { checkBodies, type Limits } from '../core/envelope.ts'
import { EscrowError } from '../core/errors.ts'
import type { Namespace } from '../core/ids.ts'
import type { LogClock } from '../store/log.ts'
import type { Entry } from './entry.ts'
import type { CheckBackOutcome, Outlet } from './outlet.ts'

/** What check-backs need of their log. */
export interface CheckBacksOptions {
  readonly outlet: Outlet
  readonly submit: (entry: Entry, command: MessageCommand) => void
  /** Called when an entry that was pinned may have become idle. */
  readonly released: (entry: Entry) => void
  readonly limits: Limits
  /** How many transactions may wait in memory for a checker to come; further ones are postponed in the store. */
  readonly missedMax: number
  /** How long an answer is waited for. */
  readonly timeoutMs: number
}

/** How many waiting transactions one newly found checker is asked about at once. */
const ASKED_AT_ONCE_MAX = 256

/** Questions to one checker that are under way. */
interface Asking {
  count: number
  /** How often it was told meanwhile that a checker may have come. */
  rooms: number
}

/** The check-backs of one log. */
export class CheckBacks {
  readonly #options: CheckBacksOptions
  /** Transactions whose checker was not there, by namespace and checker. */
  readonly #missed = new Map<string, Set<Entry>>()
  #missedCount = 0
  /** By the same names; without it a checker that comes while a miss is on its way would be overlooked. */
  readonly #asking = new Map<string, Asking>()
  /** Checkers that have more to be asked about than is asked at once. */
  readonly #cutShort = new Set<string>()

  constructor(options: CheckBacksOptions) {
    this.#options = options
  }

  get missedCount(): number {
    return this.#missedCount
  }

  /** Looks at a prepared transaction; returns the log time of its next check-back, if it is not due yet. */
  update(entry: Entry, clock: LogClock): number | undefined {
    const { state } = entry.message
    if (state.phase !== 'prepared') {
      this.#forget(entry)
      return undefined
    }
    if (entry.checking || entry.missed) return undefined
    const atMs = Math.min(state.nextCheckAtMs, state.unresolvedAtMs)
    if (atMs > clock.logMs) return atMs
    this.#ask(entry)
    return undefined
  }

  #ask(entry: Entry): void {
    entry.checking = true
    this.#options.submit(entry, { type: 'checkBackDue' })
  }

  /** Asks, now that the decision to do so may leave. */
  send(entry: Entry, attempt: number): void {
    const { head, state } = entry.message
    this.#forget(entry)
    if (state.phase !== 'prepared') {
      this.#done(entry)
      return
    }
    const request: CheckBackRequest = {
      namespace: head.namespace,
      transactionId: head.id,
      executionId: head.executionId,
      attempt,
      checker: head.checker,
      preparedAtMs: head.preparedAtMs,
      trace: head.trace,
      timeoutMs: this.#options.timeoutMs,
    }
    const name = nameOf(entry)
    const asking = this.#asking.get(name) ?? { count: 0, rooms: 0 }
    this.#asking.set(name, asking)
    asking.count += 1
    const { rooms } = asking
    this.#options.outlet.checkBack(request, head.databaseId, (outcome) => {
      asking.count -= 1
      if (asking.count === 0) this.#asking.delete(name)
      this.#answered(entry, outcome, asking.rooms > rooms)
    })
  }

  #answered(entry: Entry, outcome: CheckBackOutcome, mayHaveCome: boolean): void {
    const isMissed = 'outcome' in outcome && entry.message.state.phase === 'prepared'
    if (isMissed && this.#missedCount < this.#options.missedMax) {
      this.#miss(entry)
      this.#done(entry)
      if (mayHaveCome) this.#ask(entry)
      return
    }
    this.#done(entry)
    this.#options.submit(entry, { type: 'answerCheckBack', outcome: this.#withinLimits(outcome) })
  }

  #withinLimits(outcome: CheckBackOutcome): CheckBackOutcome | UnusableCommit {
    if ('outcome' in outcome || outcome.resolution !== 'commit') return outcome
    try {
      checkBodies(outcome.bodies, this.#options.limits)
      return outcome
    } catch (error) {
      return { resolution: 'unusableCommit', error: EscrowError.from(error).message }
    }
  }

  #done(entry: Entry): void {
    entry.checking = false
    this.#options.released(entry)
  }

  #miss(entry: Entry): void {
    const name = nameOf(entry)
    const missed = this.#missed.get(name)
    if (missed === undefined) this.#missed.set(name, new Set([entry]))
    else missed.add(entry)
    entry.missed = true
    this.#missedCount += 1
    // Nobody is there any more: the others wait for the next one to come.
    this.#cutShort.delete(name)
  }

  #forget(entry: Entry): void {
    if (!entry.missed) return
    const name = nameOf(entry)
    const missed = this.#missed.get(name)
    missed?.delete(entry)
    if (missed?.size === 0) this.#missed.delete(name)
    entry.missed = false
    this.#missedCount -= 1
  }

  /** A checker may have come, or may have room again. */
  roomAt(namespace: Namespace, checker: string): void {
    const name = `${namespace} ${checker}`
    const asking = this.#asking.get(name)
    if (asking !== undefined) asking.rooms += 1
    this.#askMissed(name)
  }

  #askMissed(name: string): void {
    this.#cutShort.delete(name)
    let asked = 0
    for (const entry of this.#missed.get(name) ?? []) {
      if (entry.checking) continue
      if (asked >= ASKED_AT_ONCE_MAX) {
        this.#cutShort.add(name)
        return
      }
      asked += 1
      this.#ask(entry)
    }
  }

  /** Goes on with those that were not asked at once, and decides about those that waited for a checker for too long. */
  sweep({ wallMs, logMs }: LogClock): void {
    for (const name of [...this.#cutShort]) this.#askMissed(name)
    for (const missed of this.#missed.values()) {
      for (const entry of missed) {
        const { state } = entry.message
        const isLate =
          state.phase === 'prepared' && (logMs >= state.unresolvedAtMs || wallMs >= state.lastCheckAtMs)
        if (isLate && !entry.checking) this.#ask(entry)
      }
    }
  }
}

const nameOf = ({ message: { head } }: Entry): string => `${head.namespace} ${head.checker}`
