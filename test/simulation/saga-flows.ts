/** Flows by a seed, with what a model must know of them. Nothing here asks the code under test what is right. */

import type { FlowDefinition } from '../../src/core/saga/define.ts'
import type { Flow } from '../../src/core/saga/flow.ts'
import { sagaOf, undoable } from '../engine/saga-world.ts'

type Builders = Parameters<Parameters<typeof sagaOf>[0]>[0]

/** Where a step stands: which branch of which parallels, outermost first. */
export type Way = readonly { readonly parallel: number; readonly branch: number }[]

/** A saga that was made by a seed. */
export interface RandomSaga {
  readonly definition: FlowDefinition<unknown, unknown>
  readonly ways: ReadonlyMap<string, Way>
  /** Steps that are tried until they are done; their participant must not refuse them. */
  readonly forward: ReadonlySet<string>
  readonly pivot: string
  readonly hasMessage: boolean
}

const quick = {
  retry: { delayMs: 50, delayMsMax: 300, attemptsMax: 3 },
  attemptTimeoutMs: 400,
}

/** Makes sagas of steps, parallels, choices, loops, waits and delays, with a pivot and a message or without. */
export class FlowMaker {
  readonly #random: () => number
  readonly #ways = new Map<string, Way>()
  #parallels = 0

  constructor(random: () => number) {
    this.#random = random
  }

  make(name: string): RandomSaga {
    const forward = new Set<string>()
    const hasPivot = this.#random() < 0.5
    const hasMessage = hasPivot && this.#random() < 0.5
    const definition = sagaOf(
      (all) => {
        const flow: Flow[] = [this.#step(all, []), ...this.#flow(all, [], 2)]
        if (!hasPivot) return flow
        flow.push(all.pivot('pivot', { action: 'shop/pivot', ...quick }))
        for (let left = this.#upTo(2); left > 0; left--) {
          const step = `z${left}`
          forward.add(step)
          flow.push(all.step(step, { action: `shop/${step}`, ...quick }))
        }
        if (hasMessage) flow.push(all.send('tell', { to: 'shop/receive', ...quick }))
        return flow
      },
      { name, signals: ['go'], timeoutMs: this.#random() < 0.3 ? 4_000 : 0 },
    )
    return { definition, ways: this.#ways, forward, pivot: hasPivot ? 'pivot' : '', hasMessage }
  }

  #upTo(max: number): number {
    return Math.floor(this.#random() * (max + 1))
  }

  #step(all: Builders, way: Way): Flow {
    const name = `s${this.#ways.size}`
    this.#ways.set(name, way)
    const stepTimeoutMs = this.#random() < 0.3 ? 1_500 : 0
    return undoable(all, name, { ...quick, stepTimeoutMs, concurrencyMax: this.#random() < 0.2 ? 1 : 0 })
  }

  #flow(all: Builders, way: Way, depth: number): Flow[] {
    return Array.from({ length: 1 + this.#upTo(2) }, () => this.#node(all, way, depth))
  }

  #node(all: Builders, way: Way, depth: number): Flow {
    const choice = this.#random()
    if (depth === 0 || choice < 0.45) return this.#step(all, way)
    if (choice < 0.65) {
      const parallel = this.#parallels++
      const branches = Array.from({ length: 2 + this.#upTo(1) }, (_, branch) =>
        this.#flow(all, [...way, { parallel, branch }], depth - 1),
      )
      return all.parallel(...branches)
    }
    if (choice < 0.75) {
      const when = ({ input }: { input: unknown }) => (input as number) % 2 === 0
      return all.choice([{ when, flow: this.#flow(all, way, depth - 1) }], this.#step(all, way))
    }
    if (choice < 0.85) {
      return all.loop({
        while: () => true,
        max: 1 + this.#upTo(2),
        onMax: 'continue',
        flow: this.#step(all, way),
      })
    }
    if (choice < 0.93) return all.delay(1 + this.#upTo(2_000))
    const onTimeout = this.#random() < 0.5 ? 'fail' : this.#step(all, way)
    return all.waitFor('go', { timeoutMs: 1_000 + this.#upTo(3_000), onTimeout })
  }
}
