/**
 * Sagas under one seed: random flows, faults at every call of the store, coordinators that die and come back, participants
 * that refuse, fail, lose, repeat and delay. Judged by what was acknowledged and by the participants' ledger. Then all is
 * healed, and each saga must end. Every fifth seed has three nodes on one store (see `coordinators.ts`). `SIM_SEEDS=n` runs
 * n seeds from `SIM_SEED`, which replays one.
 */
import { expect, test } from 'vitest'
import type { StepRequest, StepResponse, TransactionView } from '../../src/core/api.ts'
import { EscrowError } from '../../src/core/errors.ts'
import { ClusterWorld } from '../engine/cluster-world.ts'
import { seeded } from '../engine/fake-runtime.ts'
import { answerOf } from '../engine/fake-step-outlet.ts'
import { bytes, introduceStep, Ledger } from '../engine/saga-world.ts'
import type { Answer } from '../engine/world.ts'
import { Coordinators } from './coordinators.ts'
import { FlowMaker, type RandomSaga, type Way } from './saga-flows.ts'

const first = Number(process.env.SIM_SEED ?? 1)
const count = Number(process.env.SIM_SEEDS ?? (process.env.SIM_SEED === undefined ? 200 : 1))

interface Local {
  readonly id: string
  readonly saga: RandomSaga
  readonly request: { readonly saga: string; readonly id: string; readonly input: Uint8Array }
  readonly starts: Answer<'startSaga'>[]
  readonly cancels: Answer<'cancel'>[]
}

class Simulation {
  readonly #world: ClusterWorld
  readonly #coordinators: Coordinators
  readonly #random: () => number
  readonly #sagas: RandomSaga[]
  readonly #locals: Local[] = []
  readonly #ledger = new Ledger()
  /** Completions that participants owe. */
  readonly #owed: { readonly request: StepRequest; readonly isDone: boolean }[] = []
  readonly #events: string[] = []
  readonly #bad: { store: number; delay: number; crash: number; step: number; away: number; refusal: number }
  /** How long may pass between two steps: of several nodes so long that leases end while work goes on. */
  readonly #paceMs: number
  #isCalm = true

