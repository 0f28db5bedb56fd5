import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { EscrowError } from '../../src/core/errors.ts'
import { transactionKey } from '../../src/core/ids.ts'
import { ExecutionTable } from '../../src/core/saga/execution-table.ts'
import {
  type Execution,
  isActive,
  isUndoing,
  type OperationState,
  type SagaHead,
  type SagaImage,
  type SagaState,
} from '../../src/core/saga/image.ts'
import { ByteReader, ByteWriter } from '../../src/store/binary.ts'
import {
  applySagaRecord,
  decodeSagaImage,
  decodeSagaRecord,
  encodeSagaImage,
  encodeSagaRecord,
} from '../../src/store/saga-record.ts'
import { fakeProgram, loop, policy, step } from '../core/saga-decision/fake-program.ts'
import { Driven, outcome } from '../core/saga-decision/fixtures.ts'

// Any code points but half surrogates, which UTF-8 can't carry.
const text = fc.string({ unit: 'binary', maxLength: 30 })
const number = fc.oneof(
  fc.nat(),
  fc.double({ noNaN: true }).map((value) => value + 0),
)
const whole = fc.nat({ max: Number.MAX_SAFE_INTEGER })

const head = fc.record({
  kind: fc.constant('saga'),
  namespace: text,
  id: text,
  executionId: text,
  saga: text,
  version: number,
  hash: text,
  slip: text,
  orderingKey: text,
  input: text,
  trace: fc.record({ traceparent: text, tracestate: text, baggage: text }),
  contentHash: text,
  startedAtMs: number,
  startedAtLogMs: number,
  deadlineAtMs: number,
}) as fc.Arbitrary<unknown> as fc.Arbitrary<SagaHead>

const operation: fc.Arbitrary<OperationState> = fc.record({
  status: fc.constantFrom('running', 'stopping', 'parked', 'done', 'failed', 'stopped', 'skipped'),
  attempts: number,
  nextAttemptAtMs: number,
  attemptDeadlineAtMs: number,
  isLater: fc.boolean(),
  isUncertain: fc.boolean(),
  firstDispatchAtMs: number,
  lastDispatchAtMs: number,
  databaseId: text,
  code: text,
  error: text,
})

const branch = fc.array(fc.record({ parallel: text, entry: whole, region: text }), { maxLength: 3 })

const execution: fc.Arbitrary<Execution> = fc.record({
  n: fc.constant(0),
  step: text,
  invocation: text,
  branch,
  input: text,
  result: text,
  hasCompensation: fc.boolean(),
  isDone: fc.boolean(),
  began: whole,
  ended: whole,
  stepDeadlineAtMs: number,
  action: operation,
  compensation: fc.option(operation, { nil: undefined }),
})

const listOf = (executions: readonly Execution[], isIn: (each: Execution) => boolean): readonly number[] =>
  executions.filter(isIn).map(({ n }) => n)

const stateOf = (executions: readonly Execution[], rest: object): SagaState => {
  const numbered = executions.map((each, at) => ({ ...each, n: at + 1 }))
  return {
    ...(rest as SagaState),
    executions: numbered.reduce((table, each) => table.with(each), ExecutionTable.EMPTY),
    active: listOf(numbered, isActive),
    undoing: listOf(numbered, isUndoing),
    plan: undefined,
  }
}

const signal = fc.record({ signal: text, payload: text })
const rest = fc.record({
  phase: fc.constantFrom('running', 'compensating', 'completed', 'compensated'),
  machine: text.map((value) => ({ text: value, live: undefined })),
  isMachineDone: fc.boolean(),
  places: whole,
  pivot: whole,
  timers: fc.array(fc.record({ timer: text, atMs: number }), { maxLength: 3 }),
  signals: fc.array(signal, { maxLength: 3 }),
  awaited: fc.array(text, { maxLength: 3 }),
  signalIds: fc.array(text, { maxLength: 3 }),
  queue: fc.array(
    fc.oneof(
      fc.constant({ type: 'start' }),
      fc.record({ type: fc.constant('step'), n: whole }),
      fc.record({ type: fc.constant('timer'), timer: text }),
      signal.map((kept) => ({ type: 'signal', ...kept })),
    ),
    { maxLength: 3 },
  ),
  stuck: text,
  bytes: whole,
  businessKey: text,
  tags: fc
    .array(fc.tuple(fc.oneof(text, fc.constant('__proto__')), text), { maxLength: 3 })
    .map((entries) => Object.fromEntries(entries)),
  reason: text,
  output: text,
  finishedAtMs: number,
})
const anyState = fc
  .tuple(fc.array(execution, { maxLength: 40 }), rest)
  .map(([all, others]) => stateOf(all, others))
