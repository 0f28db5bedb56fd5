/** A deploy in the middle of running sagas, forward and back: each goes on with the version that it began with. */
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { Ledger } from '../../examples/machines/ledger.ts'
import { connect, participant, type Session, type StepCall } from '../../src/index.ts'
import { CoordinatorProcess } from '../harness/coordinator-process.ts'
import { until } from '../harness/until.ts'

const config = join(import.meta.dirname, 'programs/deploy.config.ts')
const count = 1_000
/** So many are paid, or begun, at each stage. */
const part = count / 4
const endMsMax = 120_000
/** Longer than a deploy takes, between which the requests of all of them wait. */
const patient = { timeoutMs: endMsMax }

const named = (kind: string, length: number): readonly string[] =>
  Array.from({ length }, (_, n) => `${kind}-${n}`)

/** A service whose checks stand still while `holds` says so. */
class Stock {
  readonly ledger = new Ledger()
  holds = false
  #held: (() => void)[] = []

  async connect(target: string): Promise<Session> {
    const act = async ({ name }: { name: string }, call: StepCall) => this.ledger.act(call, name, '')
    const check = async (input: { name: string }, call: StepCall) => {
      if (this.holds) await new Promise<void>((resolve) => this.#held.push(resolve))
      return act(input, call)
    }
    const undo = (input: { name: string }, _: unknown, call: StepCall) => this.ledger.undo(call, input.name)
    const steps = {
      reserve: { action: act, compensation: undo },
      check: { action: check },
      confirm: { action: act },
    }
    return await participant('stock', steps, { barrier: this.ledger }).connect(target, { closeTimeoutMs: 0 })
  }

  /** How many of these have done this step. */
  done(step: string, names: readonly string[]): number {
    const all = new Set(names)
    return this.ledger.effects.filter((each) => each.step === step && all.has(each.trip)).length
  }

  get held(): number {
    return this.#held.length
  }

  release(): void {
    this.holds = false
    for (const resolve of this.#held.splice(0)) resolve()
  }
}

test('1,000 sagas run while versions come and go: none changes its version, none fails, none is lost', async () => {
  const env = { DEPLOYED: '1' }
  await using coordinator = await CoordinatorProcess.start({ config, env })
  const stock = new Stock()
  const desk = await connect(coordinator.grpc, { service: 'desk', closeTimeoutMs: 0 })
  const session = await stock.connect(coordinator.grpc)
  onTestFinished(async () => {
    await Promise.all([desk.close(), session.close()])
  })
  const deploy = async (versions: string): Promise<void> => {
    env.DEPLOYED = versions
    await coordinator.start()
  }
  const start = (names: readonly string[]) =>
    Promise.all(names.map((id) => desk.startSaga({ id, saga: 'order', input: { name: id } }, patient)))
  const pay = (names: readonly string[]) =>
    Promise.all(names.map((id) => desk.signal({ id, signal: 'paid', signalId: 'paid' }, patient)))
  /** Waits until all have ended, and holds them to their version and to one effect of each step. */
  const complete = async (names: readonly string[], version: number): Promise<void> => {
    const outcomes = await Promise.all(names.map((id) => desk.waitForSaga({ id }, { timeoutMs: endMsMax })))
    for (const { status, error, view } of outcomes)
      expect({ id: view.id, status, error, version: view.saga?.version }).toEqual({
        id: view.id,
        status: 'completed',
        error: '',
        version,
      })
    expect(stock.done('reserve', names)).toBe(names.length)
    expect(stock.done('check', names)).toBe(version === 1 ? 0 : names.length)
    expect(stock.done('confirm', names)).toBe(names.length)
  }
  const statuses = async (names: readonly string[]) =>
    new Set((await Promise.all(names.map((id) => desk.get({ id })))).map(({ status }) => status))

  // Version 1 alone.
  const old = named('old', count)
  await start(old)
  await until('all are reserved', () => stock.done('reserve', old) === count)

  // Forward: an orderly restart with both.
  await coordinator.terminate()
  await deploy('1,2')
  const young = named('young', count)
  const started = await start(young)
  expect(new Set(started.map(({ version }) => version))).toEqual(new Set([2]))
  const pinned = await desk.startSaga({ id: 'pinned', saga: 'order', version: 1, input: { name: 'pinned' } })
  expect(pinned.version).toBe(1)
  await pay([...old.slice(0, part), ...young.slice(0, part), 'pinned'])
  await complete([...old.slice(0, part), 'pinned'], 1)
  await complete(young.slice(0, part), 2)
  // Some have a step under way when the coordinator goes.
  await until('the others are checked', () => stock.done('check', young) === count)
  stock.holds = true
  const middle = named('middle', part)
  await start(middle)
  await until('their checks are under way', () => stock.held === middle.length)

  // Back, by a crash: those of version 2 are held, all others go on.
  await coordinator.kill()
  await deploy('1')
  const held = [...young.slice(part), ...middle]
  stock.release()
  const last = named('last', part)
  expect(new Set((await start(last)).map(({ version }) => version))).toEqual(new Set([1]))
  await pay([...old.slice(part, 3 * part), ...last])
  await complete([...old.slice(part, 3 * part), ...last], 1)
  expect(await statuses(held)).toEqual(new Set(['running']))
  await expect(
    coordinator.ask('SignalSaga', { id: held[0], signal: 'paid', signalId: 'paid' }),
  ).rejects.toMatchObject({ code: 'definitionMissing' })
  await expect(coordinator.ask('CancelSaga', { id: held[0], reason: 'no' })).rejects.toMatchObject({
    code: 'definitionMissing',
  })
  await expect(coordinator.ask('StartSaga', { id: 'none', saga: 'order', version: 2 })).rejects.toMatchObject(
    { code: 'unknownVersion' },
  )
  expect(coordinator.program.output).toMatch(/error.*saga order version 2 isn't defined here/)
  // A session asks again until somebody has the definition.
  const paying = pay(held)
  expect(stock.done('confirm', held)).toBe(0)

  // Forward again.
  await coordinator.terminate()
  await deploy('1,2')
  await paying
  await complete(held, 2)
  await pay(old.slice(3 * part))
  await complete(old.slice(3 * part), 1)
  expect(stock.ledger.effects.filter(({ operation }) => operation === 'compensation')).toEqual([])
})

test('a definition that changed under its version is refused at the start, and harms nothing', async () => {
  const env = { DEPLOYED: '1' }
  await using coordinator = await CoordinatorProcess.start({ config, env })
  const stock = new Stock()
  const session = await stock.connect(coordinator.grpc)
  onTestFinished(() => session.close())
  await session.startSaga({ id: 'old', saga: 'order', input: { name: 'old' } })
  await until('it is reserved', () => stock.done('reserve', ['old']) === 1)

  await coordinator.terminate()
  env.DEPLOYED = '1changed'
  const changed = coordinator.launch()
  const { code } = await changed.end()
  expect(code).not.toBe(0)
  expect(changed.output).toMatch(/definitionChanged/)
  expect(changed.output).toMatch(/order version 1/)

  env.DEPLOYED = '1'
  await coordinator.start()
  await session.signal({ id: 'old', signal: 'paid' })
  expect(await session.waitForSaga({ id: 'old' }, { timeoutMs: endMsMax })).toMatchObject({
    status: 'completed',
    view: { saga: { version: 1 } },
  })
})

test('sagas that were migrated are of the new version for good, whenever the coordinator is killed', async () => {
  const env = { DEPLOYED: '1,3' }
  await using coordinator = await CoordinatorProcess.start({ config, env })
  const stock = new Stock()
  const session = await stock.connect(coordinator.grpc)
  onTestFinished(() => session.close())
  const all = named('order', 100)
  for (const id of all) await session.startSaga({ id, saga: 'order', version: 1, input: { name: id } })
  await until('all are reserved', () => stock.done('reserve', all) === all.length)

  // Killed in the middle: whoever was answered is migrated, and the others' answers come from the next one.
  let answered = 0
  const migrating = Promise.all(
    all.map(async (id) => {
      await session.migrateSaga({ id, toVersion: 3 }, { timeoutMs: endMsMax })
      answered += 1
    }),
  )
  await until('the first is migrated', () => answered > 0)
  await coordinator.kill()
  await coordinator.start()
  await migrating

  // Killed behind it, and nobody has the version any more that they began with.
  await coordinator.kill()
  env.DEPLOYED = '3'
  await coordinator.start()
  await Promise.all(all.map((id) => session.signal({ id, signal: 'paid', signalId: 'paid' })))
  const outcomes = await Promise.all(all.map((id) => session.waitForSaga({ id }, { timeoutMs: endMsMax })))
  expect(new Set(outcomes.map(({ status, view }) => `${status} ${view.saga?.version}`))).toEqual(
    new Set(['completed 3']),
  )
  for (const step of ['reserve', 'check', 'confirm']) expect(stock.done(step, all)).toBe(all.length)
})
