/** A hand-written machine whose coordinator is killed before and after each append of it: it ends as if nothing had happened. */
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { type Effect, Ledger } from '../../examples/machines/ledger.ts'
import { connectParticipants } from '../../examples/machines/participants.ts'
import { type Booked, bookTrip, type Trip } from '../../examples/machines/trip.ts'
import { connect, EscrowError, type SagaOutcome, type Session } from '../../src/index.ts'
import { CoordinatorProcess } from '../harness/coordinator-process.ts'

const config = join(import.meta.dirname, '../../examples/machines/escrow.config.ts')
const preload = join(import.meta.dirname, 'programs/kill-at-append.ts')
/** Two appends may become one where answers come together: such a run is repeated. */
const triesMax = 20
/** Of so many unharmed runs the one with the fewest appends counts: what was under way during the hold costs more. */
const unharmedRuns = 3
/** So many coordinators, each with a share of the kills: most of the time is spent waiting. */
const lanes = 4
const endMsMax = 40_000

interface Bench {
  readonly coordinator: CoordinatorProcess
  readonly desk: Session
  readonly ledger: Ledger
  /** Ends the process that runs, and starts one that is killed at this append of this saga. */
  arm(id: string, at: string): Promise<void>
}

/** A coordinator, and the participants in this process, which outlive it. */
async function open(id: string, at: string): Promise<Bench> {
  const env = { NODE_OPTIONS: `--import ${preload}`, KILL_ID: id, KILL_AT: at }
  const coordinator = await CoordinatorProcess.start({ config, env })
  onTestFinished(() => coordinator[Symbol.asyncDispose]())
  const ledger = new Ledger()
  const sessions = await connectParticipants(coordinator.grpc, ledger, { closeTimeoutMs: 0 })
  const desk = await connect(coordinator.grpc, { service: 'trip-desk', closeTimeoutMs: 0 })
  onTestFinished(async () => {
    await Promise.all([desk, ...sessions].map((session) => session.close()))
  })
  return {
    coordinator,
    desk,
    ledger,
    async arm(nextId, nextAt) {
      await coordinator.kill()
      Object.assign(env, { KILL_ID: nextId, KILL_AT: nextAt })
      coordinator.launch()
    },
  }
}

const tripOf = (name: string, card: Trip['card']): Trip => ({
  name,
  price: 900,
  budget: 1_000,
  card,
  fullTimes: 1,
  askAgainMs: 60,
  holdMs: 60,
})

/** Books a trip under the name as its id, and has it held when the hotel is full. */
async function book({ desk }: Bench, name: string, card: Trip['card']): Promise<void> {
  await desk.startSaga({ id: name, saga: bookTrip, input: tripOf(name, card) })
  // After a kill others may be connected again before this desk is, and the trip may have ended by then.
  await desk.signal({ id: name, signal: 'hold', signalId: 'hold' }).catch((error) => {
    if (EscrowError.from(error).code !== 'alreadyEnded') throw error
  })
}

async function ended({ desk }: Bench, id: string): Promise<SagaOutcome<Booked>> {
  try {
    return await desk.waitForSaga<Trip, Booked>({ id }, { timeoutMs: endMsMax })
  } catch (cause) {
    const view = await desk.get({ id }).catch(String)
    throw new Error(`${id} has not ended: ${JSON.stringify(view, undefined, 1)}`, { cause })
  }
}

const BOOKINGS = ['book-hotel', 'fly-back', 'fly-out', 'rent-car']
const STEPS = [...BOOKINGS, 'issue-tickets', 'pay'].toSorted()

/**
 * Holds one trip to the rules, by what its participants say: each execution took effect once; a completed trip has every
 * booking once; a compensated one has none left, undone in reverse. A step that was under way when the trip was put on
 * hold may have been done, undone, and done again.
 */
