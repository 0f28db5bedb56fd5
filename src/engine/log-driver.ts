/**
 * Drives one log: decide, append, release.
 *
 * Commands are decided on images in memory, and collect while an append is in flight; when it returns, what collected is
 * the next segment. Answers and effects leave when their segment is durable (I1). A batch without records leaves after one
 * look at the store that began after its requests arrived (I2).
 *
 * | state    | because                                | requests                                        |
 * |----------|----------------------------------------|-------------------------------------------------|
 * | running  | the last append is done                | are decided                                     |
 * | waiting  | an append's outcome is unknown          | are decided up to a bound, answered when it is known; `uncertain` at their deadline |
 * | stopped  | fenced, broken, released                | are refused; those decided but not durable end as `uncertain` |
 */
import { decideMessage } from '../core/decide-message.ts'
import type { Decision, MessageCommand } from '../core/decision.ts'
import type { Limits } from '../core/envelope.ts'
import { EscrowError } from '../core/errors.ts'
import { type TransactionKey, transactionKey } from '../core/ids.ts'
import type { MessageHead, MessageImage } from '../core/message.ts'
import type { Runtime } from '../core/runtime.ts'
import type { StoredImage } from '../store/images.ts'
import type { LogClock, LogHandle } from '../store/log.ts'
import { decodeImage } from '../store/record.ts'
import type { Store } from '../store/store.ts'
import { Alarms } from './alarms.ts'
import { Appender } from './appender.ts'
import { Batches, type Release } from './batch.ts'
import { type LogBounds, overload } from './bounds.ts'
import { CheckBacks } from './check-backs.ts'
import { Checkpointer } from './checkpointer.ts'
import { Deliveries } from './deliveries.ts'
import { DueScan } from './due-scan.ts'
import type { Entries } from './entries.ts'
import { Entry, nothingDone, plus, Question } from './entry.ts'
import { Failures } from './failures.ts'
import { Loader, loadImages, type Pending } from './loader.ts'
import { BatchMoment, LogTime } from './moments.ts'
import type { Outlet } from './outlet.ts'
import type { Recovered } from './recovery.ts'
import { responseOf } from './views.ts'
import { hasEnded, Waiters } from './waiters.ts'

/** What a log needs of the world. */
export interface LogDriverOptions {
  readonly store: Store
  readonly handle: LogHandle
  readonly recovered: Recovered
  readonly runtime: Runtime
  readonly outlet: Outlet
  readonly bounds: LogBounds
  readonly limits: Limits
  /** The log stopped for a reason of its own: fenced, or a store that must be reopened. */
  /** Why there is no transaction of this id. */
  readonly notFound: (id: string) => EscrowError
  readonly onStopped: (error: EscrowError) => void
  /** The store doesn't answer (a reason), or does again (empty). */
  readonly onDegraded: (reason: string) => void
}

type Writable<T> = { -readonly [Key in keyof T]: T[Key] }

const TICK_MS = 20

/** One log, from its recovery until it stops. */
export class LogDriver {
  readonly #options: LogDriverOptions
  readonly #entries: Entries
  readonly #time: LogTime
  readonly #batches: Batches
  readonly #appender: Appender
  readonly #loader: Loader
  readonly #waiters: Waiters
  readonly #alarms = new Alarms()
  readonly #moment: BatchMoment
  readonly #dueScan: DueScan
  readonly #checkpointer: Checkpointer
  #stopped: EscrowError | undefined
  #cancelTick: () => void = () => {}
  readonly deliveries: Deliveries
  readonly checkBacks: CheckBacks

