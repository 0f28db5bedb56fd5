/** The port through which calls of steps leave; the outlet of deliveries and check-backs is its sibling. */
import type { StepRequest, StepResponse } from '../core/api.ts'
import type { Namespace } from '../core/ids.ts'
import type { NoSession, Route } from './outlet.ts'

/** What became of a call. */
export type StepOutcome = StepResponse | NoSession

/** A step as participants register it, in its namespace. */
export interface StepName {
  readonly service: string
  readonly step: string
}

/**
 * Sends the calls that the engine releases. Each `done` is called exactly once, later than the call that took it, also
 * when the receiver is lost (`unknown`) or silent for `timeoutMs` (`unknown`). No method throws or waits.
 */
export interface StepOutlet {
  /**
   * Who would take a call at this moment, with room for it; undefined when nobody would. With a `databaseId` only
   * receivers that told the same one count; with the empty one those without are preferred; undefined: anybody.
   */
  routeStep(namespace: Namespace, name: StepName, databaseId: string | undefined): Route | undefined
  /** Sends a call to whoever serves its service and step, or answers `noSession`, which is no attempt. */
  step(request: StepRequest, databaseId: string, done: (outcome: StepOutcome) => void): void
  /** Calls back whenever room may have come up for a step. */
  onStepRoom(callback: (namespace: Namespace, name: StepName) => void): void
}
