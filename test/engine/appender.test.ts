/** What leaves a log, and when: in order, a part at a time, never before it is durable, and bounded. */
import { expect, test } from 'vitest'
import type { EscrowError } from '../../src/core/errors.ts'
import type { Namespace, TransactionId } from '../../src/core/ids.ts'
import type { TransactionEffect } from '../../src/core/transaction.ts'
import { Appender } from '../../src/engine/appender.ts'
import { Batches, type Release } from '../../src/engine/batch.ts'
import { type Entry, Question } from '../../src/engine/entry.ts'
import type { LogHandle } from '../../src/store/log.ts'
import { FakeRuntime } from './fake-runtime.ts'
import { openWorld } from './world.ts'

/** As many leave in one go. */
const AT_ONCE = 256

/** An appender whose store answers when the test says so, and what has left by it. */
function bench() {
  const runtime = new FakeRuntime()
  const left: string[] = []
  const looks: ((isOwner: boolean) => void)[] = []
  const handle = {
    log: 0,
    claimed: { epoch: 1, head: 0, checkpointed: 0, clock: { wallMs: 0, logMs: 0 } },
    verify: () => new Promise<boolean>((resolve) => looks.push(resolve)),
  } as unknown as LogHandle
  const batches = new Batches(handle, 0, runtime.randomBytes(16), () => ({ wallMs: 0, logMs: 0 }))
  const appender = new Appender({
    handle,
    batches,
    head: 0,
    runtime,
    provenMsMax: 2_500,
    stored: () => {},
    release: (release) => {
      if (release instanceof Question) release.answer()
      else left.push(nameOf(release))
    },
    failing: () => {},
    stop: () => {},
  })
  const question = (name: string): void =>
    batches.release(
      new Question({
        op: 'get',
        namespace: 'default' as Namespace,
        id: name as TransactionId,
        fresh: false,
        reply: (error) => left.push(error === undefined ? name : `${name} ${error.code}`),
        deadlineMs: Number.POSITIVE_INFINITY,
      }),
    )
  const effect = (name: string): void =>
    batches.release({ entry: { name } as unknown as Entry, effect: {} as TransactionEffect })
  /** The store has taken what was on its way, and some of it has left. */
  const durable = async (): Promise<void> => {
    looks.shift()?.(true)
    // Every promise that can resolve does so before this.
    await new Promise<void>((resolve) => setImmediate(resolve))
  }
  return { runtime, left, batches, appender, question, effect, durable }
}

const nameOf = (release: Exclude<Release, Question>): string =>
  (release.entry as unknown as { name: string }).name
const names = (kind: string, count: number): string[] =>
  Array.from({ length: count }, (_, n) => `${kind}${n}`)

test('what is durable leaves in the order in which it was decided, a part at a time, batch after batch', async () => {
  const { runtime, left, appender, question, durable } = bench()
  const [first, second] = [names('a', AT_ONCE + 100), names('b', 50)]
  first.forEach(question)
  appender.plan()
  await runtime.settle()
  expect(left).toEqual([])
  second.forEach(question)
  await durable()
  expect(left).toEqual(first.slice(0, AT_ONCE))
  // The second batch is durable while the first one is on its way: it waits for its turn.
  await durable()
  expect(left.length).toBe(AT_ONCE)
  await runtime.settle()
  expect(left).toEqual([...first, ...second])
  await appender.idle()
})

test('a log that stops lets durable answers leave, and no effect; the rest is handed back undone', async () => {
  const { runtime, left, appender, question, effect, durable } = bench()
  const count = AT_ONCE
  for (let n = 0; n < count; n++) {
    question(`answer${n}`)
    effect(`effect${n}`)
  }
  appender.plan()
  await runtime.settle()
  question('late')
  await durable()
  expect(left.length).toBe(AT_ONCE)
  // By then the next batch is on its way, and another one collects.
  effect('later')
  const waiting = appender.stop()
  const answers = left.filter((name) => name.startsWith('answer'))
  expect(answers).toEqual(names('answer', count))
  expect(left.filter((name) => name.startsWith('effect')).length).toBe(AT_ONCE / 2)
  expect(waiting.map((release) => (release instanceof Question ? release.id : nameOf(release)))).toEqual([
    'late',
    'later',
  ])
  expect(appender.releases).toBe(0)
  await durable()
  await runtime.settle()
  expect(left.length).toBe(count + AT_ONCE / 2)
})

test('a log with as many questions as it takes stops like any other', async () => {
  const { runtime, appender, question } = bench()
  question('first')
  appender.plan()
  await runtime.settle()
  for (let n = 0; n < 200_000; n++) question('')
  expect(appender.stop().length).toBe(200_001)
})

test('what waits for an append, and what is on its way out, is counted until it has left', async () => {
  const { runtime, left, batches, appender, question, durable } = bench()
  names('a', AT_ONCE + 10).forEach(question)
  appender.plan()
  expect([batches.releases, appender.releases]).toEqual([AT_ONCE + 10, 0])
  await runtime.settle()
  expect([batches.releases, appender.releases]).toEqual([0, AT_ONCE + 10])
  await durable()
  expect([left.length, appender.releases]).toEqual([AT_ONCE, 10])
  await runtime.settle()
  expect([left.length, appender.releases]).toEqual([AT_ONCE + 10, 0])
})

test('I10: questions that wait for a look at the store, and answers on their way out, count in the bound', async () => {
  const world = await openWorld()
  const { id } = await world.prepare()
  let open = (): void => {}
  world.hook = ({ method, moment }) =>
    method === 'verify' && moment === 'before'
      ? new Promise<void>((resolve) => {
          open = resolve
        })
      : undefined
  const { engine } = world.coordinator
  let answered = 0
  const late: (EscrowError | undefined)[] = []
  const ask = (reply: (error: EscrowError | undefined) => void): void =>
    engine.request({ op: 'get', request: { id } }, reply, {
      deadlineMs: world.clock.now() + 60_000,
      fresh: false,
    })
  const askLate = (): void => ask((error) => late.push(error))
  ask(() => {})
  await world.clock.settle()
  // These collect behind the first look, and are one batch on its way afterwards.
  for (let n = 0; n < 99_999; n++) {
    ask(() => {
      answered += 1
      // The first one has left: 99,998 are on their way out.
      if (answered === 1) for (let more = 0; more < 5; more++) askLate()
    })
  }
  open()
  await world.clock.settle()
  expect(answered).toBe(0)
  for (let n = 0; n < 3; n++) askLate()
  await world.clock.settle()
  expect(late.map((error) => error?.code)).toEqual(['overloaded', 'overloaded'])
  late.length = 0
  open()
  await world.clock.settle()
  expect(answered).toBe(99_999)
  expect(late.filter((error) => error?.details.limit === 'QUESTIONS_MAX').length).toBe(4)
  world.hook = () => {}
  open()
  await world.clock.settle()
  expect(late.length).toBe(6)
})
