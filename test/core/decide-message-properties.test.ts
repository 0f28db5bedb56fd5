import fc from 'fast-check'
import { expect, test } from 'vitest'
import { decideMessage } from '../../src/core/decide-message.ts'
import type { MessageCommand, Moment } from '../../src/core/decision.ts'
import {
  deliveryExecutionId,
  finishedAtMs,
  type MessageHead,
  type MessageImage,
  outstanding,
  statusOf,
} from '../../src/core/message.ts'
import { head } from './message-fixtures.ts'

interface Step {
  readonly command: MessageCommand
  readonly passedMs: number
  readonly random: number
  readonly isRouted: boolean
}

const index = fc.constantFrom(0, 0, 0, 1, 1, 2)
const executionId = fc.constantFrom('e1', 'e1.0', 'e1.1', 'e1.2', 'e9')
const by = fc.constantFrom('caller' as const, 'policy' as const)
const bodies = fc.array(fc.record({ index, body: fc.constantFrom(Uint8Array.of(1), Uint8Array.of(2)) }), {
  maxLength: 3,
})
const error = fc.constant('so it goes')
const nobody = fc.record({ outcome: fc.constant('noSession' as const), error })
const answered = fc.record({ resolution: fc.constantFrom('commit', 'rollback', 'unknown'), bodies, error })
const taken = fc.record({ outcome: fc.constantFrom('delivered', 'failed', 'refused', 'unknown'), error })

const delivery = fc.record({
  type: fc.constant('answerDelivery' as const),
  index,
  // 0 stands for the one that is under way.
  attempt: fc.constantFrom(0, 0, 0, 1, 2, 4),
  outcome: fc.oneof(taken, nobody),
})

const command = fc.oneof(
  fc.record({
    type: fc.constant('prepareMessage' as const),
    head: fc.constantFrom(head, { ...head, contentHash: 'x' }),
  }),
  { arbitrary: fc.record({ type: fc.constant('commitMessage' as const), by, bodies }), weight: 2 },
  fc.record({ type: fc.constant('rollbackMessage' as const), by, reason: error }),
  fc.constantFrom({ type: 'requestCheckBack' } as const, { type: 'checkBackDue' } as const),
  fc.record({ type: fc.constant('answerCheckBack' as const), outcome: fc.oneof(answered, nobody) }),
  fc.record({ type: fc.constant('dispatchDelivery' as const), index }),
  { arbitrary: delivery as fc.Arbitrary<MessageCommand>, weight: 5 },
  fc.record({
    type: fc.constant('retryExecution' as const),
    executionId,
    acceptPossibleDuplicate: fc.boolean(),
  }),
  fc.record({ type: fc.constant('skipExecution' as const), executionId }),
  fc.record({ type: fc.constant('compensateExecution' as const), executionId }),
) as fc.Arbitrary<MessageCommand>

const step: fc.Arbitrary<Step> = fc.record({
  command,
  passedMs: fc.constantFrom(0, 1, 20, 100, 3_000, 12_000),
  random: fc.double({ min: 0, max: 0.999, noNaN: true }),
  isRouted: fc.boolean(),
})

const heads: fc.Arbitrary<MessageHead> = fc
  .record({
    onExhausted: fc.constantFrom('park' as const, 'commit' as const, 'rollback' as const),
    isFixed: fc.boolean(),
    orderingKey: fc.constantFrom('', 'k'),
    deliverAtMs: fc.constantFrom(0, head.preparedAtMs + 2_000),
  })
  .map(({ onExhausted, isFixed, orderingKey, deliverAtMs }) => ({
    ...head,
    orderingKey,
    checkBack: { ...head.checkBack, onExhausted },
    messages: head.messages.map((message, at) => ({
      ...message,
      body: at === 0 && !isFixed ? undefined : message.body,
      deliverAtMs: at === 1 ? deliverAtMs : 0,
    })),
  }))

