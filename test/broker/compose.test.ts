import { spawnSync } from 'node:child_process'
import { jetstream, jetstreamManager } from '@nats-io/jetstream'
import { connect as connectNats } from '@nats-io/transport-node'
import { createClient } from '@redis/client'
import { connect as connectRabbit } from 'amqplib'
import { Client } from 'pg'
import { expect, type TestContext, test } from 'vitest'
import { until } from '../harness/until.ts'
import { type ComposeService, composeFile, composeService, readCompose } from '../services/compose.ts'
import { openEngine, runLabel } from '../services/engine.ts'
import { type ImageName, imageNames } from '../services/images.ts'
import { runPid } from '../services/ledger.ts'
import { service } from '../services/require.ts'

const compose = readCompose()
const all = Object.entries(compose.services)
/** What serves, and isn't a program of ours in Node's image. */
const servers = all.filter(([, { image }]) => !image.startsWith('node:'))

test('it starts the store, two coordinators and every broker', () => {
  const names = ['postgres', 'escrow-1', 'escrow-2', 'kafka', 'rocketmq', 'rabbitmq', 'redis', 'nats']
  expect(Object.keys(compose.services)).toEqual(expect.arrayContaining(names))
})

test('every image has a version, and is the project that publishes the server', () => {
  const images = ['postgres', 'apache/kafka', 'apache/rocketmq', 'rabbitmq', 'redis', 'nats', 'node']
  for (const [name, { image }] of all) {
    expect(image, name).toMatch(/^[a-z/]+:\d[\w.-]*$/)
    expect(images, name).toContain(image.split(':')[0])
  }
})

test('every server has a health check, which whoever depends on it waits for', () => {
  for (const [name, { healthcheck }] of servers) {
    expect(healthcheck?.test[0], name).toMatch(/^CMD(-SHELL)?$/)
    expect(healthcheck?.interval, name).toMatch(/^\d+s$/)
  }
  for (const [name, { depends_on }] of all)
    for (const [other, { condition }] of Object.entries(depends_on ?? {})) {
      expect(compose.services, name).toHaveProperty([other])
      const isServer = compose.services[other]?.healthcheck !== undefined
      expect(condition, name).toBe(isServer ? 'service_healthy' : 'service_completed_successfully')
    }
})

test('every port is published on this machine alone, and once', () => {
  const ports = all.flatMap(([, each]) => each.ports ?? [])
  for (const each of ports) expect(each).toMatch(/^127\.0\.0\.1:\d+:\d+$/)
  const onHost = ports.map((each) => each.split(':')[1])
  expect(new Set(onHost).size).toBe(onHost.length)
})

test('what a server stores is in a volume, and no volume is without use', () => {
  const used = all.flatMap(([, { volumes = [] }]) => volumes.map((each) => each.split(':')[0]!))
  const named = used.filter((each) => !each.startsWith('.'))
  expect([...new Set(named)].sort()).toEqual(Object.keys(compose.volumes).sort())
  for (const [name, { volumes = [] }] of servers)
    if (name !== 'rocketmq-names') expect(volumes, name).toHaveLength(1)
})

test('Compose itself finds no fault in it', async (context) => {
  const [program, ...args] = await service('compose', {}, context)
  const checked = spawnSync(program, [...args, '-f', composeFile, 'config', '-q'], { encoding: 'utf8' })
  expect(checked).toMatchObject({ status: 0, stderr: '' })
})

