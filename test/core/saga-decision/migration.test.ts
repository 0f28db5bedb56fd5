/** Another version for a saga that runs: decided without the old definition, and refused without a trace. */
import { describe, expect, test } from 'vitest'
import type { SagaImage } from '../../../src/core/saga/image.ts'
import { sagaStatusOf } from '../../../src/core/saga/image.ts'
import type { Migrations } from '../../../src/core/saga/migrate.ts'
import type { Json, SagaProgram } from '../../../src/core/saga/program.ts'
import { ByteReader, ByteWriter } from '../../../src/store/binary.ts'
import { applySagaRecord, decodeSagaRecord, encodeSagaRecord } from '../../../src/store/saga-record.ts'
import { delay, type Flow, fakeProgram, policy, seq, signal, step } from './fake-program.ts'
import { Driven, head, outcome } from './fixtures.ts'

const [a, b, c] = [policy('a'), policy('b'), policy('c')]
const asItIs: Migrations = { 1: (state) => state }
const done = outcome('done')
const one = fakeProgram({ flow: seq(step('a'), step('b')), policies: [a, b] })
const two = (
  flow: Flow,
  policies: Parameters<typeof fakeProgram>[0]['policies'],
  migrations: Migrations = asItIs,
  signals: readonly string[] = [],
) => fakeProgram({ flow, policies, version: 2, migrations, signals })

/** Has `saga` migrated to `to`; what it ran under is gone. */
function migrated(saga: Driven, to: SagaProgram | undefined, version = 2): Driven {
  saga.moment = {
    ...saga.moment,
    program: (of) => (of.version === version ? to : undefined),
    definition: (name, asked) => (name === head.saga && asked === version ? to : undefined),
  }
  return saga.do({ type: 'migrateSaga', version })
}

/** The image as whoever reads the record of the last change has it. */
function recorded(before: SagaImage | undefined, after: SagaImage): SagaImage {
  const writer = new ByteWriter()
  encodeSagaRecord(writer, before, after)
  return applySagaRecord(before, decodeSagaRecord(new ByteReader(writer.copy(), 'a record')))
}

test('a saga goes on in the new version, though the old one is gone, and again after a restart', () => {
  const saga = new Driven(one).start()
  const before = saga.image as SagaImage
  migrated(saga, two(seq(step('a'), step('c')), [a, c]))
  expect(saga.image?.head).toMatchObject({ version: 2, hash: 'hash-2', executionId: head.executionId })
  saga.image = recorded(before, saga.image as SagaImage)
  saga.answer(1, done)
  expect(saga.state.executions.get(2)?.step).toBe('c')
  saga.answer(2, done)
  expect(saga.state.phase).toBe('completed')
})

test('a migration that is asked for again, and one to the version that runs, changes nothing', () => {
  const saga = migrated(new Driven(one).start(), two(seq(step('a')), [a]))
  const { image } = saga
  saga.do({ type: 'migrateSaga', version: 2 })
  expect([saga.last, saga.image === image]).toEqual([{ effects: [] }, true])
})

test('a signal that was kept is taken where the new version waits for it', () => {
  const waiting = seq(step('a'), signal('go'))
  const early = new Driven(fakeProgram({ flow: waiting, policies: [a, c], signals: ['go', 'stop'] }))
  early.start().do({ type: 'signalSaga', signal: 'stop', payload: '', signalId: '' })
  early.answer(1, done)
  expect([early.state.awaited, early.state.signals.length]).toEqual([['go'], 1])
  migrated(early, two(seq(step('a'), signal('stop'), step('c')), [a, c], asItIs, ['stop']))
  expect([early.state.signals, early.state.executions.get(2)?.step]).toEqual([[], 'c'])
})