  constructor(options: LogDriverOptions) {
    this.#options = options
    const { handle, recovered, runtime, outlet, bounds, limits, store } = options
    const clock = (): LogClock => this.#time.read()
    const stored = (): void => this.#time.stored()
    const stop = (error: EscrowError): void => this.stop(error)
    const failures = new Failures(options.onDegraded, stop, () => this.isStopped)
    const submit = (entry: Entry, command: MessageCommand): void => this.#decideOn(entry, command, undefined)
    // What differs from its row is looked at by its own checkpoint.
    const released = (entry: Entry): void => {
      if (entry.unsavedFrom === 0) this.#checkpointer.mayEvict(entry)
    }
    this.#entries = recovered.entries
    this.#time = new LogTime(runtime, recovered.clock)
    this.#waiters = new Waiters(bounds.waitersMax)
    this.#batches = new Batches(handle, recovered.head, runtime.randomBytes(16), clock)
    this.#appender = new Appender({
      handle,
      batches: this.#batches,
      head: recovered.head,
      runtime,
      stored,
      release: (release) => this.#release(release),
      failing: failures.of('append'),
      stop,
    })
    this.#loader = new Loader({
      store,
      runtime,
      loaded: (key, stored, pending) => this.#loaded(key, stored, pending),
      failing: failures.of('load'),
    })
    this.deliveries = new Deliveries({ outlet, submit, released, heldMax: bounds.heldMax })
    this.#moment = new BatchMoment(this.#time, this.#batches, runtime, this.deliveries)
    this.checkBacks = new CheckBacks({
      outlet,
      submit,
      released,
      limits,
      missedMax: bounds.missedMax,
      timeoutMs: bounds.checkBackTimeoutMs,
    })
    this.#checkpointer = new Checkpointer({
      store,
      handle,
      checkpointed: recovered.checkpointed,
      intervalMs: bounds.checkpointIntervalMs,
      rowsMax: bounds.checkpointRowsMax,
      durable: () => this.#appender.durable,
      clock,
      written: (entry) => this.#attend(entry),
      stored,
      evict: (entry) => this.#entries.delete(entry),
      failing: failures.of('checkpoint'),
      fenced: () => stop(new EscrowError('notOwner', `log ${handle.log} was taken over by another writer`)),
    })
    const due = (key: TransactionKey): void => this.#due(key)
    this.#dueScan = new DueScan({ store, log: handle.log, due, failing: failures.of('due') })
  }

  /** Brings in what holds a key back, then starts the clock. Answers come from here on. */
  async start(): Promise<void> {
    this.#dueScan.open(this.#moment.read())
    for (const entry of [...this.#entries]) {
      this.#checkpointer.dirty(entry, this.#moment.wallMs)
      this.#pack(entry)
    }
    for await (const keys of this.#dueScan.held()) {
      const missing = keys.filter((key) => this.#entries.of(key) === undefined)
      for (const [, stored] of await loadImages(this.#options.store, missing)) this.#enter(stored)
    }
    // Every queue stands in the order of commits before the first of it may leave.
    const entries = [...this.#entries]
    for (const entry of entries) this.deliveries.restore(entry)
    for (const entry of entries) this.#attend(entry)
    this.#tick()
  }

  /** How many transactions are in memory. */
  get entries(): number {
    return this.#entries.size
  }

  /** Wall time less log time: how long nobody ran the log, all told. */
  get outagesMs(): number {
    return this.#moment.wallMs - this.#moment.logMs
  }

  /** Wall clock of the last checkpoint: what a query of the images is true for. */
  get asOfMs(): number {
    return this.#checkpointer.asOfMs
  }

  get isStopped(): boolean {
    return this.#stopped !== undefined
  }

  /** Waits until nothing is pending and everything durable stands in images; then gives the log up. */
  async drain(): Promise<void> {
    await this.#loader.idle()
    await this.#appender.idle()
    if (this.#stopped !== undefined) return
    await this.#checkpointer.now()
    this.stop(new EscrowError('shuttingDown', 'this coordinator is stopping'))
    // A store that doesn't take it back is claimed from by the next one just the same.
    await this.#options.handle.release().catch(() => {})
  }

  /** Forgets everything at once. Who waits is told that the outcome is unknown; nothing more leaves. */
  stop(error: EscrowError): void {
    if (this.#stopped !== undefined) return
    this.#stopped = error
    this.#cancelTick()
    const message = `the log stopped before its outcome was known: ${error.message}`
    const uncertain = new EscrowError('uncertain', message, { cause: error })
    for (const release of this.#appender.stop()) if (release instanceof Question) release.reply(uncertain)
    this.#loader.stop(nothingDone(error))
    this.#waiters.stop(nothingDone(error))
    this.#options.onStopped(error)
  }

  /** Takes a command, or with none a read; every question is answered exactly once, later. */
  submit(command: MessageCommand | undefined, question: Question): void {
    const refused = this.#stopped === undefined ? this.#overload(command) : nothingDone(this.#stopped)
    if (refused !== undefined) {
      this.#options.runtime.defer(() => question.reply(refused))
      return
    }
    const { namespace, id, fresh } = question
    const entry = fresh ? undefined : this.#entries.get(namespace, id)
    if (entry !== undefined) return this.#answer(entry, command, question)
    if (fresh && !this.#loader.isLoading(namespace, id)) this.#create(command, question)
    else this.#loader.load(transactionKey(namespace, id), { command, question })
  }

  #overload(command: MessageCommand | undefined): EscrowError | undefined {
    return overload(this.#options.bounds, command, {
      waitingBytes: this.#batches.bytes,
      questions: this.#batches.releases + this.#loader.pendingCount,
      entries: this.#entries.size,
      queued: this.deliveries.queuedCount,
    })
  }

  #answer(entry: Entry | undefined, command: MessageCommand | undefined, question: Question): void {
    if (entry === undefined) this.#refuse(question, this.#options.notFound(question.id))
    else if (command !== undefined) this.#decideOn(entry, command, question)
    else if (question.op !== 'wait' || hasEnded(entry.image)) this.#respond(entry, question)
    else {
      const refused = this.#waiters.add(entry, question)
      if (refused !== undefined) this.#refuse(question, refused)
    }
  }

  #refuse(question: Question, error: EscrowError): void {
    question.error = error
    this.#batches.release(question)
    this.#appender.plan()
  }

  #respond(entry: Entry, question: Question): void {
    question.response = responseOf(question.op, entry.image, this.outagesMs)
    this.#batches.release(question)
    this.#appender.plan()
  }

  #create(command: MessageCommand | undefined, question: Question): void {
    if (command?.type !== 'prepareMessage') return this.#answer(undefined, command, question)
    this.#moment.read()
    const head = command.head as Writable<MessageHead>
    head.preparedAtMs = this.#moment.wallMs
    head.preparedAtLogMs = this.#moment.logMs
    const decision = decideMessage(undefined, command, this.#moment)
    if (decision.next === undefined) return
    let sequence: number
    try {
      sequence = this.#batches.record(undefined, decision.next)
    } catch (error) {
      this.#refuse(question, EscrowError.from(error))
      return
    }
    const entry = new Entry(decision.next, { sequence, unsavedFrom: sequence, isStored: false })
    this.#entries.add(entry)
    this.#checkpointer.dirty(entry, this.#moment.wallMs)
    this.#respond(entry, question)
    this.#attend(entry)
  }

  /** Decides on an image in memory. */
  #decideOn(entry: Entry, command: MessageCommand, question: Question | undefined): void {
    if (this.#stopped !== undefined) return
    this.#moment.read()
    // Somebody is being asked already: one check-back at a time.
    if (command.type === 'requestCheckBack' && entry.checking) {
      if (question !== undefined) this.#respond(entry, question)
      return
    }
    let decision: Decision
    try {
      decision = decideMessage(entry.image, command, this.#moment)
      if (decision.next !== undefined) this.#record(entry, decision.next)
    } catch (error) {
      this.#undecided(entry, command, question, EscrowError.from(error))
      return
    }
    if (command.type === 'checkBackDue') entry.checking = decision.effects.length > 0
    for (const effect of decision.effects) {
      if (effect.type === 'CheckBack') entry.checking = true
      else entry.busy = plus(entry.busy, effect.index)
      this.#batches.release({ entry, effect })
    }
    if (question !== undefined) {
      if (decision.refused === undefined) this.#respond(entry, question)
      else this.#refuse(question, decision.refused)
    }
    for (const waiter of this.#waiters.takeEnded(entry)) this.#respond(entry, waiter)
    this.#attend(entry)
    this.#pack(entry)
    this.#appender.plan()
  }

  /** What has changed for the last time is kept as its row from here on. */
  #pack(entry: Entry): void {
    if (this.#checkpointer.pack(entry)) this.#entries.ended(entry)
  }

  /** The image is as it was: nothing of the decision was recorded. */
  #undecided(
    entry: Entry,
    command: MessageCommand,
    question: Question | undefined,
    error: EscrowError,
  ): void {
    if (question !== undefined) this.#refuse(question, error)
    // Anything but a refusal is a broken invariant, and the log must not limp on.
    if (error.code !== 'tooLarge') {
      this.stop(error)
    } else if (command.type === 'answerCheckBack') {
      // An answer that no segment has room for is no answer: it counts, and the checker is asked again.
      const outcome = { resolution: 'unknown', bodies: [], error: error.message } as const
      this.#decideOn(entry, { type: 'answerCheckBack', outcome }, undefined)
    }
  }

  #record(entry: Entry, next: MessageImage): void {
    const sequence = this.#batches.record(entry.image, next)
    entry.image = next
    entry.sequence = sequence
    if (entry.unsavedFrom !== 0) return
    entry.unsavedFrom = sequence
    this.#checkpointer.dirty(entry, this.#moment.wallMs)
  }

  /** Sees to what is next for an entry: at once, by an alarm, or by the due index once it is stored there. */
  #attend(entry: Entry): void {
    if (this.#stopped !== undefined) return
    const alarmOfCheckBack = this.checkBacks.update(entry, this.#moment)
    const atMs = this.deliveries.update(entry, this.#moment) ?? alarmOfCheckBack
    if (atMs !== undefined && atMs <= this.#dueScan.horizonMs) this.#alarms.set(entry, atMs)
  }

  /** The due index says that something will be due before the horizon. */
  #due(key: TransactionKey): void {
    if (this.#stopped !== undefined) return
    const entry = this.#entries.of(key)
    // Whatever keeps it in memory set no alarm while its time was beyond the horizon.
    if (entry === undefined) this.#loader.bring(key)
    else this.#attend(entry)
  }

  #enter({ bytes, sequence }: StoredImage): Entry {
    const entry = new Entry(decodeImage(bytes), { sequence, unsavedFrom: 0, isStored: true })
    this.#entries.add(entry)
    this.#checkpointer.mayEvict(entry)
    return entry
  }

  #loaded(key: TransactionKey, stored: StoredImage | undefined, pending: readonly Pending[]): void {
    const entry = stored === undefined ? undefined : this.#enter(stored)
    this.#moment.read()
    for (const { command, question } of pending) {
      const known = this.#entries.of(key)
      if (known === undefined) this.#create(command, question)
      else this.#answer(known, command, question)
    }
    if (entry !== undefined) this.#attend(entry)
  }

  #release(release: Release): void {
    if (release instanceof Question) release.answer()
    else if (release.effect.type === 'CheckBack') this.checkBacks.send(release.entry, release.effect.attempt)
    else this.deliveries.send(release.entry, release.effect.index, release.effect.attempt)
  }

  #tick(): void {
    if (this.#stopped !== undefined) return
    const clock = this.#moment.renew()
    this.#dueScan.advance(clock)
    for (
      let entry = this.#alarms.take(this.#moment.logMs);
      entry !== undefined;
      entry = this.#alarms.take(this.#moment.logMs)
    ) {
      this.#attend(entry)
      this.#checkpointer.mayEvict(entry)
    }
    this.deliveries.sweep(clock.wallMs)
    this.checkBacks.sweep(clock)
    this.#checkpointer.tick(clock.wallMs)
    const monotonicMs = this.#options.runtime.monotonic()
    this.#appender.tellTheLate(monotonicMs)
    this.#loader.tellTheLate(monotonicMs)
    this.#waiters.tellTheLate(monotonicMs, (entry) => this.#checkpointer.mayEvict(entry))
    this.#cancelTick = this.#options.runtime.setTimer(() => this.#tick(), TICK_MS)
  }
}