function check(effects: readonly Effect[], { status, view }: SagaOutcome<Booked>): void {
  const of = (operation: Effect['operation']) => effects.filter((each) => each.operation === operation)
  const [done, undone] = [of('action'), of('compensation')]
  for (const list of [done, undone])
    expect(new Set(list.map(({ executionId }) => executionId)).size).toBe(list.length)
  const undoneAt = (executionId: string) =>
    effects.findIndex((each) => each.operation === 'compensation' && each.executionId === executionId)
  for (const each of undone) {
    const doneAt = effects.findIndex(
      ({ operation, executionId }) => operation === 'action' && executionId === each.executionId,
    )
    expect(doneAt, `${each.step} was done before`).toBeGreaterThanOrEqual(0)
    expect(doneAt).toBeLessThan(undoneAt(each.executionId))
  }

  const left = done.filter(({ executionId }) => undoneAt(executionId) < 0).map(({ step }) => step)
  expect(left.toSorted()).toEqual(status === 'completed' ? STEPS : [])
  // Each step as it was done last, which is how the flow knows it.
  const order = [...new Set(done.map(({ step }) => step).toReversed())].toReversed()
  expect(order.toSorted()).toEqual(status === 'completed' ? STEPS : BOOKINGS)
  const isBefore = (list: readonly string[], one: string, other: string) =>
    expect(list.indexOf(one), `${one} before ${other} in ${list}`).toBeLessThan(list.indexOf(other))
  isBefore(order, 'fly-out', 'fly-back')
  if (status === 'completed') {
    for (const first of BOOKINGS) isBefore(order, first, 'pay')
    return isBefore(order, 'pay', 'issue-tickets')
  }

  const last = done.filter(
    ({ executionId }, at) => done.findLastIndex(({ step }) => step === done[at]?.step) === at && executionId,
  )
  const back = last
    .toSorted((one, other) => undoneAt(one.executionId) - undoneAt(other.executionId))
    .map(({ step }) => step)
  for (const { executionId } of last)
    expect(undoneAt(executionId)).toBeGreaterThan(effects.lastIndexOf(done.at(-1) as Effect))
  isBefore(back, 'fly-back', 'fly-out')
  // What was done before the hold, and not under way during it, stands in an earlier entry into the parallel state than
  // the room that was booked afterwards. Otherwise they are regions of one entry, which unwind each for itself.
  const { executions, tags } = view.saga as NonNullable<typeof view.saga>
  const once = (...steps: readonly string[]) =>
    executions.filter(({ step }) => steps.includes(step)).length === steps.length
  if (tags.held !== 'yes') return
  if (once('rent-car')) isBefore(back, 'book-hotel', 'rent-car')
  if (once('fly-out', 'fly-back')) isBefore(back, 'book-hotel', 'fly-back')
}

interface Unharmed {
  readonly card: Trip['card']
  readonly name: string
  readonly outcome: SagaOutcome<Booked>
}

const nameOf = (variant: string, run: number): string => `${variant.replace(' ', '-')}-${run}`

/** Repeats a run with a kill at each of these appends, one after the other. Answers how often one had to be repeated. */
async function killAt(
  variants: readonly string[],
  { card, name: like, outcome: expected }: Unharmed,
): Promise<number> {
  const bench = await open('', '')
  const { coordinator, ledger } = bench
  let repeated = 0
  const arm = (at: number, run: number) => bench.arm(nameOf(variants[at] ?? 'last', run), variants[at] ?? '')
  await arm(0, 1)
  for (let at = 0, run = 1; at < variants.length; ) {
    const name = nameOf(variants[at] as string, run)
    const booked = book(bench, name, card)
    const isKilled = await Promise.race([
      coordinator.program.ended.then(() => true),
      booked.then(() => ended(bench, name)).then(() => coordinator.program.ending !== undefined),
    ])
    run = isKilled ? 1 : run + 1
    if (isKilled) at += 1
    else repeated += 1
    expect(run, `${variants[at]} is reached`).toBeLessThanOrEqual(triesMax)
    // The process that brings this one to its end is killed by the next one.
    await arm(at, run)
    await booked
    const outcome = await ended(bench, name)
    const effects = ledger.effects.filter(({ trip }) => trip === name)
    try {
      check(effects, outcome)
      const { status, error, output } = outcome
      const tickets = output?.tickets.replace(name, like)
      expect({ status, error, output: output && { ...output, tickets } }).toEqual({
        status: expected.status,
        error: expected.error,
        output: expected.output,
      })
    } catch (cause) {
      const told = JSON.stringify({ effects, saga: outcome.view.saga }, undefined, 1)
      throw new Error(`${name}: ${(cause as Error).message}: ${told}`, { cause })
    }
  }
  return repeated
}

