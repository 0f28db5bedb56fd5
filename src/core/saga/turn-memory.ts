/**
 * Turns that are the same for every saga which stands where another stood: no guard was asked, no context changed. A flow
 * of steps one after the other has few of them, and takes each without its machine. Only for machines that are compiled
 * of flows and slips: there the rest of what a turn gives (the inputs of steps) follows from the context alone.
 */
import type { Configuration } from './chart-state.ts'
import type { SagaEvent, Turn, TurnEffect } from './program.ts'

/** A turn without what depends on the saga. */
export interface KnownTurn {
  readonly to: Configuration
  readonly status: Turn['status']
  /** Inputs of steps are made anew for each saga. */
  readonly effects: readonly TurnEffect[]
  readonly startsSteps: boolean
}

/** Configurations of one machine that are told apart; a wide parallel has as many as its regions have combinations. */
const CONFIGURATIONS_MAX = 4_096
/** Turns that are remembered, all told. */
const TURNS_MAX = 16_384

type TurnsByEvent = { [Type in SagaEvent['type']]?: Map<string, KnownTurn> }

/** What is remembered of one machine. */
export class TurnMemory {
  start: KnownTurn | undefined
  readonly #configurations = new Map<string, Configuration>()
  readonly #turns = new Map<Configuration, TurnsByEvent>()
  #turnCount = 0

  /** The one configuration that stands for all that are the same; the given one where there is no room to remember it. */
  unique(configuration: Configuration): Configuration {
    const known = this.#configurations.get(configuration.text)
    if (known !== undefined) return known
    if (this.#configurations.size < CONFIGURATIONS_MAX) {
      this.#configurations.set(configuration.text, configuration)
      this.#turns.set(configuration, {})
    }
    return configuration
  }

  recall(from: Configuration, event: SagaEvent): KnownTurn | undefined {
    return this.#turns.get(from)?.[event.type]?.get(nameOf(event))
  }

  remember(from: Configuration, event: SagaEvent, turn: KnownTurn): void {
    const turns = this.#turns.get(from)
    if (turns === undefined || this.#turnCount >= TURNS_MAX) return
    turns[event.type] ??= new Map()
    turns[event.type]?.set(nameOf(event), turn)
    this.#turnCount += 1
  }
}

function nameOf(event: SagaEvent): string {
  if (event.type === 'timer') return event.timer
  return event.type === 'signal' ? event.signal : event.invocation
}
