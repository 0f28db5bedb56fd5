/** The port through which deliveries and check-backs leave: sessions, participants that listen, and brokers stand behind it. */
import type { CheckBackRequest, CheckBackResponse, DeliverRequest, DeliverResponse } from '../core/api.ts'
import type { Destination, Namespace } from '../core/ids.ts'

/** Where something would go now. */
export interface Route {
  /** The database that the receiver told at its registration; empty without a barrier, and for brokers. */
  readonly databaseId: string
}

/** `noSession`: nobody was asked, which is no attempt. */
export type NoSession = { readonly outcome: 'noSession'; readonly error: string }

/** What became of a delivery. */
export type DeliveryOutcome = DeliverResponse | NoSession

/** What became of a check-back. */
export type CheckBackOutcome = CheckBackResponse | NoSession

/**
 * Sends what the engine releases. Each `done` is called exactly once, later than the call that took it, also when the
 * receiver is lost (`unknown`) or silent for `timeoutMs` (`unknown`). No method throws or waits.
 */
export interface Outlet {
  /**
   * Who would take a delivery to this destination at this moment, with room for it; undefined when nobody would. With a
   * `databaseId` only receivers that told the same one count.
   */
  route(namespace: Namespace, destination: Destination, databaseId: string | undefined): Route | undefined
  /** Sends a delivery, or answers `noSession`. */
  deliver(
    destination: Destination,
    request: DeliverRequest,
    databaseId: string,
    done: (outcome: DeliveryOutcome) => void,
  ): void
  /** Asks a checker, or answers `noSession`. With a `databaseId` only checkers that told the same one are asked. */
  checkBack(request: CheckBackRequest, databaseId: string, done: (outcome: CheckBackOutcome) => void): void
  /** Calls back whenever room may have come up for a destination, or a checker may have come: `what` is its destination or checker. */
  onRoom(
    callback: (namespace: Namespace, what: { destination: Destination } | { checker: string }) => void,
  ): void
}