/** Starts it as the file says, compares the container with the file, and waits for the file's own health check. */
async function healthy<N extends ImageName>(name: N, context: TestContext) {
  const server = await service(name, { backend: 'docker' }, context)
  const { dockerode } = (await openEngine()).container
  const label = `${runLabel}=${runPid()}`
  const containers = await dockerode.listContainers({ filters: { label: [label] } })
  expect(containers).toHaveLength(1)
  const look = () => dockerode.getContainer(containers[0]!.Id).inspect()
  const { Config } = await look()
  const { command, environment = {}, healthcheck, hostname, ports = [] } = composeService(name)
  expect(Config.Env).toEqual(
    expect.arrayContaining(Object.entries(environment).map((each) => each.join('='))),
  )
  if (command !== undefined) expect(Config.Cmd).toEqual(command)
  if (hostname !== undefined) expect(Config.Hostname).toBe(hostname)
  expect(Config.Healthcheck?.Test).toEqual(healthcheck?.test)
  const exposed = Object.keys(Config.ExposedPorts)
  expect(exposed).toEqual(expect.arrayContaining(ports.map((each) => `${each.split(':')[2]}/tcp`)))
  expect(volumeOf(composeService(name))).toBe((await look()).Mounts[0]?.Destination)
  await until(`${name} is healthy`, async () => {
    const { State } = await look()
    expect(State.Health?.Status).not.toBe('unhealthy')
    return State.Health?.Status === 'healthy'
  })
  return server
}

const volumeOf = ({ volumes = [] }: ComposeService) => volumes[0]?.split(':')[1]

test('the services that have an image here are those that follow', () => {
  expect(imageNames.toSorted()).toEqual(['nats', 'postgres', 'rabbitmq', 'redis'])
})

test('its PostgreSQL becomes healthy, and takes whom the coordinators come as', async (context) => {
  const postgres = await healthy('postgres', context)
  const { ESCROW_STORE } = composeService('escrow-1').environment ?? {}
  const url = new URL(ESCROW_STORE!)
  expect(url.host).toBe('postgres:5432')
  url.host = `127.0.0.1:${postgres.port}`
  const client = new Client({ connectionString: url.href })
  await client.connect()
  const { rows } = await client.query("select current_database(), current_setting('fsync') as fsync")
  expect(rows).toEqual([{ current_database: 'escrow', fsync: 'on' }])
  await client.end()
})

test('its RabbitMQ becomes healthy, and confirms a message in a quorum queue', async (context) => {
  const rabbit = await healthy('rabbitmq', context)
  const model = await connectRabbit(rabbit.url)
  const channel = await model.createConfirmChannel()
  await channel.assertQueue('orders', { durable: true, arguments: { 'x-queue-type': 'quorum' } })
  channel.sendToQueue('orders', Buffer.from('42'), { persistent: true })
  await channel.waitForConfirms()
  const body = await until('the message is there', async () => {
    const got = await channel.get('orders', { noAck: true })
    return got !== false && String(got.content)
  })
  expect(body).toBe('42')
  await model.close()
  const { username, password, origin } = new URL(rabbit.managementUrl)
  const authorization = `Basic ${btoa(`${username}:${password}`)}`
  expect((await fetch(`${origin}/api/queues`, { headers: { authorization } })).status).toBe(200)
})

test('its Redis becomes healthy, and has a stream that is on the disk when it is confirmed', async (context) => {
  const { host, port, password } = await healthy('redis', context)
  const client = createClient({ socket: { host, port }, password })
  client.on('error', () => {})
  await client.connect()
  expect(await client.sendCommand(['CONFIG', 'GET', 'append*'])).toMatchObject({
    appendonly: 'yes',
    appendfsync: 'always',
  })
  await client.xAdd('orders', '*', { body: '42' })
  const entries = await client.xRange('orders', '-', '+')
  expect(entries?.map(({ message }) => ({ ...message }))).toEqual([{ body: '42' }])
  client.destroy()
})

test('its NATS becomes healthy, and knows a message that comes again', async (context) => {
  const { host, port, user, password } = await healthy('nats', context)
  const connection = await connectNats({ servers: `${host}:${port}`, user, pass: password })
  await (await jetstreamManager(connection)).streams.add({ name: 'orders', subjects: ['orders'] })
  const published = []
  for (const msgID of ['one', 'one', 'two'])
    published.push((await jetstream(connection).publish('orders', '42', { msgID })).duplicate ?? false)
  expect(published).toEqual([false, true, false])
  await connection.close()
})
