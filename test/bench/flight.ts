import { type SelfTimes, sample } from './cpu-profile.ts'
import { percentile } from './figures.ts'
import { countUse, type Used } from './process-figures.ts'

/** Which saga a load is made of. */
export interface SagaLoad {
  readonly name: string
  readonly steps: number
  /** What is counted, and timed: whole sagas, or their steps from one to the next. */
  readonly counted: 'sagas' | 'steps'
}

/** What a load process is asked to do. */
export interface LoadPlan {
  readonly port: number
  /** Of the coordinator; of several that share the load, all. */
  readonly serverPids: readonly number[]
  /** Of the server of the database that they share. */
  readonly databasePid?: number | undefined
  readonly inFlight: number
  /** Of a message's body, or of a saga's input. */
  readonly bodyBytes: number
  readonly saga?: SagaLoad | undefined
  /** Where messages go instead of to the load itself, and at which port of the coordinator their arrival is told. */
  readonly broker?: { readonly destination: string; readonly arrivalsPort: number } | undefined
  readonly warmUpMs: number
  readonly windowMs: number
  /** Sample this process in the window. */
  readonly isProfiled?: boolean
}

/** What came of it, in the window. */
export interface Load {
  readonly used: Used
  readonly transactions: number
  readonly perSecond: number
  readonly p50Ms: number
  readonly p99Ms: number
  /** Since the start, warm-up included. */
  readonly transactionsInAll: number
  /** Batches that a broker has confirmed, since the start. */
  readonly batches?: number
  readonly selfTimes?: SelfTimes | undefined
}

/** How many durations are kept: the last ones. */
const DURATIONS_MAX = 1 << 20

/** The transactions of a load: those under way, and after the warm-up how many ended and how long they took. */
export class Flight {
  readonly #startedAtMs: Float64Array
  readonly #durationsMs = new Float64Array(DURATIONS_MAX)
  #count = 0
  #inAll = 0
  #isMeasuring = false
  /** Begin no more. */
  isOver = false
  /** Resolves at the end of the window. */
  readonly measured: Promise<Load>

  constructor(plan: LoadPlan) {
    this.#startedAtMs = new Float64Array(plan.inFlight)
    this.measured = this.#measure(plan)
  }

  begun(slot: number): void {
    this.#startedAtMs[slot] = performance.now()
  }

  ended(slot: number): void {
    this.#inAll += 1
    if (!this.#isMeasuring) return
    this.#durationsMs[this.#count % DURATIONS_MAX] = performance.now() - this.#startedAtMs[slot]!
    this.#count += 1
  }

  async #measure(plan: LoadPlan): Promise<Load> {
    await new Promise((resolve) => setTimeout(resolve, plan.warmUpMs))
    const endSampling = plan.isProfiled ? await sample() : undefined
    const end = countUse(plan.serverPids, plan.databasePid)
    this.#isMeasuring = true
    await new Promise((resolve) => setTimeout(resolve, plan.windowMs))
    this.#isMeasuring = false
    const used = end()
    const selfTimes = await endSampling?.()
    this.isOver = true
    const sorted = this.#durationsMs.subarray(0, Math.min(this.#count, DURATIONS_MAX)).toSorted()
    return {
      used,
      transactions: this.#count,
      perSecond: this.#count / used.seconds,
      p50Ms: percentile(sorted, 0.5),
      p99Ms: percentile(sorted, 0.99),
      transactionsInAll: this.#inAll,
      selfTimes,
    }
  }
}