interface Counted extends Unharmed {
  readonly appends: number
}

/** An unharmed run: nothing is done twice in it, but what was under way when the trip was put on hold. */
async function runUnharmed(bench: Bench, name: string, card: Trip['card']): Promise<Counted> {
  await bench.arm(name, '')
  await book(bench, name, card)
  const outcome = await ended(bench, name)
  const effects = bench.ledger.effects.filter(({ trip }) => trip === name)
  check(effects, outcome)
  const { tags, executions } = outcome.view.saga as NonNullable<typeof outcome.view.saga>
  expect(tags).toEqual({ held: 'yes' })
  const beside = BOOKINGS.filter((step) => step !== 'book-hotel')
  const again = executions.filter(({ step }) => beside.includes(step)).length - beside.length
  const once = card === 'good' ? STEPS.length : 2 * BOOKINGS.length
  expect(effects.length).toBeGreaterThanOrEqual(once)
  expect(effects.length).toBeLessThanOrEqual(once + 2 * again)
  const appends = [...bench.coordinator.program.output.matchAll(/^appended/gm)].length
  expect(appends).toBeGreaterThan(10)
  return { card, name, outcome, appends }
}

/** Counts the appends of an unharmed run, and repeats it with a kill before and after each of them. */
async function killAtEach(card: Trip['card']): Promise<void> {
  const bench = await open('', '')
  const runs: Counted[] = []
  for (let run = 1; run <= unharmedRuns; run++) runs.push(await runUnharmed(bench, `unharmed-${run}`, card))
  const unharmed = runs.reduce((fewest, each) => (each.appends < fewest.appends ? each : fewest))
  const { appends: count, outcome } = unharmed

  const variants = Array.from({ length: count }, (_, n) => [`before ${n + 1}`, `after ${n + 1}`]).flat()
  const shares = Array.from({ length: lanes }, (_, lane) => variants.filter((_, at) => at % lanes === lane))
  const repeated = await Promise.all(shares.map((share) => killAt(share, unharmed)))
  console.log(`${outcome.status}: ${count} appends, ${variants.length} kills; repeated by lane: ${repeated}`)
}

/**
 * Kills every process that drives a trip at its fifth append of it. Answers how many that took. What was in flight is sent
 * again first, which is an append for each of up to four services: with fewer no process would come any further.
 */
async function killEach(card: Trip['card']): Promise<number> {
  const bench = await open(card, 'after 5')
  const booked = book(bench, card, card)
  let isEnded = false
  const outcome = booked
    .then(() => ended(bench, card))
    .finally(() => {
      isEnded = true
    })
  let kills = 0
  while (!isEnded) {
    await Promise.race([outcome, bench.coordinator.program.ended])
    if (isEnded) break
    kills += 1
    await bench.arm(card, 'after 5')
  }
  check(bench.ledger.effects, await outcome)
  expect((await outcome).status).toBe(card === 'good' ? 'completed' : 'compensated')
  return kills
}

test('completed: each append with a kill before it and after it', () => killAtEach('good'))

test('compensated: each append with a kill before it and after it', () => killAtEach('declined'))

test('killed again and again, while it recovers from the kill before: each process comes further', async () => {
  const kills = await Promise.all([killEach('good'), killEach('declined')])
  console.log(`${kills} kills`)
  for (const each of kills) expect(each).toBeGreaterThanOrEqual(2)
})
