/** Those whose steps a trip calls: each takes a while, the hotel may be full, and the card may be declined. */
import { setTimeout as pause } from 'node:timers/promises'
import { type ConnectOptions, participant, refuse, type Session, type Step } from '../../src/index.ts'
import type { Ledger } from './ledger.ts'
import type { Trip } from './trip.ts'

/** How long each step takes, in milliseconds. */
const TAKES_MS: Readonly<Record<string, number>> = {
  'fly-out': 20,
  'fly-back': 20,
  'rent-car': 80,
  'return-car': 80,
  'book-hotel': 120,
  'check-visa': 200,
}

/** Connects them all to a coordinator. */
export async function connectParticipants(
  target: string,
  ledger: Ledger,
  options: Omit<ConnectOptions, 'service'> = {},
): Promise<readonly Session[]> {
  const step = (given: Partial<Step<Trip, string>> = {}): Step<Trip, string> => ({
    async action(trip, call) {
      await pause(TAKES_MS[call.step] ?? 10)
      return ledger.act(call, trip.name, `${call.step} of ${trip.name}`)
    },
    ...given,
  })
  const undo: Step<Trip, string>['compensation'] = async (trip, _, call) => {
    await pause(TAKES_MS[call.step] ?? 10)
    ledger.undo(call, trip.name)
  }
  const undone = (given: Partial<Step<Trip, string>> = {}) => step({ compensation: undo, ...given })
  const hotel = undone({
    async action(trip: Trip & { asked?: number }, call) {
      await pause(TAKES_MS[call.step])
      if ((trip.asked ?? 0) <= trip.fullTimes) throw refuse('no room is left', 'full')
      return ledger.act(call, trip.name, 'room 7')
    },
  })
  const pay = step({
    async action(trip, call) {
      await pause(20)
      if (trip.card === 'declined') throw refuse('the card is declined', 'declined')
      return ledger.act(call, trip.name, 'paid')
    },
  })
  const visa: Step<Trip, boolean> = {
    async action(_, call) {
      await pause(TAKES_MS[call.step])
      return true
    },
  }
  const services = {
    flights: { 'fly-out': undone(), 'fly-back': undone(), 'issue-tickets': step() },
    cars: { 'rent-car': step(), 'return-car': { compensation: undo } },
    hotels: { 'book-hotel': hotel },
    papers: { 'check-visa': visa },
    payments: { pay },
  }
  return await Promise.all(
    Object.entries(services).map(([service, steps]) =>
      participant(service, steps, { barrier: ledger }).connect(target, options),
    ),
  )
}