/** Runs the steps; `check` sees each one with the image before and after it. */
function run(
  of: MessageHead,
  steps: readonly Step[],
  check: (seen: {
    before: MessageImage
    after: MessageImage
    step: Step
    moment: Moment
    decision: ReturnType<typeof decideMessage>
  }) => void,
): void {
  let wallMs = of.preparedAtMs
  let image = decideMessage(undefined, { type: 'prepareMessage', head: of }, momentOf(wallMs, 0, 0, false))
    .next as MessageImage
  steps.forEach((each, at) => {
    wallMs += each.passedMs
    const moment = momentOf(wallMs, at + 1, each.random, each.isRouted)
    const command = underWay(each.command, image)
    const decision = decideMessage(image, command, moment)
    const before = image
    image = decision.next ?? image
    check({ before, after: image, step: { ...each, command }, moment, decision })
  })
}

function underWay(command: MessageCommand, { state }: MessageImage): MessageCommand {
  if (command.type !== 'answerDelivery' || command.attempt > 0) return command
  const attempts = state.phase === 'committed' ? (state.deliveries[command.index]?.attempts ?? 0) : 0
  return { ...command, attempt: attempts + 1 }
}

function momentOf(wallMs: number, order: number, random: number, isRouted: boolean): Moment {
  const logMs = wallMs - (head.preparedAtMs - head.preparedAtLogMs)
  return {
    wallMs,
    logMs,
    order,
    random: () => random,
    route: () => (isRouted ? { databaseId: 'db1' } : undefined),
    tooLarge: () => undefined,
  }
}

const always = (check: Parameters<typeof run>[2]): void =>
  fc.assert(
    fc.property(heads, fc.array(step, { maxLength: 40, size: 'max' }), (of, steps) => run(of, steps, check)),
    { numRuns: 2_000 },
  )

test('I3: one outcome; what is settled stays so, who settled it and when included', () => {
  always(({ before, after }) => {
    if (before.state.phase === 'rolledBack') expect(after).toBe(before)
    if (before.state.phase !== 'committed') return
    expect(after.state).toMatchObject({
      phase: 'committed',
      settledBy: before.state.settledBy,
      settledAtMs: before.state.settledAtMs,
      order: before.state.order,
    })
    expect(after.head).toBe(before.head)
  })
})

test('a refusal changes nothing and lets nothing leave', () => {
  always(({ decision }) => {
    if (decision.refused !== undefined) expect(decision).toEqual({ effects: [], refused: decision.refused })
  })
})

test('every effect is something that is outstanding in the image that it leaves on', () => {
  always(({ after, decision }) => {
    const left = outstanding(after)
    for (const effect of decision.effects) {
      const isOutstanding = left.some((due) =>
        effect.type === 'CheckBack'
          ? due.what === 'checkBack'
          : due.what === 'delivery' && due.index === effect.index,
      )
      expect(isOutstanding, effect.type).toBe(true)
    }
  })
})

test('I3: no publication from what is prepared, parked undecided or rolled back, and none without its body', () => {
  always(({ after, decision }) => {
    for (const effect of decision.effects) {
      if (effect.type !== 'Publication') continue
      expect(after.state.phase).toBe('committed')
      expect(after.head.messages[effect.index]?.body).toBeDefined()
    }
  })
})

test('I10, I7: attempts and checks stay within their budgets, and at the budget something is settled or parked', () => {
  always(({ after: { state } }) => {
    if (state.phase === 'prepared') expect(state.checks).toBeLessThan(head.checkBack.checksMax)
    if (state.phase !== 'committed') return
    for (const { attempts, status } of state.deliveries) {
      expect(attempts).toBeLessThanOrEqual(head.retry.attemptsMax)
      if (attempts === head.retry.attemptsMax) expect(status).not.toBe('waiting')
    }
  })
})

