/** Versions of a definition side by side, and what a person sees of one. */
import { expect, test } from 'vitest'
import { defineSaga, definitionOf } from '../../../src/core/saga/define.ts'
import type { Migrations } from '../../../src/core/saga/migrate.ts'
import { migrateSaga } from '../../../src/core/saga/migrate.ts'
import type { Json } from '../../../src/core/saga/program.ts'
import { brief, done, drive, warehouse, warehouseSteps } from './machines.ts'

const step = (name: string) => ({ action: `a/${name}`, compensation: true }) as const

const define = (version: number, names: readonly string[], migrations: Migrations = {}) =>
  defineSaga({
    name: 'order',
    version,
    migrations,
    flow: (f) => names.map((name) => f.step(name, step(name))),
  })

const first = define(1, ['reserve', 'ship'])

test('a running saga is brought to another version, and goes on there', () => {
  const second = define(2, ['reserve', 'wrap', 'ship'], { 1: (state) => state })
  const [, turn] = [...drive(first.program, 'in', []), ...drive(first.program, 'in', [])]
  const stored = migrateSaga(first, second, turn?.state.persist() as Json, 'in')
  const next = second.program.next(second.program.restore(stored, 'in'), done('reserve'), {
    get: () => undefined,
  })
  expect(brief(next)).toEqual(['start wrap'])
})

test('a migration that loses or invents what runs is refused, and so is a missing one', () => {
  const running = drive(first.program, 'in', [])[0]?.state.persist() as Json
  const moved = define(2, ['reserve', 'wrap'], { 1: () => ({ value: 'wrap' }) })
  expect(() => migrateSaga(first, moved, running, 'in')).toThrow(
    'the steps that ran were reserve, and would be wrap',
  )
  expect(() => migrateSaga(first, define(3, ['reserve']), running, 'in')).toThrow(
    'has no migration from version 1',
  )
  const gone = define(2, ['wrap'], { 1: (state) => state })
  expect(() => migrateSaga(first, gone, running, 'in')).toThrow('does not fit this machine')
  for (const given of [undefined, 'wrap', {}, Promise.resolve(running)]) {
    const none = define(2, ['reserve'], { 1: () => given as Json })
    expect(() => migrateSaga(first, none, running, 'in')).toThrow('the migration gave')
  }
})

test('versions differ in their hash', () => {
  expect(define(2, ['reserve', 'ship']).program.hash).not.toBe(first.program.hash)
  expect(define(1, ['reserve', 'ship']).program.hash).toBe(first.program.hash)
})

test('a flow as a Mermaid diagram', () => {
  const saga = defineSaga({
    name: 'order',
    version: 1,
    flow: (f) => [
      f.step('reserve', step('reserve')),
      f.parallel(
        f.step('charge', step('charge')),
        f.step('check', { action: 'fraud/check', readOnly: true }),
      ),
      f.choice([{ when: () => true, flow: f.delay(250) }]),
      f.pivot('confirm', { action: 'orders/confirm' }),
      f.send('tell', { to: 'kafka:orders' }),
    ],
  })
  expect(saga.diagram()).toBe(`stateDiagram-v2
  [*] --> s_reserve
  state "reserve (a/reserve, undone by a/reserve)" as s_reserve
  s_reserve --> s_parallel_1 : done
  state "parallel-1" as s_parallel_1 {
    [*] --> s_parallel_1__charge__charge
    state "charge (a/charge, undone by a/charge)" as s_parallel_1__charge__charge
    s_parallel_1__charge__charge --> s_parallel_1__charge__done : done
    state "done" as s_parallel_1__charge__done
    s_parallel_1__charge__done --> [*]
    --
    [*] --> s_parallel_1__check__check
    state "check (fraud/check, not undone)" as s_parallel_1__check__check
    s_parallel_1__check__check --> s_parallel_1__check__done : done
    state "done" as s_parallel_1__check__done
    s_parallel_1__check__done --> [*]
  }
  s_parallel_1 --> s_choice_1 : done
  state "choice-1" as s_choice_1
  s_choice_1 --> s_delay_1 : [choice-1.1]
  s_choice_1 --> s_confirm
  state "delay-1" as s_delay_1
  s_delay_1 --> s_confirm : after 250 ms
  state "confirm (orders/confirm, pivot)" as s_confirm
  s_confirm --> s_tell : done
  state "tell (to kafka orders, retriable)" as s_tell
  s_tell --> s_completed : done
  state "completed" as s_completed
  s_completed --> [*]
  state "failed" as s_failed
  s_failed --> [*]
  note right of s_failed : from everywhere, a step failed
`)
})

test('a machine by hand as a diagram and as JSON of xstate', () => {
  const saga = definitionOf(warehouse, { name: 'warehouse', version: 1, steps: warehouseSteps })
  const diagram = saga.diagram()
  for (const line of [
    'state "last (deep history)" as s_working__last',
    's_working__again --> s_working__reserving : after patience',
    's_working__reserving --> s_lost : failed [tooOften]',
    's_paused --> s_working__last : resume',
  ])
    expect(diagram).toContain(line)
  const json = saga.xstateJson() as { id: string; states: Record<string, unknown> }
  expect(json.id).toBe('warehouse')
  expect(Object.keys(json.states)).toEqual(['working', 'paused', 'shipped', 'lost'])
})
