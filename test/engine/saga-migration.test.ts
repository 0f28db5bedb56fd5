import { describe, expect, test } from 'vitest'
import type { Migrations } from '../../src/core/saga/migrate.ts'
import { doneWith } from './fake-step-outlet.ts'
import {
  bytes,
  endOf,
  executionsOf,
  introduceStep,
  openSagas,
  restartWith,
  sagaOf,
  startSaga,
  undoable,
  view,
} from './saga-world.ts'

const define = (version: number, last: readonly string[], migrations: Migrations = {}) =>
  sagaOf(
    (builders) => [
      undoable(builders, 'a'),
      builders.waitFor('go', { timeoutMs: 3_600_000, onTimeout: 'fail' }),
      ...last.map((name) => undoable(builders, name)),
    ],
    { version, migrations, signals: ['go'], output: ({ results }) => results('a') },
  )

const one = define(1, ['b'])
const asItIs: Migrations = { 1: (state) => state }
const two = define(2, ['c', 'd'], asItIs)

test('a saga that waits goes on in the new version, with the results of the old one, after a crash too', async () => {
  const world = await openSagas([one, two])
  world.steps.take = ({ step }) => doneWith(step)
  const id = await startSaga(world, { version: 1 })
  await world.clock.until(() => world.steps.names.length === 1)
  expect(await world.call('migrateSaga', { id, toVersion: 2 })).toEqual({ status: 'running' })
  expect((await view(world, id)).saga).toMatchObject({ version: 2, hash: two.program.hash })
  // What was answered is durable: the next coordinator doesn't even know the version that the saga began with.
  await restartWith(world, [two])
  expect((await view(world, id)).saga?.version).toBe(2)
  await world.call('signal', { id, signal: 'go' })
  const ended = await endOf(world, id)
  expect([ended.status, executionsOf(ended)]).toEqual(['completed', ['a done', 'c done', 'd done']])
  expect(Buffer.from(ended.saga?.output ?? []).toString()).toBe('"a"')
  expect(world.steps.names).toEqual(['a', 'c', 'd'])
})

test('a step under way is not called again, and its answer is told to the new version', async () => {
  const world = await openSagas([one, two])
  let isSilent = true
  world.steps.take = () => (isSilent ? 'silence' : doneWith(1))
  const id = await startSaga(world, { version: 1 })
  await world.clock.until(() => world.steps.names.length === 1)
  await world.call('signal', { id, signal: 'go' })
  await world.call('migrateSaga', { id, toVersion: 2 })
  isSilent = false
  const ended = await endOf(world, id)
  expect([ended.status, executionsOf(ended)]).toEqual(['completed', ['a done', 'c done', 'd done']])
})

test('a saga that is held for want of its definition is freed by a migration', async () => {
  const world = await openSagas([one])
  const id = await startSaga(world)
  await world.clock.until(() => world.steps.names.length === 1)
  await introduceStep(world, 'shop', 'c')
  await introduceStep(world, 'shop', 'd')
  await restartWith(world, [two])
  expect(await world.codeOf('signal', { id, signal: 'go' })).toBe('definitionMissing')
  await world.call('migrateSaga', { id, toVersion: 2 })
  await world.call('signal', { id, signal: 'go' })
  expect((await endOf(world, id)).status).toBe('completed')
})

test('forward, back, and once more: each is the same when it is repeated', async () => {
  const back = define(1, ['b'], { 2: (state) => state })
  const world = await openSagas([back, two])
  const id = await startSaga(world, { version: 1 })
  await world.clock.until(() => world.steps.names.length === 1)
  for (const toVersion of [2, 2, 1, 1, 2]) {
    expect(await world.call('migrateSaga', { id, toVersion })).toEqual({ status: 'running' })
    expect((await view(world, id)).saga?.version).toBe(toVersion)
  }
})

describe('a migration is refused, and the saga goes on as it was', () => {
  const throwing = define(3, ['b'], {
    1: () => {
      throw new Error('no such shelf')
    },
  })
  const elsewhere = define(4, ['b'], { 1: () => ({ value: 'b' }) })
  const unrelated = define(5, ['b'])
  test.each([
    ['to a version that is not here', 9, 'unknownVersion'],
    ['to version 0', 0, 'invalidArgument'],
    ['to a half', 1.5, 'invalidArgument'],
    ['by a function that throws', 3, 'migrationFailed'],
    ['by one that moves it to where it is not', 4, 'migrationFailed'],
    ['where none is declared', 5, 'noMigration'],
  ])('%s', async (_, toVersion, code) => {
    const world = await openSagas([one, two, throwing, elsewhere, unrelated])
    const id = await startSaga(world, { version: 1 })
    await world.clock.until(() => world.steps.names.length === 1)
    await world.clock.advance(10)
    expect(await world.codeOf('migrateSaga', { id, toVersion })).toBe(code)
    await world.call('signal', { id, signal: 'go' })
    const ended = await endOf(world, id)
    expect([ended.status, ended.saga?.version]).toEqual(['completed', 1])
    expect(await world.codeOf('migrateSaga', { id, toVersion: 2 })).toBe('alreadyEnded')
  })

  test('of a saga that nobody knows, and of a routing slip', async () => {
    const world = await openSagas([one, two])
    world.steps.take = () => 'silence'
    expect(await world.codeOf('migrateSaga', { id: 'nope', toVersion: 2 })).toBe('notFound')
    const slip = bytes({ steps: [{ name: 'a', action: 'shop/a', compensation: true }] })
    const id = await startSaga(world, { saga: '', slip })
    expect(await world.codeOf('migrateSaga', { id, toVersion: 2 })).toBe('unsupported')
  })
})
