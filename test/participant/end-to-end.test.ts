import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Coordinator, createCoordinator } from '../../src/coordinator.ts'
import { type PostgresBarrier, postgresBarrier } from '../../src/participant/barrier/postgres-barrier.ts'
import { connect } from '../../src/participant/connect.ts'
import { participant } from '../../src/participant/participant.ts'
import type { ReceivedMessage } from '../../src/participant/received-message.ts'
import type { Session } from '../../src/participant/session.ts'
import { service } from '../services/require.ts'
import { BarrierWorld } from './barrier-world.ts'

const postgres = await service('postgres')
const folder = mkdtempSync(join(tmpdir(), 'escrow-end-to-end-'))
const closing: (() => Promise<unknown>)[] = []
let coordinator: Coordinator
let orders: BarrierWorld
let stock: BarrierWorld
let ordersBarrier: PostgresBarrier
let session: Session

beforeAll(async () => {
  coordinator = createCoordinator({ store: `embedded:${folder}`, grpc: { port: 0 }, http: { port: 0 } })
  await coordinator.start()
  const target = `127.0.0.1:${coordinator.addresses.grpc?.port}`
  orders = new BarrierWorld(await postgres.database('orders'))
  stock = new BarrierWorld(await postgres.database('stock'))
  await Promise.all([orders.prepare(), stock.prepare()])
  ordersBarrier = await postgresBarrier(orders.pool)
  const stockBarrier = await postgresBarrier(stock.pool)
  const take = (message: ReceivedMessage) =>
    stockBarrier.run(message, stock.pool, (client) =>
      client.query('insert into work values ($1)', [message.text()]),
    )
  const options = { barrier: stockBarrier }
  const connected = await participant('inventory', { take }, options).connect(target)
  const byGrpc = await participant('payment', { take }, options).listen(0, { register: target })
  const register = `http://127.0.0.1:${coordinator.addresses.http?.port}`
  const byHttp = await participant('audit', { take }, options).listen(0, { protocol: 'http', register })
  session = await connect(target, { service: 'orders' })
  await session.registerChecker('orders', ordersBarrier.checker)
  for (const each of [session, connected, byGrpc, byHttp]) closing.push(() => each.close())
})

afterAll(async () => {
  await Promise.all(closing.map((close) => close()))
  await coordinator?.stop()
  await Promise.all([orders?.pool.end(), stock?.pool.end()])
  rmSync(folder, { recursive: true, force: true })
})

const place = (id: string, more: (id: string) => void = () => {}) => {
  let transaction = ''
  const sending = session.sendInTransaction(
    {
      checker: 'orders',
      messages: [
        { to: 'inventory/take', body: id },
        { to: 'payment/take', bodyAtCommit: true, contentType: 'text/plain' },
        { to: 'audit/take', body: id },
      ],
    },
    async (tx) => {
      transaction = tx.id
      await ordersBarrier.run(tx, orders.pool, async (client) => {
        await client.query('insert into work values ($1)', [id])
        tx.fixBody(1, id)
        if (id === 'throws inside') throw new Error('no')
      })
      more(tx.id)
    },
  )
  return sending.then(
    () => transaction,
    () => transaction,
  )
}

test('messages are delivered by session, gRPC and HTTP when the local transaction committed', async () => {
  const id = await place('committed')
  expect(await session.wait({ id })).toMatchObject({ status: 'delivered', settledBy: 'caller' })
  expect([await orders.done('committed'), await stock.done('committed')]).toEqual([1, 3])
})

test('a service that fails between its local commit and its word is settled by the check-back, with the bodies that it fixed', async () => {
  const id = await place('crashed', () => {
    throw new Error('crash')
  })
  expect(await session.wait({ id })).toMatchObject({ status: 'delivered', settledBy: 'checkBack' })
  expect([await orders.done('crashed'), await stock.done('crashed')]).toEqual([1, 3])
})

test('nothing is delivered when the local transaction rolled back', async () => {
  const id = await place('throws inside')
  expect(await session.wait({ id })).toMatchObject({ status: 'rolledBack', settledBy: 'checkBack' })
  expect([await orders.done('throws inside'), await stock.done('throws inside')]).toEqual([0, 0])
})
