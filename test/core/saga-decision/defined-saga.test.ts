/** A saga that was defined as a user would, decided from its start to its end, and read back from its row each time. */
import { describe, expect, test } from 'vitest'
import { setup } from 'xstate'
import { stepRequestOf } from '../../../src/core/saga/decision.ts'
import { defineSaga, definitionOf } from '../../../src/core/saga/define.ts'
import { sagaStatusOf } from '../../../src/core/saga/image.ts'
import { participantSteps, stepType, untilDone } from '../../../src/core/saga/policy.ts'
import { stepLogic } from '../../../src/core/saga/statechart.ts'
import { ByteWriter } from '../../../src/store/binary.ts'
import { decodeSagaImage, encodeSagaImage } from '../../../src/store/saga-record.ts'
import { call, Driven, head, outcome } from './fixtures.ts'

const inventory = participantSteps('inventory', {
  reserve: stepType<{ sku: string }, { reservation: string }>(),
  release: stepType<{ sku: string }, undefined>(),
})

const placeOrder = defineSaga({
  name: 'place-order',
  version: 1,
  output: () => ({ isPlaced: true }),
  flow: ({ step, parallel, pivot, send }) => {
    const reserve = step('reserve', {
      action: inventory.reserve,
      compensation: inventory.release,
      input: () => ({ sku: 'x' }),
    })
    return [
      reserve,
      parallel(
        step('charge', {
          action: 'payments/charge',
          compensation: true,
          input: ({ results }) => ({ for: results(reserve).reservation }),
        }),
        step('fraud-check', { action: 'fraud/check', readOnly: true }),
      ),
      pivot('confirm', { action: 'orders/confirm' }),
      step('ship', { action: 'shipping/ship', retry: untilDone }),
      send('confirmation', { to: 'kafka:orders', body: () => 'placed' }),
    ]
  },
})

/** The saga after a restart: nothing but its row. */
function restarted(saga: Driven): Driven {
  const writer = new ByteWriter()
  encodeSagaImage(writer, saga.image!, { bodies: true })
  saga.image = decodeSagaImage(writer.copy())
  return saga
}

test('it completes, each step with the results of those before, across restarts', () => {
  const saga = new Driven(placeOrder.program).start()
  restarted(saga).answer(1, outcome('done', { result: '{"reservation":"r1"}' }))
  expect(saga.state.executions.get(2)?.input).toBe('{"for":"r1"}')
  restarted(saga).answer(3, outcome('done'))
  restarted(saga).answer(2, outcome('done'))
  expect(saga.state.pivot).toBe(4)
  restarted(saga).answer(4, outcome('done'))
  restarted(saga).answer(5, outcome('done'))
  expect(saga.last.effects).toEqual([{ type: 'Publication', n: 6, attempt: 1 }])
  restarted(saga).answer(6, outcome('done'))
  expect(saga.state).toMatchObject({ phase: 'completed', output: '{"isPlaced":true}' })
})

test('it is compensated in reverse when its pivot is refused', () => {
  const saga = new Driven(placeOrder.program)
    .start()
    .answer(1, outcome('done', { result: '{"reservation":"r1"}' }))
  saga.answer(2, outcome('done')).answer(3, outcome('done')).answer(4, outcome('refused'))
  expect(saga.last.effects).toEqual([call(2, 'compensation')])
  restarted(saga).answer(2, outcome('done'), 'compensation')
  expect(saga.last.effects).toEqual([call(1, 'compensation')])
  restarted(saga).answer(1, outcome('done'), 'compensation')
  expect(sagaStatusOf(saga.image!)).toBe('compensated')
})