test('I5: nobody asked, nothing counted; unknown is never an outcome but as the caller chose', () => {
  always(({ before, after, step: { command: asked } }) => {
    if (!('outcome' in asked)) return
    const isNobody = 'outcome' in asked.outcome && asked.outcome.outcome === 'noSession'
    if (isNobody) {
      expect(after.state.phase).toBe(before.state.phase)
      expect(after.state.checks).toBe(before.state.checks)
      if (before.state.phase === 'committed' && after.state.phase === 'committed') {
        expect(after.state.deliveries.map(({ attempts }) => attempts)).toEqual(
          before.state.deliveries.map(({ attempts }) => attempts),
        )
      }
    }
    if (asked.type !== 'answerCheckBack' || !('resolution' in asked.outcome)) return
    if (asked.outcome.resolution !== 'unknown' || before.state.phase === after.state.phase) return
    const chosen = { park: 'undecided', commit: 'committed', rollback: 'rolledBack' }[
      after.head.checkBack.onExhausted
    ]
    expect([chosen, 'undecided']).toContain(after.state.phase)
  })
})

test('a delivered or skipped delivery never changes', () => {
  always(({ before, after }) => {
    if (before.state.phase !== 'committed' || after.state.phase !== 'committed') return
    for (const [at, delivery] of before.state.deliveries.entries()) {
      const isOver = delivery.status === 'delivered' || delivery.status === 'skipped'
      if (isOver) expect(after.state.deliveries[at]).toBe(delivery)
    }
  })
})

test('it has ended if, and only if, it is rolled back, or each delivery is delivered or skipped', () => {
  always(({ after }) => {
    const { state } = after
    const isOver =
      state.phase === 'rolledBack' ||
      (state.phase === 'committed' &&
        state.deliveries.every(({ status }) => status === 'delivered' || status === 'skipped'))
    expect(finishedAtMs(after) > 0).toBe(isOver)
    expect(['delivered', 'rolledBack'].includes(statusOf(after))).toBe(isOver)
  })
})

test('I6, I7: what has not ended waits for a time, or is parked', () => {
  always(({ after }) => {
    const status = statusOf(after)
    const waits = outstanding(after).filter((due) => due.what !== 'hold')
    if (status === 'prepared' || status === 'committed') expect(waits.length).toBeGreaterThan(0)
    if (status === 'delivered' || status === 'rolledBack') expect(outstanding(after)).toEqual([])
    for (const due of waits) expect(Number.isSafeInteger(due.atMs)).toBe(true)
  })
})

test('a delayed message is due at its time, not before; postponed after that, it is due later, not at once', () => {
  fc.assert(
    fc.property(fc.double({ min: 0, max: 0.999, noNaN: true }), (random) => {
      const deliverAtMs = head.preparedAtMs + 2_000
      const of = { ...head, messages: head.messages.map((message) => ({ ...message, deliverAtMs })) }
      const steps = [
        {
          command: { type: 'commitMessage', by: 'caller', bodies: [] },
          passedMs: 10,
          random,
          isRouted: true,
        },
        {
          command: {
            type: 'answerDelivery',
            index: 0,
            attempt: 1,
            outcome: { outcome: 'noSession', error: '' },
          },
          passedMs: 2_000,
          random,
          isRouted: true,
        },
      ] as const
      run(of, steps, ({ after, step: { command: asked }, moment, decision }) => {
        expect(decision.effects).toEqual([])
        const [due] = outstanding(after)
        if (asked.type === 'commitMessage') {
          expect(due).toEqual({ what: 'delivery', index: 0, clock: 'wall', atMs: deliverAtMs })
        } else {
          expect(due).toMatchObject({ clock: 'log', index: 0 })
          expect((due as { atMs: number }).atMs).toBeGreaterThan(moment.logMs)
        }
      })
    }),
  )
})

test('the stable id of a delivery is that of its execution and its place', () => {
  expect(deliveryExecutionId(head, 0)).toBe('e1.0')
  expect(deliveryExecutionId(head, 11)).toBe('e1.11')
})
