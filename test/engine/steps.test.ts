/** What the calls of steps keep to whatever happens around them. */
import { expect, test } from 'vitest'
import type { Entry } from '../../src/engine/entry.ts'
import { ParticipantGates } from '../../src/engine/gates.ts'
import type { Programs } from '../../src/engine/programs.ts'
import { Steps } from '../../src/engine/steps.ts'
import { FakeOutlet, FakeParticipants } from './fake-outlet.ts'
import { FakeRuntime } from './fake-runtime.ts'
import { FakeStepOutlet, FakeStepParticipants } from './fake-step-outlet.ts'

test('a look at a saga that throws does not keep later ones away', () => {
  const runtime = new FakeRuntime()
  const clock = { wallMs: 0, logMs: 0 }
  let looks = 0
  const of = () => {
    looks += 1
    if (looks === 1) throw new Error('a defect')
    return undefined
  }
  const steps = new Steps({
    outlet: new FakeOutlet(new FakeParticipants(), runtime, () => false),
    stepOutlet: new FakeStepOutlet(new FakeStepParticipants(), runtime, () => false),
    programs: { of } as unknown as Programs,
    submit: () => {},
    released: () => {},
    participantGates: new ParticipantGates([], () => 0),
    clock: () => clock,
    heldMax: 1,
  })
  const entry = {
    packed: undefined,
    held: [],
    busy: [],
    saga: { state: { active: [1], undoing: [] } },
  } as unknown as Entry
  expect(() => steps.update(entry, clock)).toThrow('a defect')
  steps.update(entry, clock)
  expect(looks).toBe(2)
})
