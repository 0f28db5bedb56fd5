/** "SIGTERM and SIGKILL anywhere": at random moments of start, recovery, load, drain and idleness; nothing is lost or doubled. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, onTestFinished, test } from 'vitest'
import { CoordinatorProcess } from '../harness/coordinator-process.ts'
import { Load } from '../harness/load.ts'
import { seeded } from '../harness/seed.ts'

const rounds = 8
/** From the launch on: about the first third of it the process is starting, or recovering what the last one left. */
const momentMsMax = 1_800
/** Drain and store together, with some of what a busy machine takes. */
const terminateMsMax = 20_000

async function startLoad(name: string) {
  const { random, between } = seeded(name)
  const coordinator = await CoordinatorProcess.start({ options: { drainMsMax: 5_000 } })
  onTestFinished(() => coordinator[Symbol.asyncDispose]())
  const load = await Load.connect({ target: coordinator.grpc, random })
  onTestFinished(() => load.close())
  load.begin()
  return { coordinator, load, between }
}

test('SIGKILL anywhere: every transaction has one outcome, and what was committed is delivered', async () => {
  const { coordinator, load, between } = await startLoad('SIGKILL anywhere')
  for (let round = 0; round < rounds; round++) {
    await sleep(between(0, momentMsMax))
    expect(await coordinator.kill()).toEqual({ code: null, signal: 'SIGKILL' })
    coordinator.launch()
  }
  await coordinator.ready()
  const count = await load.settle()
  expect(count).toBeGreaterThan(rounds * 10)
  // No request failed either: each was sent again under its id, until it was answered.
  expect(load.errors).toEqual([])
})

test('SIGTERM anywhere: it ends with 0 in time, clients see a reconnect and nothing else', async () => {
  const { coordinator, load, between } = await startLoad('SIGTERM anywhere')
  for (let round = 0; round < rounds; round++) {
    await sleep(between(0, momentMsMax))
    const { program } = coordinator
    const from = performance.now()
    const { code, signal } = await coordinator.terminate()
    // Before its first line runs, a process ends as the system has it: it has not opened anything.
    const hasBegun = program.output !== '' || code !== null
    expect({ code, signal }).toEqual(hasBegun ? { code: 0, signal: null } : { code: null, signal: 'SIGTERM' })
    expect(performance.now() - from).toBeLessThan(terminateMsMax)
    expect(program.output).not.toMatch(/ended as by a crash|error/i)
    coordinator.launch()
  }
  await coordinator.ready()
  const count = await load.settle()
  expect(count).toBeGreaterThan(rounds * 10)
  expect(load.errors).toEqual([])
})

test('SIGTERM twice ends it at once, as a crash does, and nothing is lost', async () => {
  const { coordinator, load } = await startLoad('SIGTERM twice')
  await sleep(300)
  coordinator.program.signal('SIGTERM')
  await sleep(20)
  const { code, signal } = await coordinator.terminate()
  // The first one may have been through already.
  expect([143, 0], String(signal)).toContain(code)
  await coordinator.start()
  expect(await load.settle()).toBeGreaterThan(10)
  expect(load.errors).toEqual([])
})
