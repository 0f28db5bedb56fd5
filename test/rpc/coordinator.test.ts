import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { memory } from '../../src/broker/memory.ts'
import type { EscrowOptions } from '../../src/config.ts'
import { type Coordinator, createCoordinator } from '../../src/coordinator.ts'
import { addressText } from '../../src/core/address.ts'
import { connect } from '../../src/participant/connect.ts'
import { participant } from '../../src/participant/participant.ts'
import type { ReceivedMessage } from '../../src/participant/received-message.ts'
import { freePort } from '../harness/coordinator-process.ts'
import { until } from './fake-coordination.ts'

let folder: string
const coordinators: Coordinator[] = []
const closers: (() => Promise<unknown> | undefined)[] = []

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'escrow-coordinator-'))
})
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
  for (const coordinator of coordinators.splice(0)) await coordinator.stop()
  rmSync(folder, { recursive: true, force: true })
})

async function start(options: EscrowOptions = {}): Promise<Coordinator> {
  const coordinator = createCoordinator({
    store: { path: join(folder, 'store') },
    grpc: { port: 0 },
    http: { port: 0 },
    drainMsMax: 2000,
    ...options,
  })
  coordinators.push(coordinator)
  await coordinator.start()
  return coordinator
}

async function checkerSession(coordinator: Coordinator) {
  const session = await coordinator.connect({ service: 'orders' })
  closers.push(() => session.close())
  await session.registerChecker('orders', { check: () => 'commit' })
  return session
}

const received: ReceivedMessage[] = []
const audit = () =>
  participant('audit', {
    log: async (message: ReceivedMessage) => {
      received.push(message)
    },
  })

