/** Random flows among random faults, judged by what the participants were called for and what they did. */
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type SagaImage, sagaStatusOf } from '../../../src/core/saga/image.ts'
import { outstandingOfSaga } from '../../../src/core/saga/outstanding.ts'
import type { Branch } from '../../../src/core/saga/program.ts'
import { ByteReader, ByteWriter } from '../../../src/store/binary.ts'
import {
  applySagaRecord,
  decodeSagaImage,
  decodeSagaRecord,
  encodeSagaImage,
  encodeSagaRecord,
} from '../../../src/store/saga-record.ts'
import {
  all,
  attempt,
  delay,
  type Flow,
  fakeProgram,
  loop,
  policy,
  seq,
  signal,
  step,
} from './fake-program.ts'
import { World } from './world.ts'

const undoable = ['a', 'b', 'c', 'd']
const policies = [
  ...undoable.map((name) => policy(name, name === 'd' ? { stepTimeoutMs: 90 } : {})),
  policy('idle', { class: 'irreversible', compensation: undefined }),
  policy('pivot', { class: 'pivot', compensation: undefined }),
  policy('ship', { class: 'retriable', compensation: undefined }),
  policy('notice', { class: 'retriable', compensation: undefined, destination: 'kafka:notices' }),
]

const leaf: fc.Arbitrary<Flow> = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(...undoable, 'idle').map((name) => step(name)) },
  { weight: 1, arbitrary: fc.constantFrom(...undoable).map((name) => step(name, 40)) },
  { weight: 1, arbitrary: fc.constant(signal('go')) },
  { weight: 1, arbitrary: fc.constant(delay(30)) },
)
const { tree } = fc.letrec<{ tree: Flow }>((tie) => ({
  tree: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    leaf,
    fc.array(tie('tree'), { minLength: 1, maxLength: 4 }).map((flows) => seq(...flows)),
    fc.array(tie('tree'), { minLength: 2, maxLength: 3 }).map((flows) => all(...flows)),
    fc.tuple(tie('tree'), tie('tree')).map(([one, other]) => attempt(one, other)),
    tie('tree').map((flow) => loop(2, flow)),
  ),
}))
const flow: fc.Arbitrary<Flow> = fc
  .tuple(tree, fc.boolean(), fc.array(fc.constantFrom('ship', 'notice', 'a'), { maxLength: 2 }))
  .map(([before, hasPivot, after]) =>
    hasPivot ? seq(before, step('pivot'), ...after.map((name) => step(name))) : before,
  )

/** What a store gives back for an image that it was given as a record, and as a row now and then. */
const reread = (before: SagaImage | undefined, after: SagaImage): SagaImage => {
  const writer = new ByteWriter()
  encodeSagaRecord(writer, before, after)
  const applied = applySagaRecord(before, decodeSagaRecord(new ByteReader(writer.copy(), 'test')))
  if (after.state.places % 3 !== 0) return applied
  writer.truncate()
  encodeSagaImage(writer, applied, { bodies: true })
  return decodeSagaImage(writer.copy())
}

function run(of: Flow, seed: number, chaos: number, check: (world: World) => void): void {
  let world: World | undefined
  const guard = (): void => {
    if (world?.isBroken === true) throw new Error('a guard of the user')
  }
  world = new World(fakeProgram({ flow: of, policies, signals: ['go'], guard }), seed, reread)
  for (let left = chaos; left > 0 && !world.isOver; left--) world.chaos()
  for (let left = 300; left > 0 && !world.isOver; left--) world.calm()
  check(world)
}

const always = (check: (world: World) => void, numRuns = 1_000): void =>
  fc.assert(
    fc.property(flow, fc.integer(), fc.constantFrom(0, 20, 60, 150), (of, seed, chaos) =>
      run(of, seed, chaos, check),
    ),
    { numRuns },
  )

const executionsOf = (world: World) => [...world.image.state.executions]

test('I7: it ends, completed or compensated, once everybody answers', () => {
  always((world) => expect(['completed', 'compensated']).toContain(sagaStatusOf(world.image)))
})

test('I6: what has not ended waits for a time or a signal, or is parked', () => {
  always(({ history }) => {
    for (const { after } of history) {
      const status = sagaStatusOf(after)
      const isOver = status === 'completed' || status === 'compensated'
      const waits = outstandingOfSaga(after)
      if (isOver) expect(waits).toEqual([])
      else expect(status === 'parked' || waits.length > 0 || after.state.awaited.length > 0).toBe(true)
    }
  })
})

test('I4: each effect at most once, and a compensation only of what happened', () => {
  always(({ ledger, ...world }) => {
    expect(ledger.faults).toEqual([])
    for (const { n } of world.image.state.executions) {
      expect(ledger.count(n, 'action')).toBeLessThanOrEqual(1)
      expect(ledger.count(n, 'compensation')).toBeLessThanOrEqual(ledger.count(n, 'action'))
    }
  })
})

