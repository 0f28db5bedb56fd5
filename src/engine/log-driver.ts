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
 * | leaving  | it is handed over in good order         | are refused with `notOwner`; no attempt begins, and what is under way has a moment to end |
 * | stopped  | fenced, broken, released                | are refused; those decided but not durable end as `uncertain` |
 */
import { EscrowError } from '../core/errors.ts'
import { type TransactionKey, transactionKey } from '../core/ids.ts'
import {
  decideTransaction,
  type TransactionCommand,
  type TransactionDecision,
  type TransactionImage,
} from '../core/transaction.ts'
import type { StoredImage } from '../store/images.ts'
import type { LogClock } from '../store/log.ts'
import { decodeTransactionImage } from '../store/transaction-record.ts'
import { Agenda } from './agenda.ts'
import { Answers } from './answers.ts'
import { Appender } from './appender.ts'
import { Batches, type Release } from './batch.ts'
import { overload } from './bounds.ts'
import { Checkpointer } from './checkpointer.ts'
import type { LogProgress } from './cluster-entries.ts'
import type { Entries } from './entries.ts'
import { Entry, nothingDone, Question } from './entry.ts'
import { Failures } from './failures.ts'
import { Loader, loadImages, type Pending } from './loader.ts'
import type { LogDriverOptions } from './log-driver-options.ts'
import { BatchMoment, LogTime } from './moments.ts'
import { Valve } from './valve.ts'

const NOTHING_BEGAN = new EscrowError('internal', 'a command that begins a transaction began nothing')
const TICK_MS = 20

/** One log, from its recovery until it stops. */
export class LogDriver {
  readonly #options: LogDriverOptions
  readonly #entries: Entries
  readonly #time: LogTime
  readonly #batches: Batches
  readonly #appender: Appender
  readonly #loader: Loader
  readonly #answers: Answers
  readonly #moment: BatchMoment
  readonly #agenda: Agenda
  readonly #checkpointer: Checkpointer
  readonly #valve: Valve
  #isLeaving = false
  #stopped: EscrowError | undefined
  #cancelTick: () => void = () => {}

