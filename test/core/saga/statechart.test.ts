/** The driven machine against xstate's public pure functions: an upgrade of xstate that breaks it is seen here. */

import { expect, test } from 'vitest'
import { type ExecutableActionsFrom, initialTransition, setup, transition } from 'xstate'
import { callsOf } from '../../../src/core/saga/chart-graph.ts'
import { definitionOf } from '../../../src/core/saga/define.ts'
import type { Json, SagaEvent } from '../../../src/core/saga/program.ts'
import {
  type AnyStateMachine,
  compileMachine,
  isMachine,
  Statechart,
  stepLogic,
} from '../../../src/core/saga/statechart.ts'
import { brief, done, drive, failed, looping, signal, timer, warehouse, warehouseSteps } from './machines.ts'

interface Story {
  readonly title: string
  readonly machine: AnyStateMachine
  readonly input: Json
  readonly events: readonly SagaEvent[]
}

const preparing = 'working.preparing'
const scan = `${preparing}.goods.scanner.scanning`
const pack = `${preparing}.goods.packer.packing`
const patience = 'xstate.after.patience.warehouse.working.again'
const careful = 'xstate.after.250.warehouse.working.careful'

const stories: readonly Story[] = [
  {
    title: 'straight through nested parallel states',
    machine: warehouse,
    input: { isFragile: false },
    events: [done('working.reserving', 7), done(scan), done('charge'), done(pack), done('working.shipping')],
  },
  {
    title: 'failing twice, with a delay that a function gives, then for good',
    machine: warehouse,
    input: { isFragile: true },
    events: [
      failed('working.reserving'),
      timer(patience),
      failed('working.reserving'),
      timer(patience),
      failed('working.reserving'),
    ],
  },
  {
    title: 'pausing within nested regions and coming back by deep history',
    machine: warehouse,
    input: { isFragile: true },
    events: [
      done('working.reserving'),
      done('charge'),
      done(scan),
      signal('pause'),
      signal('unheard', 1),
      signal('resume'),
      timer('reminder'),
      done(pack),
      timer(careful),
      done('working.shipping'),
    ],
  },
  {
    title: 'a failure that nothing handles',
    machine: warehouse,
    input: { isFragile: true },
    events: [done('working.reserving'), failed('charge')],
  },
  {
    title: 'always in a loop, reentry, and shallow history',
    machine: looping,
    input: null,
    events: [
      signal('poke'),
      signal('again'),
      done('asking', 'again'),
      timer('xstate.after.100.looping.asking'),
    ],
  },
]

/** What xstate itself calls the same invoke. */
function ownIds(machine: AnyStateMachine): ReadonlyMap<string, string> {
  return new Map(callsOf(machine).map(({ id, node }) => [id, node.invoke[0]?.id ?? id] as const))
}

function publicEvent(
  event: SagaEvent,
  ids: ReadonlyMap<string, string>,
): { type: string } & Record<string, unknown> {
  switch (event.type) {
    case 'stepDone':
    case 'stepFailed': {
      const id = ids.get(event.invocation) ?? ''
      return event.type === 'stepDone'
        ? { type: `xstate.done.actor.${id}`, output: event.result, actorId: id }
        : { type: `xstate.error.actor.${id}`, error: event.error, actorId: id }
    }
    case 'timer':
      return { type: event.timer === 'reminder' ? 'reminded' : event.timer }
    default:
      return { type: event.signal, payload: event.payload }
  }
}

/** xstate's actions in our words. `over` are the ids that the event itself ended, or that ended before. */
function publicEffects(
  actions: readonly ExecutableActionsFrom<AnyStateMachine>[],
  ids: ReadonlyMap<string, string>,
  over: Set<string>,
): readonly string[] {
  const ours = (id: string) => [...ids].find(([, own]) => own === id)?.[0] ?? id
  const effects: string[] = []
  for (const { type, params: untyped } of actions as readonly { type: string; params: unknown }[]) {
    const params = (untyped ?? {}) as { id: string; delay?: number; sendId: string }
    if (type === 'xstate.spawnChild') effects.push(`start ${ours(params.id)}`)
    if (type === 'xstate.raise' && params.delay !== undefined)
      effects.push(`arm ${params.id} ${params.delay}`)
    const stopped = type === 'xstate.stopChild' ? ours(params.id) : params.sendId
    if (type === 'xstate.stopChild' && !over.delete(stopped)) effects.push(`stop ${stopped}`)
    if (type === 'xstate.cancel' && !over.delete(stopped)) effects.push(`disarm ${stopped}`)
  }
  return effects.sort()
}

