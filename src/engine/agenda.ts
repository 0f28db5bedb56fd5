/** What is to be done about the transactions of one log, and when: at once, by an alarm, or by the due index of the store. */
import type { MessageEffect } from '../core/decision.ts'
import type { Limits } from '../core/envelope.ts'
import type { EscrowError } from '../core/errors.ts'
import type { Namespace, TransactionKey } from '../core/ids.ts'
import type { SagaEffect } from '../core/saga/decision.ts'
import type { TransactionCommand, TransactionEffect } from '../core/transaction.ts'
import type { LogClock } from '../store/log.ts'
import type { Store } from '../store/store.ts'
import { Alarms } from './alarms.ts'
import type { LogBounds } from './bounds.ts'
import { CheckBacks } from './check-backs.ts'
import { Deliveries } from './deliveries.ts'
import { DueScan } from './due-scan.ts'
import { type Entry, plus } from './entry.ts'
import type { ParticipantGates } from './gates.ts'
import type { Outlet } from './outlet.ts'
import type { Programs } from './programs.ts'
import type { StepName, StepOutlet } from './step-outlet.ts'
import { Steps } from './steps.ts'

/** What calls of steps go through. */
export interface StepParts {
  readonly stepOutlet: StepOutlet
  readonly programs: Programs
  readonly participantGates: ParticipantGates
}

/** What an agenda needs of its log. */
export interface AgendaOptions extends StepParts {
  readonly store: Store
  readonly log: number
  readonly outlet: Outlet
  readonly bounds: LogBounds
  readonly limits: Limits
  readonly clock: () => LogClock
  readonly submit: (entry: Entry, command: TransactionCommand) => void
  /** Called when an entry that was pinned may have become idle. */
  readonly released: (entry: Entry) => void
  /** The due index says that this one will be due before the horizon. */
  readonly due: (key: TransactionKey) => void
  readonly failing: (error: EscrowError | undefined) => void
}

type MessagePublication = Extract<MessageEffect, { type: 'Publication' }>

/** Less than the horizon, so that none is late. */
const LOOK_AHEAD_MS = 500

const isUnderWay = ({ busy, held }: Entry): boolean => busy.length > 0 || held.length > 0

/** The agenda of one log. */
export class Agenda {
  readonly #alarms = new Alarms()
  readonly #dueScan: DueScan
  /**
   * What waits in memory for something else, with what is due next beyond the horizon, by log time: the due index has the
   * earliest time of each, which has passed.
   */
  readonly #ahead = new Map<Entry, number>()
  #lookedAheadMs = 0
  readonly deliveries: Deliveries
  readonly checkBacks: CheckBacks
  readonly steps: Steps

  constructor(options: AgendaOptions) {
    const {
      store,
      log,
      outlet,
      stepOutlet,
      programs,
      participantGates,
      bounds,
      limits,
      submit,
      released,
      due,
      failing,
      clock,
    } = options
    this.deliveries = new Deliveries({ outlet, submit, released, heldMax: bounds.heldMax })
    this.checkBacks = new CheckBacks({
      outlet,
      submit,
      released,
      limits,
      missedMax: bounds.missedMax,
      timeoutMs: bounds.checkBackTimeoutMs,
    })
    const { heldMax } = bounds
    const ofSagas = { stepOutlet, programs, participantGates, clock }
    this.steps = new Steps({ ...ofSagas, outlet, submit, released, heldMax })
    this.#dueScan = new DueScan({ store, log, due, failing })
  }

  /** Everything that must be in memory before anything is attended to, page by page. */
  held(clock: LogClock): AsyncGenerator<readonly TransactionKey[]> {
    this.#dueScan.open(clock)
    return this.#dueScan.held()
  }

  /** Puts what was recovered in its queues, all of it before anything may leave. */
  restore(entries: readonly Entry[]): void {
    for (const entry of entries) if (entry.kind === 'message') this.deliveries.restore(entry)
  }

  /** Sees to what is next for an entry. */
  attend(entry: Entry, clock: LogClock): void {
    const atMs = this.#update(entry, clock)
    if (atMs !== undefined && atMs <= this.#dueScan.horizonMs) this.#alarms.set(entry, atMs)
    else if (atMs !== undefined && isUnderWay(entry)) this.#ahead.set(entry, atMs)
    else if (this.#ahead.size > 0) this.#ahead.delete(entry)
  }

  /** Sets the alarms of what has come within the horizon. */
  #lookAhead(clock: LogClock): void {
    if (clock.logMs - this.#lookedAheadMs < LOOK_AHEAD_MS) return
    this.#lookedAheadMs = clock.logMs
    for (const [entry, atMs] of this.#ahead) {
      if (atMs > this.#dueScan.horizonMs) continue
      this.#ahead.delete(entry)
      this.#alarms.set(entry, atMs)
    }
  }

  #update(entry: Entry, clock: LogClock): number | undefined {
    if (entry.kind === 'saga') return this.steps.update(entry, clock)
    const alarmOfCheckBack = this.checkBacks.update(entry, clock)
    return this.deliveries.update(entry, clock) ?? alarmOfCheckBack
  }

  /** An effect is decided: whatever it concerns is under way until it has its outcome. */
  decided(entry: Entry, effect: TransactionEffect): void {
    if (effect.type === 'CheckBack') entry.checking = true
    else if (entry.kind === 'saga') this.steps.decided(entry, effect as SagaEffect)
    else entry.busy = plus(entry.busy, (effect as MessagePublication).index)
  }

  /** Lets an effect leave, now that it is durable. */
  send(entry: Entry, effect: TransactionEffect): void {
    if (effect.type === 'CheckBack') this.checkBacks.send(entry, effect.attempt)
    else if (entry.kind === 'saga') this.steps.send(entry, effect as SagaEffect)
    else this.deliveries.send(entry, (effect as MessagePublication).index, effect.attempt)
  }

  /** Called all the time: brings in what the store says is due, and `rung` for each whose alarm has rung. */
  tick(clock: LogClock, rung: (entry: Entry) => void): void {
    this.#dueScan.advance(clock)
    this.#lookAhead(clock)
    for (
      let entry = this.#alarms.take(clock.logMs);
      entry !== undefined;
      entry = this.#alarms.take(clock.logMs)
    )
      rung(entry)
    this.deliveries.sweep(clock.wallMs)
    this.checkBacks.sweep(clock)
    this.steps.sweep()
  }

  /** There may be room for deliveries to a destination, or for check-backs of a checker. */
  roomAt(namespace: Namespace, what: Parameters<Parameters<Outlet['onRoom']>[0]>[1]): void {
    if ('checker' in what) return this.checkBacks.roomAt(namespace, what.checker)
    this.deliveries.roomAt(namespace, what.destination)
    this.steps.roomAt(namespace, what.destination)
  }

  /** There may be room for calls of a step. */
  roomAtStep(namespace: Namespace, { service, step }: StepName): void {
    this.steps.roomAt(namespace, `${service}/${step}`)
  }
}
