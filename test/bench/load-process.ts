/** A service that prepares, commits and takes its own messages over one session: keeps so many transactions in flight. */
import { once } from 'node:events'
import { connect as connectTo } from 'node:net'
import { connect } from '../../src/participant/connect.ts'
import type { Session } from '../../src/participant/session.ts'
import { Flight, type LoadPlan } from './flight.ts'

/** One transaction after the other. What it needs for each is made once, so that the load costs little itself. */
class Slot {
  readonly #session: Session
  readonly #flight: Flight
  readonly #number: number
  readonly #request: { checker: string; messages: { destination: string; key: string; body: Buffer }[] }
  #open = 0
  lastId = ''

  constructor(session: Session, flight: Flight, number: number, { bodyBytes, broker }: LoadPlan) {
    this.#session = session
    this.#flight = flight
    this.#number = number
    const body = Buffer.alloc(bodyBytes, 'x')
    body.writeUInt32LE(number)
    const key = broker === undefined ? '' : String(number)
    const destination = broker?.destination ?? 'bench/take'
    this.#request = { checker: 'bench', messages: [{ destination, key, body }] }
  }

  begin(): void {
    this.#open = 2
    this.#flight.begun(this.#number)
    this.#session.prepare(this.#request).then(this.#prepared, fail)
  }

  readonly #prepared = ({ id }: { id: string }): void => {
    this.lastId = id
    this.#session.commit({ id }).then(this.part, fail)
  }

  /** The commit is acknowledged, or the message was taken, or has arrived at its broker: both end it. */
  readonly part = (): void => {
    this.#open -= 1
    if (this.#open > 0) return
    this.#flight.ended(this.#number)
    if (!this.#flight.isOver) this.begin()
  }
}

/** Hears of arrivals at a broker: frames of 16-bit numbers, their count first. */
async function hear(port: number): Promise<void> {
  const socket = connectTo({ host: '127.0.0.1', port })
  await once(socket, 'connect')
  let rest: Buffer = Buffer.alloc(0)
  socket.on('data', (bytes: Buffer) => {
    rest = rest.length === 0 ? bytes : Buffer.concat([rest, bytes])
    for (;;) {
      const end = rest.length < 2 ? Number.POSITIVE_INFINITY : 2 + 2 * rest.readUInt16LE(0)
      if (rest.length < end) return
      batches += 1
      for (let at = 2; at < end; at += 2) slots[rest.readUInt16LE(at)]!.part()
      rest = rest.subarray(end)
    }
  })
}

function fail(error: unknown): void {
  console.error(error)
  process.exit(1)
}

const [plan] = (await once(process, 'message')) as [LoadPlan]
const session = await connect(`127.0.0.1:${plan.port}`, { service: 'bench', deliveriesMax: plan.inFlight })
const flight = new Flight(plan)
const slots = Array.from({ length: plan.inFlight }, (_, number) => new Slot(session, flight, number, plan))
await session.registerChecker('bench', () => 'unknown')
await session.registerHandlers({
  take({ body }) {
    slots[body[0]! + body[1]! * 256]!.part()
  },
})
let batches = 0
if (plan.broker !== undefined) await hear(plan.broker.arrivalsPort)
for (const slot of slots) slot.begin()
const load = await flight.measured
// What was counted as delivered must be durable as delivered.
for (const { lastId } of slots) {
  const { status } = await session.wait({ id: lastId })
  if (status !== 'delivered') throw new Error(`${lastId} ended as ${status}`)
}
process.send?.({ ...load, batches })
await once(process, 'disconnect')
await session.close()
process.exit()