  constructor(seed: number) {
    this.#random = seeded(seed * 6_271)
    const nodes = seed % 5 === 0 ? 3 : 0
    this.#paceMs = nodes === 0 ? 400 : 1_200
    this.#world = new ClusterWorld({ seed, logs: nodes === 0 ? 1 + (seed % 2) : 4 })
    const rate = (most: number): number => (this.#random() < 0.4 ? 0 : this.#random() * most)
    this.#bad = {
      store: rate(0.2),
      delay: rate(0.4),
      crash: nodes === 0 ? rate(0.15) : 0.03 + rate(0.15),
      step: rate(0.6),
      away: rate(0.1),
      refusal: rate(0.2),
    }
    this.#sagas = ['one', 'two'].map((name) => new FlowMaker(this.#random).make(name))
    this.#coordinators = new Coordinators({
      world: this.#world,
      nodes,
      random: this.#random,
      overrides: { sagas: this.#sagas.map(({ definition }) => definition.program) },
      note: (what) => this.#note(what),
    })
  }

  get story(): string {
    return this.#events.slice(-120).join('\n')
  }

  #note(what: string): void {
    this.#events.push(`@${this.#world.clock.now() % 1e7} ${what}`)
  }

  #chance(rate: number): boolean {
    return !this.#isCalm && this.#random() < rate
  }

  #pick<T>(from: readonly T[]): T {
    return from[Math.floor(this.#random() * from.length)] as T
  }

  async #pause(ms: number): Promise<void> {
    await new Promise<void>((resolve) => this.#world.clock.setTimer(resolve, ms))
  }

  #armStore(): void {
    this.#world.hook = ({ method, moment }) => {
      if (this.#chance(this.#bad.store))
        throw new EscrowError('storeUnavailable', `${method} failed ${moment}`)
      return this.#chance(this.#bad.delay) ? this.#pause(this.#random() ** 3 * 300) : undefined
    }
  }

  /** What a participant with a barrier makes of a call. */
  #take(request: StepRequest): StepResponse | Promise<StepResponse> | 'silence' {
    const local = this.#locals.find(({ id }) => id === request.transactionId) as Local
    const isRefusable = request.operation === 'action' && !local.saga.forward.has(request.step)
    this.#note(
      `${request.transactionId} ${request.operation} ${request.executionId.split('.')[1]} ${request.step}`,
    )
    const act = (isRefused = false): StepResponse => answerOf(this.#ledger.do(request, isRefused))
    if (isRefusable && this.#chance(this.#bad.refusal)) return act(true)
    if (!this.#chance(this.#bad.step)) return act()
    switch (this.#pick(['failed', 'lost', 'silent', 'slow', 'late', 'later'])) {
      case 'failed':
        return answerOf('failed', { code: 'busy' })
      case 'lost':
        act()
        return answerOf('unknown')
      case 'silent':
        return 'silence'
      case 'slow':
        return this.#pause(this.#random() * 600).then(() => act())
      case 'late':
        // It does its work long after anybody waits for it.
        void this.#pause(this.#random() * 4_000).then(() => act())
        return 'silence'
      default:
        if (request.operation === 'compensation') return answerOf('later')
        this.#owed.push({ request, isDone: this.#random() < 0.8 })
        return answerOf('later')
    }
  }

  #complete(): void {
    const [owed] = this.#owed.splice(Math.floor(this.#random() * this.#owed.length), 1)
    if (owed === undefined) return
    const of = this.#pick(this.#coordinators.running)
    const { request, isDone } = owed
    const { transactionId: id, executionId, attempt } = request
    const response = isDone ? answerOf(this.#ledger.do(request)) : answerOf('failed')
    const answer = this.#world.ask(
      'complete',
      { id, executionId, attempt, response },
      { of, timeoutMs: 2_000 },
    )
    void this.#pause(3_000).then(() => {
      if (answer.response === undefined && answer.error?.retryable !== false) this.#owed.push(owed)
    })
  }

  #ask(): void {
    const options = { of: this.#pick(this.#coordinators.running), timeoutMs: 100 + this.#random() * 2_000 }
    if (this.#locals.length < 8 && this.#random() < 0.4) {
      const saga = this.#pick(this.#sagas)
      const id = `{${this.#locals.length % 3}}-${this.#locals.length}`
      const request = { saga: saga.definition.name, id, input: bytes(this.#locals.length) }
      this.#locals.push({
        id,
        saga,
        request,
        starts: [this.#world.ask('startSaga', request, options)],
        cancels: [],
      })
      return
    }
    const local = this.#locals.length === 0 ? undefined : this.#pick(this.#locals)
    if (local === undefined) return
    const { id, request, starts, cancels } = local
    const choice = this.#random()
    if (choice < 0.4) this.#world.ask('signal', { id, signal: 'go', signalId: 'once' }, options)
    else if (choice < 0.6) starts.push(this.#world.ask('startSaga', request, options))
    else if (choice < 0.65) cancels.push(this.#world.ask('cancel', { id }, options))
    else this.#complete()
  }

  #disturb(): void {
    const names = [...this.#world.steps.steps.keys()]
    if (this.#chance(this.#bad.away)) this.#world.steps.steps.delete(this.#pick(names))
    if (this.#random() < 0.1) this.#allCome()
  }

  #allCome(): void {
    for (const { definition } of this.#sagas)
      for (const { service, action } of definition.program.steps.values())
        if (action !== '') this.#world.steps.comes(`${service}/${action}`, 'db')
  }

  async run(): Promise<void> {
    const { clock, steps } = this.#world
    await this.#coordinators.start()
    await this.#world.introduce()
    for (const { definition } of this.#sagas)
      for (const { service, action } of definition.program.steps.values())
        if (action !== '') await introduceStep(this.#world, service, action, 'db')
    steps.take = (request) => this.#take(request)
    this.#isCalm = false
    this.#armStore()
    for (let left = 20 + Math.floor(this.#random() * 40); left > 0; left--) {
      if (this.#chance(this.#bad.crash)) await this.#coordinators.crash()
      this.#ask()
      this.#disturb()
      await clock.advance(Math.floor(this.#random() ** 2 * this.#paceMs))
    }
    await this.#heal()
    for (const local of this.#locals) await this.#judge(local)
    expect(this.#world.logged.filter((line) => line.startsWith('error'))).toEqual([])
  }

  async #heal(): Promise<void> {
    this.#note('healed')
    this.#isCalm = true
    await this.#world.clock.advance(1_000)
    await this.#coordinators.heal()
    this.#allCome()
    for (let round = 0; round < 60; round++) {
      await this.#world.clock.advance(500)
      for (let left = this.#owed.length; left > 0; left--) this.#complete()
      let isOver = true
      for (const local of this.#locals) {
        const view = await this.#view(local)
        if (view === undefined || view.status === 'completed' || view.status === 'compensated') continue
        isOver = false
        if (view.status === 'parked') await this.#retry(view)
      }
      if (isOver) return
    }
  }

  /** An operator has everything that is parked tried again. */
  async #retry({ id, saga }: TransactionView): Promise<void> {
    for (const { executionId, status, compensation } of saga?.executions ?? []) {
      if (compensation !== 'parked' && status !== 'parked') continue
      await this.#coordinators.ask('retry', { id, executionId, acceptPossibleDuplicate: true })
    }
  }

  async #view({ id, starts }: Local): Promise<TransactionView | undefined> {
    const answer = await this.#coordinators.ask('get', { id })
    const isKnown = starts.some(({ response }) => response !== undefined)
    if (isKnown && answer.response === undefined)
      throw new Error(`I1: ${id} was acknowledged, and is ${answer.error?.code}`)
    return answer.response
  }

  async #judge(local: Local): Promise<void> {
    const { id, saga, cancels } = local
    const view = await this.#view(local)
    const effects = this.#ledger.effects.filter((effect) => effect.saga === id)
    if (view === undefined) {
      expect(effects, `${id} never began`).toEqual([])
      return
    }
    if (view.status !== 'completed' && view.status !== 'compensated')
      throw new Error(
        `${id} is still ${view.status}: ${JSON.stringify(view.saga?.executions)} ${view.reason}`,
      )
    if (cancels.some(({ response }) => response !== undefined))
      expect(view.status, `${id} cancelled`).toBe('compensated')
    const sent = this.#world.participants.deliveries.filter(({ request }) => request.transactionId === id)
    const undone = effects.filter(({ what }) => what.startsWith('-'))
    if (view.status === 'completed') {
      expect(undone, `${id} completed`).toEqual([])
      expect(sent.length > 0, `${id} message`).toBe(saga.hasMessage)
      expect(effects.some(({ what }) => what === saga.pivot)).toBe(saga.pivot !== '')
      return
    }
    expect(sent, `${id} was undone`).toEqual([])
    const done = effects.filter(({ what }) => !what.startsWith('-'))
    expect(undone.map(({ n }) => n).toSorted(), `${id}: ${view.reason}`).toEqual(
      done.map(({ n }) => n).toSorted(),
    )
    for (const [at, later] of done.entries()) {
      for (const earlier of done.slice(0, at)) {
        if (isApart(saga.ways.get(earlier.what) ?? [], saga.ways.get(later.what) ?? [])) continue
        const order =
          undone.findIndex(({ n }) => n === later.n) - undone.findIndex(({ n }) => n === earlier.n)
        expect(order, `${id}: ${later.what} is undone before ${earlier.what}`).toBeLessThan(0)
      }
    }
  }
}

/** Whether two steps stand in different branches of one parallel. */
function isApart(one: Way, other: Way): boolean {
  return one.some(({ parallel, branch }) =>
    other.some((each) => each.parallel === parallel && each.branch !== branch),
  )
}

test(`${count} seeds from ${first}: each saga is completed or compensated, and the ledger is right`, async () => {
  for (let seed = first; seed < first + count; seed++) {
    const simulation = new Simulation(seed)
    try {
      await simulation.run()
    } catch (error) {
      console.error(`SIM_SEED=${seed}\n${simulation.story}`)
      throw error
    }
  }
})
