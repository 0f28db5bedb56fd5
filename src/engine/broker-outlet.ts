import type { Broker } from '../broker/broker.ts'
import type { DeliverRequest } from '../core/api.ts'
import { traceHeaders } from '../core/envelope.ts'
import { type Destination, destinationParts, type Namespace } from '../core/ids.ts'
import type { Runtime } from '../core/runtime.ts'
import { BrokerLanes } from './broker-lanes.ts'
import type { DeliveryOutcome, Outlet, Route } from './outlet.ts'

const ROUTE: Route = { databaseId: '' }

/** What an outlet for all destinations is made of. */
export interface DestinationOutletOptions {
  readonly participants: Outlet
  readonly brokers: ReadonlyMap<string, Broker>
  readonly runtime: Runtime
  readonly log: (level: 'info' | 'warn' | 'error', message: string) => void
}

/** Sends each delivery where its destination says: to a broker, or to the participants' own outlet. */
export class DestinationOutlet implements Outlet {
  readonly #options: DestinationOutletOptions
  /** Made at the first delivery: brokers are made when the coordinator starts. */
  readonly #lanes = new Map<string, BrokerLanes>()
  #roomCallback: Parameters<Outlet['onRoom']>[0] = () => {}

  constructor(options: DestinationOutletOptions) {
    this.#options = options
    for (const [name, broker] of options.brokers) {
      const { runtime, log } = options
      const room = (namespace: Namespace, destination: Destination): void =>
        this.#roomCallback(namespace, { destination })
      this.#lanes.set(name, new BrokerLanes({ name, broker, runtime, log, room }))
    }
  }

  #lanesOf(destination: Destination): BrokerLanes | undefined {
    return this.#lanes.get(destination.slice(0, destination.indexOf(':')))
  }

  route(namespace: Namespace, destination: Destination, databaseId: string | undefined): Route | undefined {
    if (!destination.includes(':'))
      return this.#options.participants.route(namespace, destination, databaseId)
    return this.#lanesOf(destination)?.hasRoom(namespace, destination) === true ? ROUTE : undefined
  }

  deliver(
    destination: Destination,
    request: DeliverRequest,
    databaseId: string,
    done: (outcome: DeliveryOutcome) => void,
  ): void {
    if (!destination.includes(':')) {
      this.#options.participants.deliver(destination, request, databaseId, done)
      return
    }
    const lanes = this.#lanesOf(destination)
    const parts = destinationParts(destination)
    if (lanes === undefined || parts.kind !== 'broker') {
      const error = `broker of ${destination} is not configured any more`
      this.#options.runtime.defer(() => done({ outcome: 'failed', error }))
      return
    }
    lanes.add(destination, {
      message: {
        topic: parts.topic,
        id: request.executionId,
        key: request.key,
        body: request.body,
        headers: { ...traceHeaders(request.trace), ...request.headers },
        contentType: request.contentType,
      },
      timeoutMs: request.timeoutMs,
      done,
    })
  }

  readonly checkBack: Outlet['checkBack'] = (request, databaseId, done) =>
    this.#options.participants.checkBack(request, databaseId, done)

  onRoom(callback: Parameters<Outlet['onRoom']>[0]): void {
    this.#roomCallback = callback
    this.#options.participants.onRoom(callback)
  }

  /** Ends the timers of the breakers. */
  close(): void {
    for (const lanes of this.#lanes.values()) lanes.close()
  }
}