const anyImage: fc.Arbitrary<SagaImage> = fc.record({ head, state: anyState })

/** A later state of the same saga: some executions have gone on, some have begun. */
const laterOf = ({ state }: SagaImage): fc.Arbitrary<SagaState> =>
  fc
    .tuple(fc.array(fc.tuple(fc.nat({ max: 50 }), execution), { maxLength: 5 }), rest)
    .map(([changes, others]) => {
      const all = [...state.executions]
      for (const [at, changed] of changes) {
        const known = all[at]
        if (known === undefined) all.push(changed)
        else all[at] = { ...changed, ...pickBeginning(known) }
      }
      return stateOf(all, others)
    })
const pickBeginning = ({ step: name, invocation, branch: of, input, hasCompensation, began }: Execution) => ({
  step: name,
  invocation,
  branch: of,
  input,
  hasCompensation,
  began,
})

const changeOf = anyImage.chain((before) =>
  fc.tuple(fc.constant(before), fc.oneof(fc.constant(before.head), head), laterOf(before)),
)

/** What can be compared: a table keeps its executions to itself. */
const plain = ({ head: of, state }: SagaImage) => ({
  head: of,
  state: { ...state, executions: [...state.executions] },
})

const record = (previous: SagaImage | undefined, next: SagaImage): Uint8Array => {
  const writer = new ByteWriter(64)
  encodeSagaRecord(writer, previous, next)
  return writer.copy()
}
const row = (image: SagaImage, bodies: boolean): Uint8Array => {
  const writer = new ByteWriter(64)
  encodeSagaImage(writer, image, { bodies })
  return writer.copy()
}

/** Runs a decoder on bytes that may be damaged: it may succeed or say so, and nothing else. */
const survives = (decode: () => unknown): void => {
  try {
    decode()
  } catch (error) {
    expect(error).toBeInstanceOf(EscrowError)
    expect((error as EscrowError).code).toBe('storeCorrupt')
  }
}

describe('records of sagas', () => {
  test('a full record gives the image back', () => {
    fc.assert(
      fc.property(anyImage, (next) => {
        const decoded = decodeSagaRecord(new ByteReader(record(undefined, next), 'test'))
        expect(decoded.key).toBe(transactionKey(next.head.namespace, next.head.id))
        expect(plain(applySagaRecord(undefined, decoded))).toEqual(plain(next))
      }),
    )
  })

  test('a delta applies to the image before, whether its definition changed or not', () => {
    fc.assert(
      fc.property(changeOf, ([previous, of, state]) => {
        const next = {
          head: of === previous.head ? of : { ...of, namespace: previous.head.namespace },
          state,
        }
        const decoded = decodeSagaRecord(new ByteReader(record(previous, next), 'test'))
        expect(plain(applySagaRecord(previous, decoded))).toEqual(plain(next))
        expect(() => applySagaRecord(undefined, decoded)).toThrow(/is stored, but not what it changes/)
      }),
    )
  })

  test('a change of an execution that is not known is storeCorrupt', () => {
    const saga = new Driven(fakeProgram({ flow: step('a'), policies: [policy('a')] })).start()
    const before = saga.image as SagaImage
    const decoded = decodeSagaRecord(
      new ByteReader(record(before, saga.answer(1, outcome('failed')).image!), 'test'),
    )
    const other = { head: before.head, state: { ...before.state, executions: ExecutionTable.EMPTY } }
    expect(() => applySagaRecord(other, decoded)).toThrow(/execution 1 is stored, but not what it changes/)
  })

  test('records follow one another in one buffer', () => {
    fc.assert(
      fc.property(fc.array(anyImage, { maxLength: 4 }), (images) => {
        const writer = new ByteWriter(64)
        for (const each of images) encodeSagaRecord(writer, undefined, each)
        const reader = new ByteReader(writer.copy(), 'test')
        for (const each of images)
          expect(plain(applySagaRecord(undefined, decodeSagaRecord(reader)))).toEqual(plain(each))
        expect(reader.remaining).toBe(0)
      }),
      { numRuns: 50 },
    )
  })

  test('cut anywhere, flipped anywhere or random, bytes are storeCorrupt or read', () => {
    const flips = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 })), {
      minLength: 1,
      maxLength: 4,
    })
    fc.assert(
      fc.property(
        anyImage,
        flips,
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        (next, places, at) => {
          const bytes = record(undefined, next)
          const cut = bytes.subarray(0, Math.floor(bytes.length * at))
          expect(() => decodeSagaRecord(new ByteReader(cut, 'test'))).toThrow(EscrowError)
          for (const [place, mask] of places) bytes[place % bytes.length]! ^= mask
          survives(() => applySagaRecord(next, decodeSagaRecord(new ByteReader(bytes, 'test'))))
          survives(() => decodeSagaImage(bytes))
        },
      ),
      { numRuns: 500 },
    )
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
        survives(() => decodeSagaRecord(new ByteReader(bytes, 'test')))
        survives(() => decodeSagaImage(Buffer.concat([Buffer.from([1, 0, 4]), bytes])))
      }),
    )
  })

  test('a record tells nothing of lists that were empty and stay so', () => {
    const saga = new Driven(fakeProgram({ flow: step('a'), policies: [policy('a')] })).start()
    const begun = saga.image!
    const ended = saga.answer(1, outcome('done')).image!
    expect(ended.state.phase).toBe('completed')
    for (const bytes of [record(undefined, begun), record(begun, ended)]) {
      const { fields } = decodeSagaRecord(new ByteReader(bytes, 'test'))
      for (const list of ['timers', 'signals', 'awaited', 'queue']) expect(fields).not.toHaveProperty(list)
    }
  })

  test('step 500 takes as many bytes as step 5', () => {
    const saga = new Driven(fakeProgram({ flow: loop(600, step('a')), policies: [policy('a')] })).start()
    const lengths: number[] = []
    for (let n = 1; n <= 510; n++) {
      const before = saga.image
      saga.answer(n, outcome('done', { result: '{"ok":true}' }))
      lengths.push(record(before, saga.image!).length)
    }
    // A few numbers take a byte or two more.
    expect(lengths[499]! - lengths[4]!).toBeLessThanOrEqual(12)
  })
})

