import { beforeEach, expect, test } from 'vitest'
import { EscrowError } from '../../src/core/errors.ts'
import { PatientRequests } from '../../src/rpc/patient-requests.ts'
import { FakeCoordination } from './fake-coordination.ts'
import { FakeRuntime } from './fake-time.ts'

let fake: FakeCoordination
let runtime: FakeRuntime
let isStopping: boolean
let requests: PatientRequests
beforeEach(() => {
  fake = new FakeCoordination()
  runtime = new FakeRuntime()
  isStopping = false
  requests = new PatientRequests({
    coordination: fake,
    runtime: {
      now: () => runtime.nowMs,
      random: () => 0.5,
      setTimer: (callback, delayMs) => runtime.setTimer(callback, delayMs),
    },
    waitingMax: 2,
    isStopping: () => isStopping,
  })
})

const settle = () => new Promise((resolve) => setImmediate(resolve))
async function pass(ms: number): Promise<void> {
  for (let i = 0; i < ms; i++) {
    runtime.pass(1)
    await settle()
  }
}
const commit = (deadlineMs: number) =>
  requests.request('commit', { id: 'x' }, deadlineMs).then(
    ({ status }) => status,
    (error: EscrowError) => error.code,
  )

test('a request whose log moves is made again after pauses that double, until a node owns it', async () => {
  fake.failure = new EscrowError('notOwner', 'it moves')
  const answer = commit(10_000)
  await pass(300)
  // At 0, 26, 77 and 178 ms: half of 50, 100 and 200, and one each; the next one comes at 379.
  expect(fake.requests.length).toBe(4)
  fake.failure = undefined
  await pass(100)
  expect(await answer).toBe('committed')
  expect(fake.requests.every(({ options }) => options.deadlineMs === 10_000 && !options.fresh)).toBe(true)
  expect(runtime.timers).toBe(0)
})

test('its caller is told before its time is over, and of any other error at once', async () => {
  fake.failure = new EscrowError('notOwner', 'it moves')
  const late = commit(50)
  await pass(49)
  expect(await late).toBe('notOwner')
  expect(fake.requests.length).toBe(2)
  for (const code of ['uncertain', 'overloaded', 'notFound'] as const) {
    fake.failure = new EscrowError(code, 'no')
    expect(await commit(10_000)).toBe(code)
  }
  expect(fake.requests.length).toBe(5)
})

test('so many wait at once and no more, and nobody while the coordinator stops', async () => {
  fake.failure = new EscrowError('notOwner', 'it moves')
  const [one, two] = [commit(10_000), commit(10_000)]
  await settle()
  expect(await commit(10_000)).toBe('notOwner')
  isStopping = true
  await pass(30)
  expect([await one, await two]).toEqual(['notOwner', 'notOwner'])
  expect(fake.requests.length).toBe(3)
  isStopping = false
  fake.failure = undefined
  expect(await commit(10_000)).toBe('committed')
})