test('I4: once its compensation was sent, an execution is never tried forward again', () => {
  always(({ history }) => {
    const undone = new Set<number>()
    for (const { effects } of history) {
      for (const effect of effects) {
        if (effect.type === 'StepCall' && effect.operation === 'compensation') undone.add(effect.n)
        else expect(undone.has(effect.n)).toBe(false)
      }
    }
  })
})

test('compensated: all that happened and can be undone is undone; completed: all that the flow went on without', () => {
  always((world) => {
    const { ledger, settled, image } = world
    const isCompensated = sagaStatusOf(image) === 'compensated'
    for (const { n, step: name, action } of executionsOf(world)) {
      const stays = ledger.count(n, 'action') - ledger.count(n, 'compensation')
      const isTold = !isCompensated && (action.status === 'done' || action.status === 'skipped')
      if (settled.has(`${n}/compensation`) || settled.has(`${n}/action`)) continue
      if (isTold) expect(stays).toBe(1)
      else if (undoable.includes(name)) expect(stays, `${name} ${n}`).toBe(0)
      else if (name === 'pivot' && isCompensated && !settled.has('pivot')) expect(stays).toBe(0)
    }
  })
})

test('the pivot: what is sent after it goes forward, unless it was refused', () => {
  always(({ history }) => {
    for (const { after } of history) {
      if (after.state.phase === 'compensating' || after.state.phase === 'compensated')
        expect(after.state.pivot).toBe(0)
    }
  })
})

test('unwinding waits for what is in flight, and starts no attempt of an action', () => {
  always(({ history }) => {
    for (const { before, after, effects } of history) {
      if (before?.state.phase !== 'compensating') continue
      for (const effect of effects) {
        expect(effect).toMatchObject({ type: 'StepCall', operation: 'compensation' })
        // What the flow had gone on without is undone while it runs.
        const wasUndoing = before.state.undoing.includes(effect.n)
        if (!wasUndoing) expect(after.state.active).toEqual([])
      }
    }
  })
})

test('each is undone after all that began when it had ended, but for other branches of the same parallel state', () => {
  always((world) => {
    const begunAt = new Map<number, number>()
    const endedAt = new Map<number, number>()
    const undoSentAt = new Map<number, number>()
    // What the flow had gone on without is undone while it runs, and what is sent again of that comes whenever it does.
    const undoneBeside = new Set<number>()
    const undoneAt = new Map<number, number>()
    for (const { at, before, after, effects } of world.history) {
      for (const { n, action, compensation } of after.state.executions) {
        if (!begunAt.has(n)) begunAt.set(n, at)
        if (action.status === 'done' && !endedAt.has(n)) endedAt.set(n, at)
        if (compensation?.status === 'done' || compensation?.status === 'skipped') {
          if (!undoneAt.has(n)) undoneAt.set(n, at)
        }
      }
      const isRunning = before?.state.phase === 'running' && after.state.phase === 'running'
      for (const effect of effects) {
        if (effect.type !== 'StepCall' || effect.operation !== 'compensation') continue
        if (isRunning) undoneBeside.add(effect.n)
        else if (!undoSentAt.has(effect.n)) undoSentAt.set(effect.n, at)
      }
    }
    for (const [y, sentAt] of undoSentAt) {
      const ended = endedAt.get(y)
      if (ended === undefined || undoneBeside.has(y)) continue
      for (const [x, begun] of begunAt) {
        // Begun in the very turn that its end led to is begun after it.
        if (x === y || begun < ended || !undoSentAt.has(x) || x < y) continue
        if (areApart(branchOf(world, x), branchOf(world, y))) continue
        expect(undoneAt.get(x), `${x} before ${y}`).toBeLessThanOrEqual(sentAt)
      }
    }
  })
})

const branchOf = (world: World, n: number): Branch => world.image.state.executions.get(n)?.branch ?? []

/** The judge's own reading of branches: the first place where two differ is a region of the same entry. */
function areApart(one: Branch, other: Branch): boolean {
  const texts = (branch: Branch) =>
    branch.flatMap(({ parallel, entry, region }) => [`${parallel}#${entry}`, region])
  const a = texts(one)
  const b = texts(other)
  const at = a.findIndex((text, index) => text !== b[index])
  return at % 2 === 1 && at < b.length
}

test('what was thrown away leaves the image as it was: a decision can be made again', () => {
  always((world) => {
    for (const { before } of world.history) {
      if (before === undefined) continue
      const writer = new ByteWriter()
      encodeSagaImage(writer, before, { bodies: true })
      const once = writer.copy()
      expect([...decodeSagaImage(once).state.executions]).toEqual([...before.state.executions])
    }
  }, 50)
})
