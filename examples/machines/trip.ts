/**
 * A saga that is written by hand, in plain xstate: a trip is booked, paid and ticketed, or everything is undone.
 *
 * Each invoke names a step of a participant, and the `meta` of its state says how it is undone. What stands here is what
 * xstate's own tools read; what makes it durable is the coordinator that drives it.
 */
import { assign, setup } from 'xstate'
import { definitionOf, type SagaAttributes, stepLogic, untilDone } from '../../src/index.ts'

/** What a saga of this definition is started with. */
export interface Trip {
  readonly name: string
  readonly price: number
  readonly budget: number
  readonly card: 'good' | 'declined'
  /** The hotel is full when it is asked for the first time, for the second time, … */
  readonly fullTimes: number
  /** How long to wait before a hotel that was full is asked again, and how long the customer's hold lasts. */
  readonly askAgainMs: number
  readonly holdMs: number
}

/** What it gives once it is completed. */
export interface Booked {
  readonly room: string
  readonly tickets: string
}

interface Context {
  readonly trip: Trip
  readonly asked: number
  readonly room: string
  readonly tickets: string
}

const machine = setup({
  types: {} as { context: Context; input: Trip; output: Booked },
  actors: {
    'fly-out': stepLogic<string, Trip>(),
    'fly-back': stepLogic<string, Trip>(),
    'rent-car': stepLogic<string, Trip>(),
    'book-hotel': stepLogic<string, Trip & { readonly asked: number }>(),
    'check-visa': stepLogic<boolean, Trip>(),
    pay: stepLogic<string, Trip>(),
    'issue-tickets': stepLogic<string, Trip>(),
  },
  guards: {
    isFull: ({ context, event }) =>
      (event as { error?: { code?: string } }).error?.code === 'full' && context.asked < 3,
    isOverBudget: ({ context }) => context.trip.price > context.trip.budget,
  },
  // Search attributes: the coordinator takes this action by its name.
  actions: { setAttributes: (_, _attributes: SagaAttributes) => {} },
  delays: {
    askAgain: ({ context }) => context.trip.askAgainMs,
    hold: ({ context }) => context.trip.holdMs,
  },
}).createMachine({
  id: 'trip',
  context: ({ input }) => ({ trip: input, asked: 0, room: '', tickets: '' }),
  initial: 'planning',
  states: {
    planning: {
      initial: 'booking',
      states: {
        booking: {
          type: 'parallel',
          after: { 600000: '#trip.failed' },
          onDone: 'reviewing',
          states: {
            flights: {
              initial: 'out',
              states: {
                out: {
                  invoke: { src: 'fly-out', input: ({ context }) => context.trip, onDone: 'back' },
                  meta: { compensation: true },
                },
                back: {
                  invoke: { src: 'fly-back', input: ({ context }) => context.trip, onDone: 'booked' },
                  meta: { compensation: true },
                },
                booked: { type: 'final' },
              },
            },
            papers: {
              initial: 'checking',
              states: {
                checking: {
                  invoke: { src: 'check-visa', input: ({ context }) => context.trip, onDone: 'fine' },
                  meta: { readOnly: true },
                },
                fine: { type: 'final' },
              },
            },
            ground: {
              type: 'parallel',
              states: {
                car: {
                  initial: 'renting',
                  states: {
                    renting: {
                      invoke: { src: 'rent-car', input: ({ context }) => context.trip, onDone: 'rented' },
                      meta: { compensation: 'cars/return-car' },
                    },
                    rented: { type: 'final' },
                  },
                },
                hotel: {
                  initial: 'asking',
                  states: {
                    asking: {
                      entry: assign({ asked: ({ context }) => context.asked + 1 }),
                      invoke: {
                        src: 'book-hotel',
                        input: ({ context }) => ({ ...context.trip, asked: context.asked }),
                        onDone: { target: 'booked', actions: assign({ room: ({ event }) => event.output }) },
                        onError: [{ guard: 'isFull', target: 'full' }, { target: '#trip.failed' }],
                      },
                      meta: { compensation: true },
                    },
                    full: {
                      after: { askAgain: 'asking' },
                      // The customer may think it over; what was under way elsewhere begins again afterwards.
                      on: { hold: '#trip.onHold' },
                    },
                    booked: { type: 'final' },
                  },
                },
              },
            },
          },
        },
        asBefore: { type: 'history', history: 'deep' },
        reviewing: { always: [{ guard: 'isOverBudget', target: '#trip.failed' }, { target: 'paying' }] },
        paying: {
          invoke: {
            src: 'pay',
            input: ({ context }) => context.trip,
            onDone: '#trip.ticketing',
            onError: '#trip.failed',
          },
          meta: { pivot: true },
        },
      },
    },
    onHold: {
      entry: { type: 'setAttributes', params: { tags: { held: 'yes' } } },
      after: { hold: 'planning.asBefore' },
      on: { resume: 'planning.asBefore' },
    },
    ticketing: {
      invoke: {
        src: 'issue-tickets',
        input: ({ context }) => context.trip,
        onDone: { target: 'ready', actions: assign({ tickets: ({ event }) => event.output }) },
      },
    },
    ready: { type: 'final' },
    failed: { type: 'final', tags: ['failed'] },
  },
  output: ({ context }) => ({ room: context.room, tickets: context.tickets }),
})

/** All of these answer within a second; the tickets are issued whatever it takes, as everything behind the pivot. */
const soon = { attemptTimeoutMs: 1_000, retry: { delayMs: 50, delayMsMax: 1_000 } }

/** The machine as a saga: where its steps are, and how they are called. */
export const bookTrip = definitionOf<Trip>(machine, {
  name: 'book-trip',
  version: 1,
  attributes: ({ name }) => ({ businessKey: name }),
  steps: {
    'fly-out': { action: 'flights/fly-out', ...soon },
    'fly-back': { action: 'flights/fly-back', ...soon },
    'rent-car': { action: 'cars/rent-car', ...soon },
    'book-hotel': { action: 'hotels/book-hotel', ...soon },
    'check-visa': { action: 'papers/check-visa', ...soon },
    pay: { action: 'payments/pay', ...soon },
    'issue-tickets': { action: 'flights/issue-tickets', ...soon, retry: untilDone },
  },
})