describe('images of sagas', () => {
  test('an image gives itself back', () => {
    fc.assert(
      fc.property(anyImage, (image) => {
        expect(plain(decodeSagaImage(row(image, true)))).toEqual(plain(image))
      }),
    )
  })

  test('without bodies it keeps output, errors and executions, and no input, result or machine', () => {
    fc.assert(
      fc.property(anyImage, (image) => {
        const decoded = plain(decodeSagaImage(row(image, false)))
        const { head: of, state } = plain(image)
        const executions = state.executions.map((each) => ({ ...each, input: '', result: '' }))
        const machine = { text: '', live: undefined }
        expect(decoded).toEqual({
          head: { ...of, input: '', slip: '' },
          state: { ...state, machine, executions },
        })
      }),
    )
  })

  test('bytes after an image are storeCorrupt; so is another kind', () => {
    const [image] = fc.sample(anyImage, 1) as [SagaImage]
    expect(() => decodeSagaImage(Buffer.concat([row(image, true), Buffer.from([0])]))).toThrow(/too many/)
    const changed = (at: number, byte: number): Uint8Array => {
      const bytes = row(image, true)
      bytes[at] = byte
      return bytes
    }
    expect(() => decodeSagaImage(changed(0, 9))).toThrow(/format 9/)
    expect(() => decodeSagaImage(changed(1, 1))).toThrow(/encrypted under the key/)
    expect(() => decodeSagaImage(changed(2, 2))).toThrow(/kind 1/)
  })
})

test('a table shares what is the same with the one before, and leaves that as it was', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 1_200 }),
      fc.array(fc.nat({ max: 1_250 }), { maxLength: 8 }),
      (length, changes) => {
        const [made] = fc.sample(execution, 1) as [Execution]
        let table = ExecutionTable.EMPTY
        for (let n = 1; n <= length; n++) table = table.with({ ...made, n })
        const before = [...table]
        let next = table
        const changed = new Set<number>()
        for (const at of changes) {
          const n = Math.min(at + 1, next.length + 1)
          next = next.with({ ...made, n, result: 'changed' })
          changed.add(n)
        }
        expect([...table]).toEqual(before)
        expect(next.changedSince(table).map(({ n }) => n)).toEqual([...changed].sort((a, b) => a - b))
        for (const n of changed) expect(next.get(n)?.result).toBe('changed')
        expect(next.get(0)).toBeUndefined()
        expect(next.get(next.length + 1)).toBeUndefined()
      },
    ),
    { numRuns: 60 },
  )
})
