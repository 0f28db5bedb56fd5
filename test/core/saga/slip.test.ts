import { expect, test } from 'vitest'
import type { Json, SagaEvent } from '../../../src/core/saga/program.ts'
import { compileSlip, SLIP_STEPS_MAX } from '../../../src/core/saga/slip.ts'
import { brief, done, drive, failed } from './machines.ts'

const call = (name: string, more: object = {}) =>
  ({ name, action: `a/${name}`, compensation: true, ...more }) as Json
const slip = (...steps: Json[]): Json => ({ steps })

const order = slip(
  call('reserve', { input: { sku: 'x' }, retry: { attemptsMax: 3 } }),
  {
    parallel: [
      call('charge'),
      call('label'),
      call('pack', { after: ['charge', 'label'] }),
      [call('scan'), call('weigh')],
    ],
  },
  { name: 'confirm', action: 'orders/confirm', pivot: true },
  { name: 'tell', to: 'kafka:orders', input: { text: 'sold' } },
)

const stories: readonly [title: string, events: readonly SagaEvent[], effects: readonly string[][]][] = [
  [
    'in the order of its sequence, groups and constraints',
    ['reserve', 'label', 'scan', 'charge', 'pack', 'weigh', 'confirm', 'tell'].map((name) => done(name)),
    [
      ['start reserve'],
      ['start charge', 'start label', 'start scan'],
      [],
      ['start weigh'],
      ['start pack'],
      [],
      ['start confirm'],
      ['start tell'],
      [],
    ],
  ],
  [
    'the same whichever of two ends last',
    ['reserve', 'charge', 'label'].map((name) => done(name)),
    [['start reserve'], ['start charge', 'start label', 'start scan'], [], ['start pack']],
  ],
  [
    'a failure in a group stops the rest of it',
    [done('reserve'), done('label'), failed('charge')],
    [['start reserve'], ['start charge', 'start label', 'start scan'], [], ['stop scan']],
  ],
]

test.each(stories)('a routing slip goes %s', (_title, events, effects) => {
  expect(drive(compileSlip(order).program, { from: 'caller' }, events).map(brief)).toEqual(effects)
})

test('a slip is a program named slip, with policies, inputs and classes', () => {
  const { program } = compileSlip(order)
  expect([program.name, program.version, program.timeoutMs]).toEqual(['slip', 1, 0])
  expect(program.steps.get('reserve')?.retry).toEqual({ delayMs: 200, delayMsMax: 30_000, attemptsMax: 3 })
  expect(program.steps.get('tell')).toMatchObject({ destination: 'kafka:orders', class: 'retriable' })
  const turns = drive(program, { from: 'caller' }, [done('reserve')])
  expect(turns[0]?.effects[0]).toMatchObject({ input: { sku: 'x' } })
  expect(turns[1]?.effects[0]).toMatchObject({ input: { from: 'caller' } })
})

test('steps that wait for each other unwind as one; steps of a group without constraints unwind at once', () => {
  const branchOf = (parallel: Json) => {
    const { effects } = drive(compileSlip(slip({ parallel })).program, null, [])[0] as {
      effects: readonly object[]
    }
    return effects.map((effect) => (effect as { branch: object[] }).branch)
  }
  expect(branchOf([call('a'), call('b')] as Json)).toEqual([
    [{ parallel: 'group-1', entry: 1, region: 'a' }],
    [{ parallel: 'group-1', entry: 1, region: 'b' }],
  ])
  expect(branchOf([call('a'), call('b'), call('c', { after: ['a'] })] as Json)).toEqual([[], []])
})

test.each<[title: string, slip: Json, path: string]>([
  ['no object', [], 'the routing slip'],
  ['without steps', {}, 'steps'],
  ['with no step', slip(), 'steps'],
  ['with an unknown field', { steps: [call('a')], extra: 1 }, 'extra'],
  ['with an unknown field of a step', slip(call('a', { retries: 1 })), 'steps[0].retries'],
  ['with an unknown field of a retry', slip(call('a', { retry: { max: 1 } })), 'steps[0].retry.max'],
  ['with a step that is no object', slip('a/a'), 'steps[0]'],
  ['with a step without a name', slip({ action: 'a/a' }), 'steps[0].name'],
  ['with a step without an action', slip({ name: 'a' }), 'steps[0]'],
  ['with a step that has two', slip(call('a', { to: 'kafka:x' })), 'steps[0]'],
  ['with after outside of a group', slip(call('a'), call('b', { after: ['a'] })), 'steps[1].after'],
  [
    'with after in a sequence of a group',
    slip({ parallel: [[call('a'), call('b', { after: ['a'] })]] }),
    'steps[0].parallel[0][1].after',
  ],
  ['with after of an unknown step', slip({ parallel: [call('a', { after: ['x'] })] }), 'steps[0]'],
  [
    'with a circle',
    slip({ parallel: [call('a', { after: ['b'] }), call('b', { after: ['a'] })] }),
    'steps[0]',
  ],
  ['with an empty branch', slip({ parallel: [[]] }), 'steps[0].parallel[0]'],
  ['with a flag that is none', slip(call('a', { readOnly: 'yes' })), 'steps[0].readOnly'],
  ['with a number that is none', slip(call('a', { attemptTimeoutMs: '5s' })), 'steps[0].attemptTimeoutMs'],
])('a slip %s is refused with its path', (_title, given, path) => {
  expect(refusal(given)).toMatchObject({ code: 'invalidArgument', details: { path } })
})

test('a slip is held to the checks of every definition, and to its bound', () => {
  expect(refusal(slip({ name: 'a', action: 'a/a' }))).toMatchObject({
    code: 'invalidSaga',
    details: { check: 'compensationMissing', path: 'a' },
  })
  expect(refusal(slip(call('a'), call('a')))).toMatchObject({ details: { check: 'reservedName' } })
  const many = Array.from({ length: SLIP_STEPS_MAX + 1 }, (_, index) => call(`s-${index}`))
  expect(refusal(slip(...many))).toMatchObject({ code: 'tooLarge', details: { bound: 'SLIP_STEPS_MAX' } })
})

test('the widest group with constraints still takes its turns', () => {
  const names = Array.from({ length: SLIP_STEPS_MAX - 1 }, (_, index) => `s-${index}`)
  const wide = slip({
    parallel: [...names.map((name) => call(name)), call('last', { after: names })],
  } as Json)
  const turns = drive(
    compileSlip(wide).program,
    null,
    names.map((name) => done(name)),
  )
  expect(brief(turns.at(-1) as never)).toEqual(['start last'])
})

function refusal(given: Json): unknown {
  try {
    compileSlip(given)
  } catch (error) {
    return error
  }
  throw new Error('it was not refused')
}
