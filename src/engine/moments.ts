import type { Moment } from '../core/decision.ts'
import type { MessageImage } from '../core/message.ts'
import type { Runtime } from '../core/runtime.ts'
import type { SagaLimits, StepAddress } from '../core/saga/decision.ts'
import type { SagaHead } from '../core/saga/image.ts'
import type { SagaProgram } from '../core/saga/program.ts'
import type { TransactionCommand, TransactionMoment } from '../core/transaction.ts'
import type { LogClock } from '../store/log.ts'
import type { Batches } from './batch.ts'
import type { Deliveries } from './deliveries.ts'
import type { Route } from './outlet.ts'
import type { Programs } from './programs.ts'
import type { Steps } from './steps.ts'

/** Longer than this after the last stored heartbeat, log time stands still: several heartbeats of an idle log. */
const STANDS_STILL_AFTER_MS = 15_000

/**
 * The clock of one log. Its wall time never goes back: where the machine's is behind, it advances by monotonic time. Log
 * time runs with it, but stands still from the last stored heartbeat to the claim that follows, so that an outage makes
 * nothing late; and likewise, after a pause, while the store takes nothing, while the machine sleeps, or when its clock jumps.
 */
export class LogTime {
  readonly #runtime: Runtime
  /** Wall clock: when this claim of the log began. */
  readonly beganAtMs: number
  #exactWallMs: number
  #wallMs: number
  #monotonicMs: number
  /** Wall time less log time: how long nobody ran the log, all told. */
  #outagesMs: number
  #storedLogMs: number

  constructor(runtime: Runtime, lastStored: LogClock) {
    this.#runtime = runtime
    this.beganAtMs = runtime.now()
    this.#exactWallMs = Math.max(runtime.now(), lastStored.wallMs)
    this.#wallMs = Math.floor(this.#exactWallMs)
    this.#monotonicMs = runtime.monotonic()
    this.#outagesMs = lastStored.wallMs === 0 ? 0 : Math.floor(this.#exactWallMs) - lastStored.logMs
    this.#storedLogMs = this.logMs
  }

  /** As of the last `update`. */
  get wallMs(): number {
    return this.#wallMs
  }

  /** As of the last `update`. */
  get logMs(): number {
    return this.#wallMs - this.#outagesMs
  }

  /** The store has taken something: log time goes on. */
  stored(): void {
    this.#storedLogMs = this.logMs
  }

  /** Reads both clocks, in whole milliseconds. */
  read(): LogClock {
    this.update()
    return { wallMs: this.wallMs, logMs: this.logMs }
  }

  /** The same without an object: every decision asks. */
  update(): void {
    const monotonicMs = this.#runtime.monotonic()
    const nowMs = this.#runtime.now()
    const advancedMs = this.#exactWallMs + Math.max(0, monotonicMs - this.#monotonicMs)
    this.#exactWallMs =
      nowMs >= Math.floor(this.#exactWallMs) ? Math.max(nowMs, this.#exactWallMs) : advancedMs
    this.#monotonicMs = monotonicMs
    this.#wallMs = Math.floor(this.#exactWallMs)
    const standsStillMs = this.logMs - this.#storedLogMs - STANDS_STILL_AFTER_MS
    if (standsStillMs > 0) this.#outagesMs += standsStillMs
  }
}

/** Orders of one segment are told apart up to here; a segment of 4 MiB has fewer records. */
const ORDERS_PER_SEGMENT = 2 ** 17

type Writable<T> = { -readonly [Key in keyof T]: T[Key] }

/** What decisions are told by. */
export interface BatchMomentOptions {
  readonly time: LogTime
  readonly batches: Batches
  readonly runtime: Runtime
  readonly deliveries: Deliveries
  readonly steps: Steps
  readonly programs: Programs
  readonly sagaLimits: SagaLimits
  readonly tooLarge: Moment['tooLarge']
}

/** What a decision may know. Those of one batch share a time: each tick renews it, so that it is never older than that. */
export class BatchMoment implements TransactionMoment {
  readonly #options: BatchMomentOptions
  wallMs = 0
  logMs = 0

  constructor(options: BatchMomentOptions) {
    this.#options = options
  }

  /** Before a decision. */
  read(): this {
    return this.#options.batches.isEmpty ? this.renew() : this
  }

  /** Reads the clocks, whatever collects. */
  renew(): this {
    const { time } = this.#options
    time.update()
    this.wallMs = time.wallMs
    this.logMs = time.logMs
    return this
  }

  /** Says when a transaction begins. The command's head is nobody else's yet. */
  stamp(command: Extract<TransactionCommand, { type: 'prepareMessage' | 'startSaga' }>): void {
    if (command.type === 'prepareMessage') {
      const head = command.head as Writable<typeof command.head>
      head.preparedAtMs = this.wallMs
      head.preparedAtLogMs = this.logMs
    } else {
      const head = command.head as Writable<typeof command.head>
      head.startedAtMs = this.wallMs
      head.startedAtLogMs = this.logMs
    }
  }

  get order(): number {
    return this.#options.batches.sequence * ORDERS_PER_SEGMENT + this.#options.batches.records
  }

  random(): number {
    return this.#options.runtime.random()
  }

  route(image: MessageImage, index: number): Route | undefined {
    return this.#options.deliveries.route(image, index)
  }

  get tooLarge(): Moment['tooLarge'] {
    return this.#options.tooLarge
  }

  get limits(): SagaLimits {
    return this.#options.sagaLimits
  }

  program(head: SagaHead): SagaProgram | undefined {
    return this.#options.programs.of(head)
  }

  definition(saga: string, version: number): SagaProgram | undefined {
    return this.#options.programs.at(saga, version)
  }

  routeOf(address: StepAddress): Route | undefined {
    return this.#options.steps.enter(address)
  }
}