const sorted = (history: Record<string, string[]>) =>
  Object.fromEntries(Object.entries(history).map(([id, nodes]) => [id, nodes.toSorted()]))

test.each(stories)('$title: the same snapshots and actions as xstate', ({ machine, input, events }) => {
  const chart = new Statechart(machine)
  const ids = ownIds(machine)
  const over = new Set<string>()
  let turn = chart.start(input)
  let [snapshot, actions] = initialTransition(machine, input)
  expect([...brief(turn)].sort()).toEqual(publicEffects(actions, ids, over))
  for (const event of events) {
    const ended = event.type === 'timer' ? event.timer : event.type === 'signal' ? '' : event.invocation
    over.add(ended)
    // From the stored form, so that restoring is compared as well.
    const stored = JSON.parse(JSON.stringify(turn.state.persist())) as Json
    turn = chart.next(chart.restore(stored, input), event)
    ;[snapshot, actions] = transition(machine, snapshot, publicEvent(event, ids))
    const kept = turn.state.persist() as { value: Json; context?: Json; history?: Record<string, string[]> }
    expect(kept.value).toEqual(snapshot.value)
    expect(kept.context ?? {}).toEqual(snapshot.context)
    const history = Object.entries(snapshot.historyValue as Record<string, { id: string }[]>)
    expect(sorted(kept.history ?? {})).toEqual(
      sorted(Object.fromEntries(history.map(([id, nodes]) => [id, nodes.map((node) => node.id)]))),
    )
    const isFailed = snapshot.status === 'error' || snapshot.hasTag('failed')
    expect(turn.status).toBe(isFailed ? 'failed' : snapshot.status === 'done' ? 'completed' : 'active')
    if (turn.status === 'completed') expect(turn.output).toEqual(snapshot.output)
    // Beyond xstate's own actions, the timers of a flow that an unhandled error ended are stopped too.
    const theirs = publicEffects(actions, ids, over)
    if (snapshot.status === 'error') expect(brief(turn)).toEqual(expect.arrayContaining([...theirs]))
    else expect([...brief(turn)].sort()).toEqual(theirs)
  }
})

test('a machine by hand with nested parallel states, history and after is driven to its end', () => {
  const { program } = definitionOf(warehouse, { name: 'warehouse', version: 1, steps: warehouseSteps })
  const turns = drive(
    program,
    { isFragile: true },
    (stories[2]?.events ?? []).filter((event) => event.type !== 'signal' || event.signal !== 'unheard'),
  )
  expect(turns.map(brief)).toEqual([
    ['start working.reserving'],
    ['start charge', `start ${scan}`, 'arm reminder 500', `start ${pack}`],
    [],
    [],
    [`stop ${pack}`, 'disarm reminder', 'arm xstate.after.60000.warehouse.paused 60000'],
    ['disarm xstate.after.60000.warehouse.paused', 'arm reminder 500', `start ${pack}`],
    [],
    [`arm ${careful} 250`],
    ['start working.shipping'],
    [],
  ])
  expect(turns.at(-1)).toMatchObject({ status: 'completed', output: { tries: 1 } })
  expect([...program.signals]).toEqual(['pause', 'giveUp', 'reminded', 'resume'])
})

test('each entry into a parallel state is told apart', () => {
  const { program } = definitionOf(warehouse, { name: 'warehouse', version: 1, steps: warehouseSteps })
  const turns = drive(program, { isFragile: true }, [
    done('working.reserving'),
    signal('pause'),
    signal('resume'),
  ])
  const branches = turns.map(({ effects }) =>
    effects.flatMap((effect) =>
      effect.type === 'startStep' && effect.step === 'pack' ? [effect.branch] : [],
    ),
  )
  const [outer, inner] = ['working.preparing', 'working.preparing.goods']
  expect(branches).toEqual([
    [],
    [
      [
        { parallel: outer, entry: 1, region: 'goods' },
        { parallel: inner, entry: 2, region: 'packer' },
      ],
    ],
    [],
    [
      [
        { parallel: outer, entry: 3, region: 'goods' },
        { parallel: inner, entry: 4, region: 'packer' },
      ],
    ],
  ])
})

