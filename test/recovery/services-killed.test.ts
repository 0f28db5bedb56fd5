/** Services are killed: between their local commit and their word, before it, in the middle of a handler, while they listen. */
import { Pool } from 'pg'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { connect, postgresBarrier } from '../../src/index.ts'
import { CoordinatorProcess, freePort } from '../harness/coordinator-process.ts'
import type { Program } from '../harness/program.ts'
import { until } from '../harness/until.ts'
import { service } from '../services/require.ts'
import { openShop, type Shop } from './shop.ts'

const postgres = await service('postgres')
let shop: Shop
let coordinator: CoordinatorProcess
beforeAll(async () => {
  shop = await openShop(postgres, 'services')
  coordinator = await CoordinatorProcess.start()
})
afterAll(async () => {
  await coordinator[Symbol.asyncDispose]()
  await shop.close()
})

/** Starts a program that ends with the test. */
function run(...args: Parameters<Shop['run']>): Program {
  const program = shop.run(...args)
  onTestFinished(() => void program.kill())
  return program
}

const statusOf = async (id: string): Promise<string> =>
  (await coordinator.ask('Get', { id })).transaction.status.replace('TRANSACTION_STATUS_', '')

describe('the service that sends', () => {
  /** Another instance of the order desk, which can answer check-backs. */
  async function anotherInstance(): Promise<void> {
    const pool = new Pool({ connectionString: await postgres.database('services_orders'), max: 2 })
    const barrier = await postgresBarrier(pool, { lockTimeoutMs: 200 })
    const session = await connect(coordinator.grpc, { service: 'order-desk', closeTimeoutMs: 0 })
    await session.registerChecker('orders', barrier.checker)
    onTestFinished(async () => {
      await session.close()
      await pool.end()
    })
  }

  test('killed between its local commit and its word: the check-back settles it as committed', async () => {
    const inventory = run('inventory', coordinator.grpc)
    await inventory.said(/ready/)
    const desk = run('one-order', coordinator.grpc, ['committed-silent', 'after-commit'])
    expect((await desk.end()).signal).toBe('SIGKILL')
    expect(await shop.placed()).toContain('committed-silent')
    expect(await statusOf('committed-silent')).toBe('PREPARED')
    await anotherInstance()
    await until('it is delivered', async () => (await statusOf('committed-silent')) === 'DELIVERED')
    const { transaction } = await coordinator.ask('Get', { id: 'committed-silent' })
    expect(transaction.settledBy).toBe('checkBack')
    expect(await shop.taken('committed-silent')).toEqual({ effects: 1, attempts: 1 })
  })

  test('killed before its local commit: the check-back settles it as rolled back, and nothing is delivered', async () => {
    const inventory = run('inventory', coordinator.grpc)
    await inventory.said(/ready/)
    const desk = run('one-order', coordinator.grpc, ['killed-open', 'before-commit'])
    expect((await desk.end()).signal).toBe('SIGKILL')
    await anotherInstance()
    await until('it is settled', async () => (await statusOf('killed-open')) === 'ROLLED_BACK')
    expect((await coordinator.ask('Get', { id: 'killed-open' })).transaction.settledBy).toBe('checkBack')
    expect(await shop.placed()).not.toContain('killed-open')
    expect(await shop.taken('killed-open')).toEqual({ effects: 0, attempts: 0 })
  })

  test('a zombie that begins its local transaction after the check-back is refused by the barrier', async () => {
    const inventory = run('inventory', coordinator.grpc)
    await inventory.said(/ready/)
    const zombie = run('one-order', coordinator.grpc, ['zombie', 'before-begin'])
    await zombie.said(/stopping/)
    await anotherInstance()
    // The question may go to the zombie first, which stands still: then it is asked again when its time is over.
    await until('it is settled', async () => (await statusOf('zombie')) === 'ROLLED_BACK', 40_000)
    zombie.resume()
    await zombie.said(/ended barrierRefused/)
    expect(await shop.placed()).not.toContain('zombie')
    expect(await statusOf('zombie')).toBe('ROLLED_BACK')
    expect(await shop.taken('zombie')).toEqual({ effects: 0, attempts: 0 })
  })

  test('one that stands still with its local transaction open is unknown, neither committed nor rolled back', async () => {
    const inventory = run('inventory', coordinator.grpc)
    await inventory.said(/ready/)
    const desk = run('one-order', coordinator.grpc, ['in-flight', 'inside'])
    await desk.said(/stopping/)
    await anotherInstance()
    const asked = async (): Promise<number> =>
      (await coordinator.ask('Get', { id: 'in-flight' })).transaction.checks ?? 0
    await until('it has been asked about twice', async () => (await asked()) >= 2, 40_000)
    expect(await statusOf('in-flight')).toBe('PREPARED')
    desk.resume()
    await desk.said(/ended committed/)
    await until('it is delivered', async () => (await statusOf('in-flight')) === 'DELIVERED')
    expect(await shop.placed()).toContain('in-flight')
    expect(await shop.taken('in-flight')).toEqual({ effects: 1, attempts: 1 })
  })
})

describe('the participant that takes', () => {
  /** Holds and commits one message for it; its local transaction is the test's own business. */
  async function commit(id: string): Promise<void> {
    await coordinator.ask('Register', { service: 'test', checkers: ['test'] })
    const body = Buffer.from(JSON.stringify({ id })).toString('base64')
    const retry = { delayMs: '20', delayMsMax: '200', attemptTimeoutMs: '5000', attemptsMax: 1_000 }
    await coordinator.ask('Prepare', {
      id,
      checker: 'test',
      messages: [{ destination: 'inventory/take', body }],
      retry,
    })
    await coordinator.ask('Commit', { id })
  }

  const ways = [
    ['connected', {}],
    ['listening over gRPC', { LISTEN: 'grpc' }],
    ['listening over HTTP', { LISTEN: 'http' }],
  ] as const

  for (const [way, listen] of ways) {
    test(`${way}, killed in the middle of a handler: delivered again, its effect made once`, async () => {
      const id = way.replaceAll(' ', '-')
      const address = 'LISTEN' in listen ? coordinator.http : coordinator.grpc
      const env = { ...listen, PORT: String(await freePort()) }
      const first = run('inventory', address, [], { ...env, DIE: 'inside' })
      await first.said(/ready/)
      await commit(`${id}-inside`)
      expect((await first.end()).signal).toBe('SIGKILL')
      expect(await shop.taken(`${id}-inside`)).toEqual({ effects: 0, attempts: 1 })
      // One that is committed while nobody is there waits for the next one to come, and that costs no attempt.
      await commit(`${id}-after`)
      const second = run('inventory', address, [], { ...env, DIE: 'after' })
      await second.said(/ready/)
      expect((await second.end()).signal).toBe('SIGKILL')
      expect(await shop.taken(`${id}-after`)).toEqual({ effects: 1, attempts: 1 })
      const third = run('inventory', address, [], env)
      await third.said(/ready/)
      for (const point of ['inside', 'after']) {
        const each = `${id}-${point}`
        await until(`${each} is delivered`, async () => (await statusOf(each)) === 'DELIVERED', 30_000)
        expect((await shop.taken(each)).effects, each).toBe(1)
      }
      // Brought twice, and no more: the barrier has told the second time that it was done.
      expect((await shop.taken(`${id}-after`)).attempts).toBe(2)
    })
  }
})