describe('refused, and nothing changes', () => {
  const stateOf = (kept: object) => ({ 1: () => ({ counts: {}, over: '', ...kept }) as unknown as Json })
  const moved = stateOf({ running: { 1: 1 } })
  const invented = stateOf({ running: { 0: 1, 1: 1 } })
  const pivot = policy('a', { class: 'pivot' })
  const throwing: Migrations = {
    1: () => {
      throw new Error('no such shelf')
    },
  }
  const flow = seq(step('a'), step('c'))
  test.each<[string, SagaProgram | undefined, string, string]>([
    ['a version that is not here', undefined, 'unknownVersion', 'no version 2'],
    ['a version without a migration', two(flow, [a, c], {}), 'noMigration', 'no migration from version 1'],
    ['a step under way that is gone', two(flow, [c]), 'migrationFailed', 'step "a" is still needed'],
    [
      'a step that could not be undone any more',
      two(flow, [policy('a', { compensation: undefined }), c]),
      'migrationFailed',
      'has no compensation any more',
    ],
    ['a step that was sent, and would be the pivot', two(flow, [pivot, c]), 'migrationFailed', 'the pivot'],
    ['a migration that throws', two(flow, [a, c], throwing), 'migrationFailed', 'no such shelf'],
    ['one that loses what runs', two(flow, [a, c], moved), 'migrationFailed', 'were 0, and would be 1'],
    ['one that invents what runs', two(flow, [a, c], invented), 'migrationFailed', 'would be 0, 1'],
  ])('%s', (_, to, code, message) => {
    const saga = new Driven(one).start()
    const { image } = saga
    migrated(saga, to)
    expect(saga.last).toMatchObject({ effects: [], refused: { code } })
    expect(saga.last.refused?.message).toContain(message)
    expect(saga.image).toBe(image)
  })

  test('a timer that would run no more, or would be armed by nobody', () => {
    const timed = fakeProgram({ flow: seq(delay(10), step('a')), policies: [a] })
    const to = two(seq(step('a'), delay(10)), [a], stateOf({ running: { 1: 1 } }))
    const saga = migrated(new Driven(timed).start(), to)
    expect(saga.last.refused?.code).toBe('migrationFailed')
    const same = migrated(new Driven(timed).start(), two(seq(delay(99), step('a')), [a]))
    expect([same.last.refused, same.state.timers]).toMatchObject([undefined, [{ timer: '0' }]])
  })

  test('a state over its bound', () => {
    const saga = new Driven(one).start()
    saga.moment = { ...saga.moment, limits: { ...saga.moment.limits, contextBytesMax: 10 } }
    expect(migrated(saga, two(flow, [a, c])).last.refused?.message).toContain('contextBytesMax of 10')
  })

  test('a routing slip', () => {
    const saga = new Driven(one).start({ slip: '{}' })
    expect(migrated(saga, two(flow, [a, c])).last.refused?.code).toBe('unsupported')
  })
})

test('one that is undone keeps its machine, and is undone by the new version, whose migration is not called', () => {
  const saga = new Driven(one).start().answer(1, done).answer(2, outcome('refused'))
  expect(sagaStatusOf(saga.image as SagaImage)).toBe('compensating')
  const { machine } = saga.state
  const never: Migrations = {
    1: () => {
      throw new Error('called')
    },
  }
  const undo = { service: 'shop', step: 'un-a-better' }
  migrated(saga, two(step('a'), [policy('a', { compensation: undo })], never))
  expect([saga.image?.head.version, saga.state.machine]).toEqual([2, machine])
  saga.answer(1, done, 'compensation')
  expect(saga.state.phase).toBe('compensated')
})

test('one whose guard threw stays parked, and goes on in the new version when it is retried', () => {
  let isBroken = true
  const guard = (): void => {
    if (isBroken) throw new Error('broken')
  }
  const broken = fakeProgram({ flow: seq(step('a'), step('b')), policies: [a, b], guard })
  isBroken = false
  const saga = new Driven(broken).start()
  isBroken = true
  saga.answer(1, done)
  expect(saga.state.stuck).toContain('broken')
  migrated(saga, two(seq(step('a'), step('c')), [a, c]))
  expect([saga.image?.head.version, sagaStatusOf(saga.image as SagaImage)]).toEqual([2, 'parked'])
  saga.do({ type: 'retryExecution', executionId: head.executionId, acceptPossibleDuplicate: false })
  expect([saga.state.stuck, saga.state.executions.get(2)?.step]).toEqual(['', 'c'])
})