test('a call names its participant; a compensation is given what the action was given, and gave', () => {
  const saga = new Driven(placeOrder.program).start()
  const action = stepRequestOf(
    saga.image!,
    placeOrder.program,
    call(1) as Parameters<typeof stepRequestOf>[2],
  )
  expect(action).toMatchObject({
    executionId: 'e1.1',
    service: 'inventory',
    step: 'reserve',
    input: '{"sku":"x"}',
    result: '',
    isActionDone: false,
  })
  saga.answer(1, outcome('done', { result: '{"reservation":"r1"}' }))
  saga.answer(2, outcome('refused')).answer(3, outcome('done'))
  const [undo] = saga.last.effects
  expect(undo).toEqual(call(1, 'compensation'))
  expect(stepRequestOf(saga.image!, placeOrder.program, undo as Parameters<typeof stepRequestOf>[2])).toEqual(
    {
      ...action,
      step: 'release',
      operation: 'compensation',
      result: '{"reservation":"r1"}',
      isActionDone: true,
    },
  )
})

test('search attributes: what the start gives goes before what the definition says, key by key; a step changes either', () => {
  const tagged = defineSaga({
    name: 'tagged',
    version: 1,
    attributes: () => ({ businessKey: 'from the definition', tags: { region: 'eu', kind: 'order' } }),
    flow: ({ step }) => [
      step('reserve', {
        action: 'inventory/reserve',
        compensation: true,
        attributes: () => ({ businessKey: 'from the step', tags: { region: 'asia' } }),
      }),
      step('ship', { action: 'inventory/ship', compensation: true }),
    ],
  })
  const start = (businessKey: string, tags: Record<string, string>) => {
    const saga = new Driven(tagged.program)
    return saga.do({ type: 'startSaga', head: { ...head, hash: tagged.program.hash }, businessKey, tags })
  }
  const saga = start('given', { region: 'us', customer: 'c1' })
  expect(saga.state).toMatchObject({
    businessKey: 'given',
    tags: { region: 'us', kind: 'order', customer: 'c1' },
  })
  saga.answer(1, outcome('done'))
  expect(saga.state).toMatchObject({
    businessKey: 'from the step',
    tags: { region: 'asia', kind: 'order', customer: 'c1' },
  })
  expect(start('', {}).state).toMatchObject({
    businessKey: 'from the definition',
    tags: { region: 'eu', kind: 'order' },
  })
})

describe('sizes are held to one set of bounds, and an error names the bound and its setting', () => {
  const large = 'x'.repeat(300_000)
  const { program } = placeOrder
  const setting = (bound: string, max: number) =>
    expect.stringMatching(
      new RegExp(`the limit ${bound} of ${max}: sagaLimits\\.${bound} in escrow\\.config\\.ts`),
    )

  test('an input is refused, and nothing begins', () => {
    const saga = new Driven(program).start({ input: JSON.stringify(large) })
    expect(saga.last.refused).toMatchObject({
      code: 'tooLarge',
      message: setting('payloadBytesMax', 262_144),
      details: { limit: 'payloadBytesMax', setting: 'sagaLimits.payloadBytesMax' },
    })
    expect(saga.image).toBeUndefined()
  })

  test('a result ends its step as failed, and what it did is undone', () => {
    const saga = new Driven(program).start().answer(1, outcome('done', { result: JSON.stringify(large) }))
    expect(saga.state.reason).toEqual(setting('payloadBytesMax', 262_144))
    expect(saga.last.effects).toEqual([call(1, 'compensation')])
  })

  test('the context of a machine parks its saga', () => {
    const machine = setup({ actors: { hold: stepLogic() } }).createMachine({
      id: 'keeping',
      context: ({ input }) => ({ kept: (input as unknown as { text: string }).text }),
      initial: 'held',
      states: { held: { invoke: { src: 'hold' } } },
    })
    const steps = { hold: { action: 'shop/hold', compensation: true } } as const
    const keeping = definitionOf(machine, { name: 'keeping', version: 1, steps })
    const start = (length: number) =>
      new Driven(keeping.program).start({ input: JSON.stringify({ text: 'x'.repeat(length) }) })
    expect(start(70_000).state.stuck).toEqual(setting('contextBytesMax', 65_536))
    expect(start(60_000).state.stuck).toBe('')
  })

  test('bounds that are set otherwise are what counts', () => {
    const saga = new Driven(program)
    saga.moment = { ...saga.moment, limits: { ...saga.moment.limits, payloadBytesMax: 400_000 } }
    saga.start({ input: JSON.stringify(large) })
    expect(saga.last.refused).toBeUndefined()
  })
})
