import fc from 'fast-check'
import type { MessageDelivery, MessageHead, MessageImage, MessageState } from '../../src/core/message.ts'

// Any code points but half surrogates, which UTF-8 can't carry.
const text = fc.string({ unit: 'binary', maxLength: 40 })
const ascii = fc.string({ maxLength: 40 })
const number = fc.oneof(
  fc.nat(),
  fc.nat({ max: Number.MAX_SAFE_INTEGER }),
  fc.double({ noNaN: true }).map((value) => value + 0),
)
const body = fc.option(fc.uint8Array({ maxLength: 300 }), { nil: undefined })

const headers = fc
  .array(fc.tuple(fc.oneof(ascii, fc.constant('__proto__')), text), { maxLength: 4 })
  .map((entries) => Object.fromEntries(entries))

const message = fc.record({
  destination: ascii,
  body,
  headers,
  key: text,
  deliverAtMs: number,
  contentType: ascii,
})

const head = fc.record({
  kind: fc.constant('message'),
  namespace: ascii,
  id: text,
  executionId: ascii,
  checker: ascii,
  orderingKey: text,
  messages: fc.array(message, { maxLength: 5 }),
  checkBack: fc.record({
    delayMs: number,
    delayMsMax: number,
    checksMax: number,
    onExhausted: fc.constantFrom('park', 'commit', 'rollback'),
    unresolvedMsMax: number,
  }),
  retry: fc.record({
    attemptsMax: number,
    delayMs: number,
    delayMsMax: number,
    attemptTimeoutMs: number,
    lastDispatchMsMax: number,
  }),
  databaseId: ascii,
  trace: fc.record({ traceparent: ascii, tracestate: ascii, baggage: text }),
  contentHash: ascii,
  preparedAtMs: number,
  preparedAtLogMs: number,
}) as fc.Arbitrary<unknown> as fc.Arbitrary<MessageHead>

const delivery: fc.Arbitrary<MessageDelivery> = fc.record({
  status: fc.constantFrom('waiting', 'delivered', 'parked', 'skipped'),
  attempts: number,
  nextAttemptAtMs: number,
  firstDispatchAtMs: number,
  lastDispatchAtMs: number,
  databaseId: ascii,
  error: text,
})

const settledBy = fc.constantFrom('caller', 'checkBack', 'policy')

/** Any state of a half message. */
export const anyState: fc.Arbitrary<MessageState> = fc.oneof(
  fc.record({
    phase: fc.constant('prepared'),
    checks: number,
    misses: number,
    nextCheckAtMs: number,
    unresolvedAtMs: number,
    lastCheckAtMs: number,
  }),
  fc.record({ phase: fc.constant('undecided'), checks: number, reason: text }),
  fc.record({
    phase: fc.constant('committed'),
    checks: number,
    settledBy,
    settledAtMs: number,
    order: number,
    deliveries: fc.array(delivery, { maxLength: 5 }),
    finishedAtMs: number,
  }),
  fc.record({
    phase: fc.constant('rolledBack'),
    checks: number,
    settledBy,
    settledAtMs: number,
    reason: text,
  }),
) as fc.Arbitrary<unknown> as fc.Arbitrary<MessageState>

/** Any image. */
export const anyImage: fc.Arbitrary<MessageImage> = fc.record({ head, state: anyState })
