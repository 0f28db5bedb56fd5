/** A saga among participants, a network and an operator that do their worst, all from one seed; and what was seen of it. */
import { decideSaga } from '../../../src/core/saga/decide-saga.ts'
import type { SagaCommand, SagaEffect, SagaMoment, StepOperation } from '../../../src/core/saga/decision.ts'
import { type SagaImage, sagaStatusOf } from '../../../src/core/saga/image.ts'
import { type OutstandingSaga, outstandingOfSaga } from '../../../src/core/saga/outstanding.ts'
import type { SagaProgram } from '../../../src/core/saga/program.ts'
import { head, momentOf, outcome } from './fixtures.ts'

/** A call on its way, or a late one. */
interface Call {
  readonly n: number
  readonly operation: StepOperation
  readonly attempt: number
  readonly isActionDone: boolean
}

type Said = 'done' | 'refused' | 'failed' | 'unknown' | 'later'

/** The participants' databases, with a barrier in each. */
export class Ledger {
  /** Rows of the barrier. */
  readonly #rows = new Map<string, 'done' | 'refused' | 'turnedAway'>()
  /** What was really done, in order. */
  readonly effects: { readonly n: number; readonly operation: StepOperation; readonly at: number }[] = []
  readonly faults: string[] = []

  take({ n, operation, isActionDone }: Call, at: number, mood: Said): Said {
    const key = `${n}/${operation}`
    const known = this.#rows.get(key)
    if (known !== undefined) return known === 'done' ? 'done' : 'refused'
    if (operation === 'compensation') {
      if (mood !== 'done') return 'failed'
      const happened = this.#rows.get(`${n}/action`) === 'done'
      if (isActionDone && !happened) this.faults.push(`${n} was said to be done, and isn't`)
      this.#rows.set(key, 'done')
      if (happened) this.effects.push({ n, operation, at })
      else this.#rows.set(`${n}/action`, 'turnedAway')
      return 'done'
    }
    if (mood === 'done' || mood === 'refused') this.#rows.set(key, mood)
    if (mood === 'done') this.effects.push({ n, operation, at })
    return mood
  }

  count(n: number, operation: StepOperation): number {
    return this.effects.filter((each) => each.n === n && each.operation === operation).length
  }
}

/** What the engine would have seen: each image, what led to it, and what left. */
export interface Seen {
  readonly at: number
  readonly before: SagaImage | undefined
  readonly after: SagaImage
  readonly command: SagaCommand
  readonly effects: readonly SagaEffect[]
}

export class World {
  readonly ledger = new Ledger()
  readonly history: Seen[] = []
  /** Executions that an operator settled by a word of their own. */
  readonly settled = new Set<string>()
  image: SagaImage
  /** Turns of a user's code throw. */
  isBroken = false
  readonly #random: () => number
  readonly #program: SagaProgram
  readonly #reread: (before: SagaImage | undefined, after: SagaImage) => SagaImage
  #wallMs = head.startedAtMs
  #logMs = head.startedAtLogMs
  #calls: Call[] = []
  #answers: { readonly call: Call; readonly said: Said }[] = []
  /** What the engine has in memory of calls under way. */
  #inFlight = new Set<string>()
  readonly #retries = new Map<string, number>()