describe('a coordinator, whole', () => {
  beforeEach(() => received.splice(0))

  test('as a library without a server: prepare, commit, delivered to a session and to a broker', async () => {
    const events = memory()
    const coordinator = await start({ listen: false, brokers: { events } })
    expect(coordinator.addresses).toEqual({})
    const session = await checkerSession(coordinator)
    await session.registerHandlers({
      log: async (message: ReceivedMessage) => {
        received.push(message)
      },
    })
    const trace = {
      traceparent: '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01',
      tracestate: '',
      baggage: '',
    }
    const body = new TextEncoder().encode('{"a":1}')
    const { id } = await coordinator.prepare({
      checker: 'orders',
      messages: [
        { destination: 'orders/log', body },
        { destination: 'events:placed', body, headers: { a: 'b' } },
      ],
      trace,
    })
    expect(events.messages('placed')).toEqual([])
    await coordinator.commit({ id })
    expect(await coordinator.wait({ id })).toMatchObject({ status: 'delivered', settledBy: 'caller', trace })
    expect(received.map((message) => message.json())).toEqual([{ a: 1 }])
    expect(events.messages('placed')).toMatchObject([
      { key: '', headers: { a: 'b', traceparent: trace.traceparent } },
    ])
  })

  test.each(['grpc', 'http'] as const)(
    'a participant that listens by %s is called, and known again after a restart',
    async (protocol) => {
      const listening = await audit().listen(protocol === 'grpc' ? { grpc: 0 } : { http: 0 })
      closers.push(() => listening.close())
      const port = listening.grpcPort ?? listening.httpPort
      const url = `${protocol}://127.0.0.1:${port}`
      const first = await start({ listen: false, participants: { audit: { url, handlers: ['log'] } } })
      await checkerSession(first)
      const message = { destination: 'audit/log', body: new TextEncoder().encode('1') }
      const one = await first.prepare({ checker: 'orders', messages: [message] })
      await first.commit({ id: one.id })
      expect(await first.wait({ id: one.id })).toMatchObject({ status: 'delivered' })
      const two = await first.prepare({ checker: 'orders', messages: [message] })
      await first.stop()
      const second = await start({ listen: false })
      await second.commit({ id: two.id })
      expect(await second.wait({ id: two.id })).toMatchObject({ status: 'delivered' })
      expect(received.length).toBe(2)
    },
  )

  test('a listener that isn’t there yet is called once it is, and no attempt is counted before', async () => {
    const port = await freePort()
    const coordinator = await start({
      listen: false,
      participants: { audit: { url: `http://127.0.0.1:${port}`, handlers: ['log'] } },
    })
    await checkerSession(coordinator)
    const { id } = await coordinator.prepare({ checker: 'orders', messages: [{ destination: 'audit/log' }] })
    await coordinator.commit({ id })
    await new Promise((resolve) => setTimeout(resolve, 500))
    expect(await coordinator.get({ id })).toMatchObject({
      status: 'committed',
      deliveries: [{ attempts: 0 }],
    })
    const listening = await audit().listen({ http: port })
    closers.push(() => listening.close())
    expect(await coordinator.wait({ id })).toMatchObject({
      status: 'delivered',
      deliveries: [{ attempts: 0 }],
    })
  })

  test('over the network: a session, unary calls and health on the ports that were chosen', async () => {
    const coordinator = await start()
    const { grpc, http } = coordinator.addresses
    expect((await fetch(`http://${addressText(http!)}/readyz`)).status).toBe(200)
    const session = await connect(addressText(grpc!), { service: 'orders' })
    closers.push(() => session.close())
    await session.registerChecker('orders', { check: () => 'commit' })
    const answer = await fetch(`http://${addressText(http!)}/escrow.v1.CoordinatorService/Register`, {
      method: 'POST',
      body: '{"service":"audit","handlers":["log"]}',
      headers: { 'content-type': 'application/json' },
    })
    expect(answer.status).toBe(200)
    const { id } = await session.prepare({ checker: 'orders', messages: [{ destination: 'audit/log' }] })
    expect(await coordinator.get({ id })).toMatchObject({ status: 'prepared' })
  })

  test('a second coordinator on the same store is refused, and leaves no port open', async () => {
    const first = await start()
    const second = createCoordinator({
      store: { path: join(folder, 'store') },
      grpc: { port: 0 },
      http: { port: 0 },
    })
    await expect(second.start()).rejects.toMatchObject({ code: 'storeInUse' })
    expect(second.addresses).toEqual({})
    await second.stop()
    expect(first.health()).toEqual({ state: 'ready', reason: '' })
  })

  test('a port that is taken ends the start, and gives the store back', async () => {
    const taken = createServer()
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve))
    closers.push(() => new Promise((resolve) => taken.close(resolve)))
    const { port } = taken.address() as AddressInfo
    for (const ports of [
      { http: { port }, grpc: { port: 0 } },
      { http: { port: 0 }, grpc: { port } },
    ]) {
      const coordinator = createCoordinator({ store: { path: join(folder, 'store') }, ...ports })
      await expect(coordinator.start()).rejects.toMatchObject({
        code: 'invalidArgument',
        message: expect.stringContaining('the port is taken'),
      })
    }
    expect((await start()).health().state).toBe('ready')
  })

  test('stopping tells sessions, ends within its bound, and refuses what comes after', async () => {
    const coordinator = await start({ drainMsMax: 1000 })
    const session = await connect(addressText(coordinator.addresses.grpc!), { service: 'orders' })
    closers.push(() => session.close())
    const startedMs = performance.now()
    await Promise.all([coordinator.stop(), coordinator.stop()])
    expect(performance.now() - startedMs).toBeLessThan(5000)
    expect(coordinator.health().state).toBe('draining')
    await expect(coordinator.get({ id: 'a' })).rejects.toMatchObject({ code: 'shuttingDown' })
    expect(coordinator.addresses).toEqual({})
  })

  test('what has not been started answers so', async () => {
    const coordinator = createCoordinator({ store: { path: join(folder, 'store') } })
    await expect(coordinator.get({ id: 'a' })).rejects.toMatchObject({ code: 'shuttingDown' })
    await expect(coordinator.connect({ service: 'a' })).rejects.toMatchObject({ code: 'shuttingDown' })
    expect(coordinator.health().state).toBe('starting')
    await coordinator.stop()
  })

  test('a broker that can’t be made is named', async () => {
    const make = () => Promise.reject(new Error('no such host'))
    await expect(start({ listen: false, brokers: { events: make } })).rejects.toMatchObject({
      message: expect.stringContaining('option brokers.events'),
    })
    coordinators.length = 0
    await until(async () => (await start({ listen: false })).health().state === 'ready', 'the store is free')
  })
})