test('a turn says which kept signals would be taken', () => {
  const [turn] = drive(
    definitionOf(warehouse, { name: 'warehouse', version: 1, steps: warehouseSteps }).program,
    { isFragile: true },
    [],
  )
  expect(turn?.takes('pause')).toBe(true)
  expect(turn?.takes('resume')).toBe(false)
})

test.each(['xstate.done.actor.charge', 'xstate.init', 'escrow.startStep'])(
  'the signal %s is refused',
  (name) => {
    const chart = new Statechart(warehouse)
    const { state } = chart.start({ isFragile: true })
    expect(() => chart.next(state, signal(name))).toThrow(expect.objectContaining({ code: 'unknownSignal' }))
  },
)

test('an always that guards never end is cut off, and throws', () => {
  const circle = compileMachine(
    {
      id: 'circle',
      initial: 'a',
      context: {},
      states: {
        a: { on: { go: 'b' } },
        b: { always: { guard: 'yes', target: 'c' } },
        c: { always: { guard: 'yes', target: 'b' } },
      },
    },
    { guards: { yes: () => true }, actions: {}, actors: {} },
  )
  expect(isMachine(circle)).toBe(true)
  const chart = new Statechart(circle)
  expect(() => chart.next(chart.start(null).state, signal('go'))).toThrow('Infinite loop')
})

const error = new RangeError('of the guard')
const bad = () => {
  throw error
}

test.each([
  ['named', 'bad'],
  ['inline', bad],
])('what a guard (%s) throws comes out as it was, and the state before it stands', (_kind, guard) => {
  const throwing = compileMachine(
    {
      id: 'throwing',
      initial: 'a',
      context: {},
      states: { a: { on: { go: { guard, target: 'b' } } }, b: {} },
    },
    { guards: { bad }, actions: {}, actors: {} },
  )
  const chart = new Statechart(throwing)
  const { state } = chart.start(null)
  expect(() => chart.next(state, signal('go'))).toThrow(expect.toSatisfy((thrown) => thrown === error))
  expect(chart.next(state, signal('other')).state.persist()).toEqual({ value: 'a', context: {} })
})

test('a context that is no JSON is refused with its path', () => {
  const keeping = (value: unknown) =>
    new Statechart(
      compileMachine(
        { id: 'keeping', context: { value }, initial: 'a', states: { a: {} } },
        { guards: {}, actions: {}, actors: {} },
      ),
    )
  expect(() => keeping(new Map()).start(null)).toThrow('the context of the machine at value is a Map')
})

test('a stored state that does not fit the machine is refused', () => {
  const chart = new Statechart(looping)
  expect(() => chart.restore({ value: 'gone', context: {} }, null)).toThrow(
    expect.objectContaining({ code: 'invalidArgument' }),
  )
})

test('a machine by hand sets search attributes by an action', () => {
  const machine = setup({
    actors: { scan: stepLogic() },
    types: {} as { input: { key: string } },
  }).createMachine({
    id: 'tagged',
    initial: 'scanning',
    context: ({ input }: { input: { key: string } }) => ({ key: input.key }),
    entry: {
      type: 'setAttributes',
      params: ({ context }: { context: { key: string } }) => ({ businessKey: context.key }),
    },
    states: {
      scanning: {
        invoke: { src: 'scan', onDone: 'over' },
        exit: { type: 'setAttributes', params: { tags: { scanned: 'yes' } } },
      },
      over: { type: 'final' },
    },
  } as never) as unknown as AnyStateMachine
  const definition = definitionOf(machine, {
    name: 'tagged',
    version: 1,
    steps: { scan: { action: 'a/scan', readOnly: true } },
  })
  const turns = drive(definition.program, { key: 'k' }, [done('scanning')])
  expect(turns.map(({ attributes }) => attributes)).toEqual([
    { businessKey: 'k' },
    { tags: { scanned: 'yes' } },
  ])
})

test('a flow that ends by a deadline says which', () => {
  const machine = setup({}).createMachine({
    id: 'late',
    initial: 'waiting',
    states: { waiting: { after: { 50: 'lost' } }, lost: { type: 'final', tags: 'failed' } },
  }) as unknown as AnyStateMachine
  const turns = drive(definitionOf(machine, { name: 'late', version: 1, steps: {} }).program, null, [
    timer('xstate.after.50.late.waiting'),
  ])
  expect(turns.at(-1)).toMatchObject({ status: 'failed', error: 'waiting: 50 ms passed (lost)', effects: [] })
})