  constructor(options: LogDriverOptions) {
    this.#options = options
    const { handle, recovered, runtime, bounds, store, programs } = options
    this.#valve = new Valve(options.outlet, options.stepOutlet, runtime)
    const clock = (): LogClock => this.#time.read()
    const stored = (): void => this.#time.stored()
    const stop = (error: EscrowError): void => this.stop(error)
    const failures = new Failures(options.onDegraded, stop, () => this.isStopped)
    this.#entries = recovered.entries
    this.#time = new LogTime(runtime, recovered.clock)
    this.#batches = new Batches(handle, recovered.head, runtime.randomBytes(16), clock)
    this.#appender = new Appender({
      handle,
      batches: this.#batches,
      head: recovered.head,
      runtime,
      provenMsMax: bounds.provenMsMax,
      stored,
      release: (release) => this.#release(release),
      failing: failures.of('append'),
      stop,
    })
    this.#answers = new Answers({
      batches: this.#batches,
      appender: this.#appender,
      waitersMax: bounds.waitersMax,
      outagesMs: () => this.outagesMs,
      notFound: options.notFound,
    })
    this.#loader = new Loader({
      store,
      runtime,
      loaded: (key, stored, pending) => this.#loaded(key, stored, pending),
      failing: failures.of('load'),
    })
    this.#agenda = new Agenda({
      store,
      log: handle.log,
      outlet: this.#valve.outlet,
      stepOutlet: this.#valve.stepOutlet,
      programs,
      participantGates: options.participantGates,
      bounds,
      limits: options.limits,
      clock: () => this.#moment,
      submit: (entry, command) => this.#decideOn(entry, command, undefined),
      // What differs from its row is looked at by its own checkpoint.
      released: (entry) => {
        if (entry.unsavedFrom === 0) this.#checkpointer.mayEvict(entry)
      },
      due: (key) => this.#due(key),
      failing: failures.of('due'),
    })
    this.#moment = new BatchMoment({
      time: this.#time,
      batches: this.#batches,
      runtime,
      deliveries: this.#agenda.deliveries,
      steps: this.#agenda.steps,
      programs,
      sagaLimits: options.sagaLimits,
      tooLarge: options.tooLarge,
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
  }

  /** Brings in what holds a key back, then starts the clock. Answers come from here on. */
  async start(): Promise<void> {
    const clock = this.#moment.read()
    for (const entry of [...this.#entries]) {
      this.#checkpointer.dirty(entry, clock.wallMs)
      this.#pack(entry)
    }
    for await (const keys of this.#agenda.held(clock)) {
      const missing = keys.filter((key) => this.#entries.of(key) === undefined)
      for await (const [, stored] of loadImages(this.#options.store, missing))
        if (stored !== undefined) this.#enter(stored)
    }
    const entries = [...this.#entries]
    this.#agenda.restore(entries)
    for (const entry of entries) this.#attend(entry)
    this.#tick()
  }

  /** There may be room: see `Agenda`. */
  get agenda(): Pick<Agenda, 'roomAt' | 'roomAtStep'> {
    return this.#agenda
  }

  /** How many transactions are in memory. */
  get entries(): number {
    return this.#entries.size
  }

  /** Wall time less log time: how long nobody ran the log, all told. */
  get outagesMs(): number {
    return this.#moment.wallMs - this.#moment.logMs
  }

  get isStopped(): boolean {
    return this.#stopped !== undefined
  }

  /** How far it is. */
  get progress(): LogProgress {
    const { outagesMs } = this
    const { log, claimed } = this.#options.handle
    const { checkpointed, asOfMs } = this.#checkpointer
    const { epoch } = claimed
    const sinceMs = this.#time.beganAtMs
    return { log, epoch, sinceMs, head: this.#appender.durable, checkpointed, asOfMs, outagesMs }
  }

  /** Takes nothing new, lets what is under way end for a moment, and gives the log up. */
  async handOver(): Promise<void> {
    this.#isLeaving = true
    await this.#valve.shut(() => this.#stopped === undefined && this.#entries.areUnderWay)
    await this.drain(new EscrowError('notOwner', 'the log was handed over to another node'))
  }

  /** Waits until nothing is pending and everything durable stands in images; then gives the log up. */
  async drain(reason = new EscrowError('shuttingDown', 'this coordinator is stopping')): Promise<void> {
    await this.#loader.idle()
    await this.#appender.idle()
    if (this.#stopped !== undefined) return
    await this.#checkpointer.now()
    this.stop(reason)
    // A store that doesn't take it back is claimed from by the next one just the same.
    await this.#options.handle.release().catch(() => {})
  }

  /** Forgets everything at once. Who waits is told that the outcome is unknown; nothing more leaves. */
  stop(error: EscrowError): void {
    if (this.#stopped !== undefined) return
    this.#stopped = error
    this.#cancelTick()
    this.#agenda.steps.stop()
    const message = `the log stopped before its outcome was known: ${error.message}`
    const uncertain = new EscrowError('uncertain', message, { cause: error })
    for (const release of this.#appender.stop()) if (release instanceof Question) release.reply(uncertain)
    this.#loader.stop(nothingDone(error))
    this.#answers.stop(nothingDone(error))
    this.#options.onStopped(error)
  }

  /** Takes a command, or with none a read; every question is answered exactly once, later. */
  submit(command: TransactionCommand | undefined, question: Question): void {
    const refused = this.#refusal(command)
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

  #refusal(command: TransactionCommand | undefined): EscrowError | undefined {
    if (this.#stopped !== undefined) return nothingDone(this.#stopped)
    if (this.#isLeaving) return new EscrowError('notOwner', 'the log is being handed over')
    return overload(this.#options.bounds, command, {
      waitingBytes: this.#batches.bytes,
      questions: this.#batches.releases + this.#appender.releases + this.#loader.pendingCount,
      entries: this.#entries.size,
      queued: this.#agenda.deliveries.queuedCount,
    })
  }

  #answer(entry: Entry | undefined, command: TransactionCommand | undefined, question: Question): void {
    if (entry === undefined) this.#answers.notFound(question)
    else if (command !== undefined) this.#decideOn(entry, command, question)
    else this.#answers.read(entry, question)
  }

  #create(command: TransactionCommand | undefined, question: Question): void {
    if (command?.type !== 'prepareMessage' && command?.type !== 'startSaga')
      return this.#answer(undefined, command, question)
    this.#moment.read().stamp(command)
    const decision = decideTransaction(undefined, command, this.#moment)
    if (decision.next === undefined) return this.#answers.refuse(question, decision.refused ?? NOTHING_BEGAN)
    let sequence: number
    try {
      sequence = this.#batches.record(undefined, decision.next)
    } catch (error) {
      this.#agenda.steps.undecided()
      this.#answers.refuse(question, EscrowError.from(error))
      return
    }
    const entry = new Entry(decision.next, { sequence, unsavedFrom: sequence, isStored: false })
    this.#entries.add(entry)
    this.#checkpointer.dirty(entry, this.#moment.wallMs)
    this.#plan(entry, decision.effects)
    this.#answers.respond(entry, question)
    this.#attend(entry)
    this.#pack(entry)
  }

  /** Has effects leave with the batch. */
  #plan(entry: Entry, effects: TransactionDecision['effects']): void {
    for (const effect of effects) {
      this.#agenda.decided(entry, effect)
      this.#batches.release({ entry, effect })
    }
  }

  /** Decides on an image in memory. */
  #decideOn(entry: Entry, command: TransactionCommand, question: Question | undefined): void {
    if (this.#stopped !== undefined) return
    this.#moment.read()
    // Somebody is being asked already: one check-back at a time.
    if (command.type === 'requestCheckBack' && entry.checking) {
      if (question !== undefined) this.#answers.respond(entry, question)
      return
    }
    let decision: TransactionDecision
    try {
      decision = decideTransaction(entry.image, command, this.#moment)
      if (decision.next !== undefined) this.#record(entry, decision.next)
    } catch (error) {
      this.#undecided(entry, command, question, EscrowError.from(error))
      return
    }
    if (command.type === 'checkBackDue') entry.checking = decision.effects.length > 0
    this.#plan(entry, decision.effects)
    if (question !== undefined) {
      if (decision.refused === undefined) this.#answers.respond(entry, question)
      else this.#answers.refuse(question, decision.refused)
    }
    this.#answers.decided(entry)
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
    command: TransactionCommand,
    question: Question | undefined,
    error: EscrowError,
  ): void {
    this.#agenda.steps.undecided()
    if (question !== undefined) this.#answers.refuse(question, error)
    // Anything but a refusal is a broken invariant, and the log must not limp on.
    if (error.code !== 'tooLarge') {
      this.stop(error)
    } else if (command.type === 'answerCheckBack') {
      // An answer that no segment has room for is no answer: it counts, and the checker is asked again.
      const outcome = { resolution: 'unknown', bodies: [], error: error.message } as const
      this.#decideOn(entry, { type: 'answerCheckBack', outcome }, undefined)
    }
  }

  #record(entry: Entry, next: TransactionImage): void {
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
    this.#agenda.attend(entry, this.#moment)
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
    const entry = new Entry(decodeTransactionImage(bytes), { sequence, unsavedFrom: 0, isStored: true })
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
    else this.#agenda.send(release.entry, release.effect)
  }

  #tick(): void {
    if (this.#stopped !== undefined) return
    const clock = this.#moment.renew()
    this.#agenda.tick(clock, (entry) => {
      this.#attend(entry)
      this.#checkpointer.mayEvict(entry)
    })
    this.#checkpointer.tick(clock.wallMs)
    const monotonicMs = this.#options.runtime.monotonic()
    this.#appender.tellTheLate(monotonicMs)
    this.#loader.tellTheLate(monotonicMs)
    this.#answers.tellTheLate(monotonicMs, (entry) => this.#checkpointer.mayEvict(entry))
    this.#cancelTick = this.#options.runtime.setTimer(() => this.#tick(), TICK_MS)
  }
}
