/** Machines and flows that several tests of sagas drive. */
import { and, assign, cancel, not, raise, setup, stateIn } from 'xstate'
import type { Json, SagaEvent, SagaProgram, StepResults, Turn } from '../../../src/core/saga/program.ts'
import type { StandardSchema } from '../../../src/core/saga/schema.ts'
import { type AnyStateMachine, stepLogic } from '../../../src/core/saga/statechart.ts'

/** A validator that takes what `accepts` does. */
export const schemaOf = <Value>(
  accepts: (value: unknown) => boolean = () => true,
): StandardSchema<unknown, Value> => ({
  '~standard': {
    version: 1,
    vendor: 'test',
    validate: (value) =>
      accepts(value) ? { value: value as Value } : { issues: [{ message: 'not accepted', path: ['field'] }] },
  },
})

export const done = (invocation: string, result?: Json): SagaEvent => ({
  type: 'stepDone',
  invocation,
  result,
})
export const failed = (invocation: string, code = 'refused'): SagaEvent => ({
  type: 'stepFailed',
  invocation,
  error: { code, message: `${invocation} was refused` },
})
export const timer = (name: string): SagaEvent => ({ type: 'timer', timer: name })
export const signal = (name: string, payload?: Json): SagaEvent => ({ type: 'signal', signal: name, payload })

/** Drives a program through events, each from a state that was stored and restored; gives every turn. */
export function drive(
  program: SagaProgram,
  input: Json | undefined,
  events: readonly SagaEvent[],
): readonly Turn[] {
  const values = new Map<string, Json | undefined>()
  const results: StepResults = { get: (step) => values.get(step) }
  const turns = [program.start(input)]
  for (const event of events) {
    const { state } = turns.at(-1) as Turn
    const stored = JSON.parse(JSON.stringify(state.persist())) as Json
    turns.push(program.next(program.restore(stored, input), event, results))
    if (event.type === 'stepDone') values.set(event.invocation, event.result)
  }
  return turns
}

/** Effects in few words. */
export function brief({ effects }: Turn): readonly string[] {
  return effects.map((effect) => {
    switch (effect.type) {
      case 'startStep':
        return `start ${effect.invocation}`
      case 'stopStep':
        return `stop ${effect.invocation}`
      case 'startTimer':
        return `arm ${effect.timer} ${effect.delayMs}`
      default:
        return `disarm ${effect.timer}`
    }
  })
}

const actors = {
  reserve: stepLogic(),
  charge: stepLogic(),
  scan: stepLogic(),
  pack: stepLogic(),
  ship: stepLogic(),
}

/** Nested parallel states, deep history, `after`, `always`, guards, a delayed raise: by hand, in plain xstate. */
export const warehouse: AnyStateMachine = setup({
  types: {} as { context: { tries: number; isFragile: boolean }; input: { isFragile: boolean } },
  actors,
  guards: { isFragile: ({ context }) => context.isFragile, tooOften: ({ context }) => context.tries >= 2 },
  actions: {
    count: assign({ tries: ({ context }) => context.tries + 1 }),
    remind: raise({ type: 'reminded' }, { delay: 500, id: 'reminder' }),
    forget: cancel('reminder'),
  },
  delays: { patience: ({ context }) => 1_000 * (context.tries + 1) },
}).createMachine({
  id: 'warehouse',
  context: ({ input }) => ({ tries: 0, isFragile: input.isFragile }),
  initial: 'working',
  states: {
    working: {
      initial: 'reserving',
      on: { pause: 'paused', giveUp: '#warehouse.lost' },
      states: {
        reserving: {
          invoke: {
            src: 'reserve',
            input: ({ context }) => ({ tries: context.tries }),
            onDone: 'preparing',
            onError: [
              { guard: 'tooOften', target: '#warehouse.lost' },
              { target: 'again', actions: 'count' },
            ],
          },
        },
        again: { after: { patience: 'reserving' } },
        preparing: {
          type: 'parallel',
          onDone: 'sorting',
          states: {
            money: {
              initial: 'charging',
              states: {
                charging: { invoke: { id: 'charge', src: 'charge', onDone: 'charged' } },
                charged: { type: 'final' },
              },
            },
            goods: {
              type: 'parallel',
              states: {
                scanner: {
                  initial: 'scanning',
                  states: {
                    scanning: { invoke: { src: 'scan', onDone: 'scanned' } },
                    scanned: { type: 'final' },
                  },
                },
                packer: {
                  initial: 'packing',
                  entry: 'remind',
                  exit: 'forget',
                  states: {
                    packing: {
                      invoke: { src: 'pack', onDone: 'packed' },
                      on: { reminded: { actions: 'count' } },
                    },
                    packed: { type: 'final' },
                  },
                },
              },
            },
          },
        },
        sorting: {
          always: [
            { guard: and(['isFragile', not('tooOften')]), target: 'careful' },
            { guard: stateIn('#warehouse.working.sorting'), target: 'shipping' },
          ],
        },
        careful: { after: { 250: 'shipping' } },
        shipping: { invoke: { src: 'ship', onDone: '#warehouse.shipped' } },
        last: { type: 'history', history: 'deep' },
      },
    },
    paused: { on: { resume: 'working.last' }, after: { 60000: 'lost' } },
    shipped: { type: 'final' },
    lost: { type: 'final', tags: ['failed'] },
  },
  output: ({ context }) => ({ tries: context.tries }),
})

/** How the warehouse's steps are called. */
export const warehouseSteps = {
  reserve: { action: 'stock/reserve', compensation: true },
  charge: { action: 'payments/charge', compensation: 'payments/refund' },
  scan: { action: 'stock/scan', readOnly: true },
  pack: { action: 'stock/pack', compensation: true },
  ship: { action: 'shipping/ship', compensation: true },
} as const

/** A counter that loops by `always`, and shallow history. */
export const looping: AnyStateMachine = setup({
  types: {} as { context: { n: number } },
  actors,
  guards: { more: ({ context }) => context.n < 5 },
  actions: { add: assign({ n: ({ context }) => context.n + 1 }) },
}).createMachine({
  id: 'looping',
  context: { n: 0 },
  initial: 'counting',
  states: {
    counting: {
      always: [{ guard: 'more', target: 'counting', actions: 'add', reenter: true }, { target: 'asking' }],
    },
    asking: {
      invoke: {
        src: 'scan',
        onDone: { target: 'asking', reenter: true, guard: ({ event }) => event.output === 'again' },
      },
      initial: 'quiet',
      after: { 100: 'over' },
      states: {
        quiet: { on: { poke: 'loud' } },
        loud: { always: { target: 'quiet', actions: 'add' } },
        back: { type: 'history' },
      },
      on: { over: 'over', again: { target: '.back', actions: 'add' } },
    },
    over: { type: 'final' },
  },
})
