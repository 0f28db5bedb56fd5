import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type FaultProxy, startFaultProxy } from './fault-proxy.ts'

let echo: Server
let proxy: FaultProxy

beforeEach(async () => {
  echo = createServer({ noDelay: true }, (socket) => {
    socket.on('error', () => {})
    socket.pipe(socket)
  })
  echo.listen(0, '127.0.0.1')
  await once(echo, 'listening')
  proxy = await startFaultProxy({ target: { host: '127.0.0.1', port: (echo.address() as AddressInfo).port } })
})

afterEach(async () => {
  await proxy.close()
  echo.close()
})

interface Client {
  readonly socket: Socket
  readonly received: () => string
  readonly error: () => string | undefined
  until(condition: () => boolean): Promise<void>
}

async function client(): Promise<Client> {
  const socket = connect({ host: proxy.host, port: proxy.port, noDelay: true })
  let received = ''
  let error: string | undefined
  socket.on('data', (bytes) => (received += bytes))
  socket.on('error', (cause: NodeJS.ErrnoException) => (error = cause.code))
  await once(socket, 'connect')
  return {
    socket,
    received: () => received,
    error: () => error,
    until: (condition) => expect.poll(condition, { interval: 5, timeout: 20_000 }).toBe(true),
  }
}

test('passes bytes both ways and a clean end', async () => {
  const one = await client()
  one.socket.end('hello')
  await once(one.socket, 'close')
  expect(one.received()).toBe('hello')
  expect(one.error()).toBeUndefined()
})

test('latency delays each direction', async () => {
  const one = await client()
  proxy.latency(50)
  const from = performance.now()
  one.socket.write('x')
  await one.until(() => one.received() === 'x')
  expect(performance.now() - from).toBeGreaterThanOrEqual(100)
})

test('a blackhole holds everything and heals without losing a byte', async () => {
  const one = await client()
  proxy.blackhole()
  const text = 'x'.repeat(4_000_000)
  one.socket.write(text)
  await sleep(100)
  expect(one.received()).toBe('')
  expect(proxy.passed('up')).toBe(0)
  proxy.heal()
  await one.until(() => one.received() === text)
})

test('reset ends connections with an error and lets new ones pass', async () => {
  const one = await client()
  one.socket.write('x')
  await one.until(() => one.received() === 'x')
  proxy.reset()
  await one.until(() => one.error() === 'ECONNRESET')
  const two = await client()
  two.socket.write('y')
  await two.until(() => two.received() === 'y')
})

test.each([0, 1, 2, 7, 100_000])('cutAfter(%i) lets exactly that many bytes pass', async (bytes) => {
  const one = await client()
  one.socket.write('-')
  await one.until(() => one.received() === '-')
  const cut = proxy.cutAfter(bytes)
  if (bytes > 0) one.socket.write('z'.repeat(bytes + 10))
  await cut
  await one.until(() => one.error() === 'ECONNRESET')
  expect(one.received().length).toBe(1 + bytes)
  expect(proxy.passed('down')).toBe(1 + bytes)
})

test('cutAfter upwards lets the request through and loses the reply', async () => {
  const one = await client()
  const cut = proxy.cutAfter(5, 'up')
  one.socket.write('hello')
  await cut
  await one.until(() => one.error() === 'ECONNRESET')
  expect(proxy.passed('up')).toBe(5)
  expect(proxy.passed('down')).toBe(0)
  expect(one.received()).toBe('')
})

test('a target that is away looks like a reset', async () => {
  echo.close()
  const one = await client()
  await one.until(() => one.error() !== undefined)
})
