/** What the types of a flow promise: each line with `@ts-expect-error` has been seen to compile without it failing. */
import { expect, test } from 'vitest'
import { defineSaga } from '../../../src/core/saga/define.ts'
import { participantSteps, stepType } from '../../../src/core/saga/policy.ts'
import { schemaOf } from './machines.ts'

const stock = participantSteps('stock', {
  reserve: stepType<{ sku: string }, { reservation: string }>(),
  note: stepType<{ reservation: string; cents: number }, undefined>(),
})

test('inputs, results, signals and outputs are typed from end to end', () => {
  const saga = defineSaga({
    name: 'typed',
    version: 1,
    input: schemaOf<{ sku: string; count: number }>(),
    signals: { paid: schemaOf<{ cents: number }>() },
    output: ({ input }) => input.count,
    flow: ({ step, waitFor, sub }) => {
      // The saga's input is what the step takes: no mapping is needed.
      const reserve = step('reserve', { action: stock.reserve, compensation: true })
      const paid = waitFor('paid', { timeoutMs: 1_000, onTimeout: 'fail' })
      // @ts-expect-error: no such signal
      const other = () => waitFor('lost', { timeoutMs: 1_000, onTimeout: 'fail' })
      // @ts-expect-error: the saga's input is not what the step takes
      const unmapped = () => step('note', { action: stock.note, compensation: true })
      const wrong = () =>
        step('note', {
          action: stock.note,
          compensation: true,
          // @ts-expect-error: cents are a number
          input: ({ results }) => ({ reservation: results(reserve).reservation, cents: 'none' }),
        })
      const missing = () =>
        step('b', {
          action: 'a/b',
          readOnly: true,
          // @ts-expect-error: the result has no such property
          input: ({ results }) => results(reserve).nothing,
        })
      expect([other, unmapped, wrong, missing]).toHaveLength(4)
      const inner = sub(inlined, { input: ({ input }) => ({ times: input.count }) })
      // @ts-expect-error: the sub-saga takes a number
      const badly = () => sub(inlined, { name: 'badly', input: () => ({ times: 'x' }) })
      expect(badly).toBeTypeOf('function')
      return [
        reserve,
        paid,
        inner,
        step('note', {
          action: stock.note,
          compensation: true,
          input: ({ results }) => ({
            reservation: results(reserve).reservation,
            cents: results(paid).cents * results(inner),
          }),
        }),
      ]
    },
  })
  const typed: ((input: { sku: string; count: number }) => number) | undefined = saga.types
  expect(typed).toBeUndefined()
})

const inlined = defineSaga({
  name: 'inlined',
  version: 1,
  input: schemaOf<{ times: number }>(),
  output: ({ input }) => input.times,
  flow: ({ step }) => [step('look', { action: 'a/look', readOnly: true })],
})

/** What the package `@standard-schema/spec` 1.1.0 has vendors export, with types of in- and output that differ. */
interface VendorSchema<Input, Output> {
  readonly '~standard': {
    readonly version: 1
    readonly vendor: string
    readonly validate: (
      value: unknown,
      options?: { readonly libraryOptions?: Record<string, unknown> | undefined } | undefined,
    ) =>
      | { readonly value: Output; readonly issues?: undefined }
      | { readonly issues: readonly { readonly message: string }[] }
      | Promise<{ readonly value: Output; readonly issues?: undefined }>
    readonly types?: { readonly input: Input; readonly output: Output } | undefined
  }
}

test('the validator of any vendor is taken, and its output is the type', () => {
  const vendor: VendorSchema<{ at: string }, { at: number }> = {
    '~standard': {
      version: 1,
      vendor: 'any',
      validate: (value) => ({ value: { at: Number((value as { at: string }).at) } }),
    },
  }
  const saga = defineSaga({
    name: 'vendor',
    version: 1,
    input: vendor,
    flow: ({ step }) => [
      step('look', { action: 'a/look', readOnly: true, input: ({ input }) => input.at.toFixed(1) }),
    ],
  })
  const input = saga.program.parseInput({ at: '5' })
  expect(input).toEqual({ at: 5 })
  expect(saga.program.start(input).effects).toMatchObject([{ input: '5.0' }])
})

test('without a schema the input is any JSON, and results are typed as before', () => {
  const saga = defineSaga({
    name: 'untyped',
    version: 1,
    flow: ({ step }) => {
      const reserve = step('reserve', {
        action: stock.reserve,
        compensation: true,
        input: () => ({ sku: 'x' }),
      })
      const note = step('b', {
        action: 'a/b',
        readOnly: true,
        input: ({ results }) => results(reserve).reservation,
      })
      return [
        reserve,
        note,
        step('c', { action: 'a/c', readOnly: true, input: ({ input }) => [input ?? null] }),
      ]
    },
  })
  expect(saga.program.start(undefined).effects).toMatchObject([{ input: { sku: 'x' } }])
})