  /** `reread` gives the image as the store gives it back. */
  constructor(
    program: SagaProgram,
    seed: number,
    reread: (before: SagaImage | undefined, after: SagaImage) => SagaImage,
  ) {
    this.#program = program
    this.#random = randomOf(seed)
    this.#reread = reread
    this.image = undefined as unknown as SagaImage
    this.do({
      type: 'startSaga',
      head: { ...head, deadlineAtMs: this.#chance(0.2) ? this.#wallMs + 400 : 0 },
      businessKey: '',
      tags: {},
    })
  }

  get isOver(): boolean {
    return this.image.state.finishedAtMs > 0
  }

  /** The worst: anything may happen. */
  chaos(): void {
    const random = this.#random()
    this.isBroken = this.#chance(0.05)
    if (random < 0.3) this.#deliverCall(this.#mood())
    else if (random < 0.6) this.#deliverAnswer()
    else if (random < 0.67) this.#timeOut()
    else if (random < 0.85) this.#passTime(Math.floor(this.#random() * 60))
    else if (random < 0.88) this.#restart()
    else if (random < 0.9) this.do({ type: 'cancelSaga', reason: 'no more' })
    else if (random < 0.95) this.do({ type: 'signalSaga', signal: 'go', payload: '', signalId: '' })
    else this.#operate(false)
  }

  /** The best: everybody answers, nobody refuses. */
  calm(): void {
    this.isBroken = false
    while (this.#calls.length > 0) this.#deliverCall('done', true)
    while (this.#answers.length > 0) this.#deliverAnswer()
    // Whatever was lost on the way before.
    for (let left = this.#inFlight.size; left > 0; left--) this.#timeOut()
    this.do({ type: 'signalSaga', signal: 'go', payload: '', signalId: '' })
    this.#passTime(100)
    this.#operate(true)
  }

  do(command: SagaCommand): void {
    const before = this.image
    const { next, effects, refused } = decideSaga(before, command, this.#moment())
    if (refused !== undefined || next === undefined) {
      if (effects.length > 0) throw new Error('effects without an image')
      return
    }
    this.image = this.#reread(before, next)
    this.history.push({ at: this.history.length, before, after: next, command, effects })
    for (const effect of effects) {
      const { n, attempt } = effect
      const operation = effect.type === 'StepCall' ? effect.operation : 'action'
      const isActionDone = operation === 'compensation' && next.state.executions.get(n)?.isDone === true
      this.#calls.push({ n, operation, attempt, isActionDone })
      this.#inFlight.add(`${n}/${operation}`)
    }
  }

  #moment(): SagaMoment {
    return momentOf(this.#program, {
      wallMs: this.#wallMs,
      logMs: this.#logMs,
      random: this.#random,
      routeOf: () => (this.#chance(0.9) ? { databaseId: 'db1' } : undefined),
    })
  }

  #deliverCall(mood: Said, isCertain = false): void {
    const call = this.#take(this.#calls)
    if (call === undefined) return
    const said = this.ledger.take(call, this.history.length, mood)
    if (isCertain || this.#chance(0.8)) this.#answers.push({ call, said })
    // A network may bring the same thing twice.
    if (!isCertain && this.#chance(0.1)) this.#calls.push(call)
  }

  #deliverAnswer(): void {
    const answer = this.#take(this.#answers)
    if (answer === undefined) return
    const { call, said } = answer
    this.#inFlight.delete(`${call.n}/${call.operation}`)
    this.do({
      type: 'answerStep',
      n: call.n,
      operation: call.operation,
      attempt: call.attempt,
      outcome: outcome(said),
    })
  }

  /** Nobody answered in time: unknown, and the call may still arrive. */
  #timeOut(): void {
    const key = this.#take([...this.#inFlight])
    if (key === undefined) return
    this.#inFlight.delete(key)
    const [n, operation] = key.split('/') as [string, StepOperation]
    const execution = this.image.state.executions.get(Number(n))
    const half = operation === 'action' ? execution?.action : execution?.compensation
    const attempt = (half?.attempts ?? 0) + 1
    this.do({ type: 'answerStep', n: Number(n), operation, attempt, outcome: outcome('unknown') })
  }

  #passTime(ms: number): void {
    this.#wallMs += ms
    this.#logMs += ms
    for (const due of outstandingOfSaga(this.image)) {
      if (due.atMs <= (due.clock === 'log' ? this.#logMs : this.#wallMs)) this.#due(due)
    }
  }

  #due(due: OutstandingSaga): void {
    switch (due.what) {
      case 'step':
        if (!this.#inFlight.has(`${due.n}/${due.operation}`))
          this.do({ type: 'dispatchStep', n: due.n, operation: due.operation })
        return
      case 'stepDeadline':
        return this.do({ type: 'stepDeadlineDue', n: due.n })
      case 'timer':
        return this.do({ type: 'timerDue', timer: due.timer })
      case 'deadline':
        return this.do({ type: 'deadlineDue' })
    }
  }

  #restart(): void {
    this.#inFlight.clear()
  }

  #operate(isPatient: boolean): void {
    if (sagaStatusOf(this.image) !== 'parked') return
    const { state } = this.image
    const parked = [...state.executions].find(
      ({ action, compensation }) => action.status === 'parked' || compensation?.status === 'parked',
    )
    const executionId = parked === undefined ? head.executionId : `${head.executionId}.${parked.n}`
    const retries = this.#retries.get(executionId) ?? 0
    const verb = isPatient
      ? parked !== undefined && retries > 3
        ? 'skip'
        : 'retry'
      : this.#take(['retry', 'retry', 'skip', 'compensate'])
    this.#retries.set(executionId, retries + 1)
    if (verb === 'retry') {
      this.do({ type: 'retryExecution', executionId, acceptPossibleDuplicate: true })
    } else if (verb === 'skip') {
      if (parked !== undefined)
        this.settled.add(`${parked.n}/${isUndone(parked) ? 'compensation' : 'action'}`)
      this.do({ type: 'skipExecution', executionId })
    } else {
      if (parked !== undefined && parked.n === state.pivot) this.settled.add('pivot')
      this.do({ type: 'compensateExecution', executionId })
    }
  }

  #mood(): Said {
    const random = this.#random()
    if (random < 0.65) return 'done'
    return random < 0.75 ? 'refused' : random < 0.9 ? 'failed' : 'unknown'
  }

  #chance(probability: number): boolean {
    return this.#random() < probability
  }

  /** Takes any one out. */
  #take<Item>(items: Item[]): Item | undefined {
    return items.splice(Math.floor(this.#random() * items.length), 1)[0]
  }
}

const isUndone = ({ compensation }: { readonly compensation: unknown }): boolean => compensation !== undefined

/** Source: "mulberry32", Tommy Ettinger, 2017. */
function randomOf(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}
