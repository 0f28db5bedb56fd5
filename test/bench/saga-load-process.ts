/** A service that starts sagas and takes their steps over one session: keeps so many sagas in flight. */
import { once } from 'node:events'
import { connect } from '../../src/participant/connect.ts'
import type { Session } from '../../src/participant/session.ts'
import { Flight, type LoadPlan, type SagaLoad } from './flight.ts'
import { type Order, orderOf } from './saga-definitions.ts'

const RESULT = { reservation: 12_345 }

/** One saga after the other. What it needs for each is made once, so that the load costs little itself. */
class Slot {
  readonly #session: Session
  readonly #flight: Flight
  readonly #load: SagaLoad
  readonly #request: { saga: string; input: Order }
  #open = 0
  lastId = ''

  constructor(session: Session, flight: Flight, load: SagaLoad, input: Order) {
    this.#session = session
    this.#flight = flight
    this.#load = load
    this.#request = { saga: load.name, input }
  }

  begin(): void {
    this.#open = 1 + this.#load.steps
    this.#flight.begun(this.#request.input.slot)
    this.#session.startSaga(this.#request).then(this.#started, fail)
  }

  readonly #started = ({ id }: { id: string }): void => {
    this.lastId = id
    this.#part()
  }

  called(): void {
    const { slot } = this.#request.input
    if (this.#load.counted === 'steps') {
      this.#flight.ended(slot)
      this.#flight.begun(slot)
    }
    this.#part()
  }

  /** The start is acknowledged, or a step was called: with all of them it has ended. */
  #part(): void {
    this.#open -= 1
    if (this.#open > 0) return
    if (this.#load.counted === 'sagas') this.#flight.ended(this.#request.input.slot)
    if (!this.#flight.isOver) this.begin()
  }
}

function fail(error: unknown): void {
  console.error(error)
  process.exit(1)
}

const STEPS_MAX = 65_536
const [plan] = (await once(process, 'message')) as [LoadPlan]
const load = plan.saga!
const session = await connect(`127.0.0.1:${plan.port}`, { service: 'bench', stepsMax: STEPS_MAX })
const flight = new Flight(plan)
const slots = Array.from(
  { length: plan.inFlight },
  (_, number) => new Slot(session, flight, load, orderOf(number, plan.bodyBytes)),
)
await session.registerHandlers({
  take: {
    action({ slot }: Order) {
      slots[slot]!.called()
      return RESULT
    },
    compensation() {},
  },
})
for (const slot of slots) slot.begin()
const measured = await flight.measured
// What was counted as done must be durable as completed.
for (const { lastId } of slots) {
  const { status } = await session.wait({ id: lastId })
  if (status !== 'completed') throw new Error(`${lastId} ended as ${status}`)
}
process.send?.(measured)
await once(process, 'disconnect')
await session.close()
process.exit()
