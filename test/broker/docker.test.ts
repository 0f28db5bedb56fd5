import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect as connectTo } from 'node:net'
import { join } from 'node:path'
import { jetstream, jetstreamManager } from '@nats-io/jetstream'
import { connect as connectNats } from '@nats-io/transport-node'
import { createClient } from '@redis/client'
import { connect as connectRabbit } from 'amqplib'
import { Client } from 'pg'
import { expect, test } from 'vitest'
import { until } from '../harness/until.ts'
import { openEngine, runLabel } from '../services/engine.ts'
import type { NatsService } from '../services/nats.ts'
import type { RabbitService } from '../services/rabbitmq.ts'
import type { RedisService } from '../services/redis.ts'
import { service } from '../services/require.ts'

/** What a test wants of any of them: something that stays, and a word with the server. */
interface Probe {
  keep(): Promise<void>
  kept(): Promise<boolean>
}

interface Troubled {
  readonly port: number
  pause(): Promise<void>
  resume(): Promise<void>
  kill(): Promise<void>
  start(): Promise<void>
}

/** Freezes the server, and kills it: what was kept is there each time, at the same address. */
async function troubled(server: Troubled, { keep, kept }: Probe): Promise<void> {
  const { port } = server
  await keep()
  await server.pause()
  let answered = false
  const answer = kept().then((isKept) => {
    answered = true
    return isKept
  })
  await new Promise((resolve) => setTimeout(resolve, 200))
  expect(answered).toBe(false)
  await server.resume()
  expect(await answer).toBe(true)
  await server.kill()
  await expect(kept()).rejects.toThrow()
  await server.start()
  expect(await kept()).toBe(true)
  expect(server.port).toBe(port)
  await server.pause()
  await server.kill()
  await server.start()
  expect(await kept()).toBe(true)
}

test('PostgreSQL in a container flushes, can be frozen, and has what was committed after SIGKILL', async (context) => {
  const postgres = await service('postgres', { backend: 'docker', settings: { work_mem: '5MB' } }, context)
  const url = await postgres.database('kept')
  const ask = async (sql: string): Promise<unknown> => {
    const client = new Client({ connectionString: url, connectionTimeoutMillis: 5_000 })
    client.on('error', () => {})
    await client.connect()
    try {
      return (await client.query<unknown[]>({ text: sql, rowMode: 'array' })).rows[0]?.[0]
    } finally {
      await client.end()
    }
  }
  expect(await ask('show fsync')).toBe('on')
  expect(await ask('show synchronous_commit')).toBe('on')
  expect(await ask('show work_mem')).toBe('5MB')
  await troubled(postgres, {
    keep: async () => {
      await ask('create table kept as select 42 as value')
    },
    kept: async () => (await ask('select value from kept')) === 42,
  })
})

test('Redis in a container confirms what is on the disk, and has it after SIGKILL', async (context) => {
  const redis: RedisService = await service(
    'redis',
    { backend: 'docker', settings: { maxclients: '77' } },
    context,
  )
  const ask = async (...words: string[]): Promise<unknown> => {
    const { host, port, password } = redis
    const client = createClient({ socket: { host, port, reconnectStrategy: false }, password })
    client.on('error', () => {})
    await client.connect()
    try {
      return await client.sendCommand(words)
    } finally {
      client.destroy()
    }
  }
  expect(await ask('CONFIG', 'GET', 'appendfsync')).toEqual({ appendfsync: 'always' })
  expect(await ask('CONFIG', 'GET', 'maxclients')).toEqual({ maxclients: '77' })
  await troubled(redis, {
    keep: async () => {
      await ask('SET', 'kept', '42')
    },
    kept: async () => (await ask('GET', 'kept')) === '42',
  })
})

test('RabbitMQ in a container has a confirmed message in a durable queue after SIGKILL', async (context) => {
  const settings = ['max_message_size = 1048576']
  const rabbit: RabbitService = await service('rabbitmq', { backend: 'docker', settings }, context)
  const onChannel = async <T>(work: (channel: Channel) => Promise<T>): Promise<T> => {
    const model = await connectRabbit(rabbit.url, { timeout: 5_000 })
    model.on('error', () => {})
    try {
      return await work(await model.createConfirmChannel())
    } finally {
      await model.close().catch(() => {})
    }
  }
  const shown = await rabbit.control('environment')
  expect(shown).toContain('{max_message_size,1048576}')
  expect((await fetch(`${new URL(rabbit.managementUrl).origin}/api/overview`)).status).toBe(401)
  await onChannel((channel) => channel.assertQueue('kept', { durable: true }))
  // RabbitMQ may forget a queue when it is killed within two seconds of its declaration, whatever was confirmed in it.
  await rabbit.control('stop_app')
  await rabbit.control('start_app')
  await troubled(rabbit, {
    keep: () =>
      onChannel(async (channel) => {
        channel.sendToQueue('kept', Buffer.from('42'), { persistent: true })
        await channel.waitForConfirms()
      }),
    kept: () => onChannel(async (channel) => (await channel.checkQueue('kept')).messageCount === 1),
  })
})

type Channel = Awaited<ReturnType<Awaited<ReturnType<typeof connectRabbit>>['createConfirmChannel']>>

test('NATS in a container has what a stream confirmed after SIGKILL', async (context) => {
  const nats: NatsService = await service(
    'nats',
    { backend: 'docker', configuration: 'max_payload: 2MB' },
    context,
  )
  const onConnection = async <T>(work: (connection: Connection) => Promise<T>): Promise<T> => {
    const { host, port, user, password } = nats
    const connection = await connectNats({
      servers: `${host}:${port}`,
      user,
      pass: password,
      reconnect: false,
    })
    try {
      return await work(connection)
    } finally {
      await connection.close()
    }
  }
  expect(await onConnection(async ({ info }) => info?.max_payload)).toBe(2 * 1_048_576)
  await troubled(nats, {
    keep: () =>
      onConnection(async (connection) => {
        await (await jetstreamManager(connection)).streams.add({ name: 'kept', subjects: ['kept'] })
        await jetstream(connection).publish('kept', '42')
      }),
    kept: () =>
      onConnection(async (connection) => {
        const { state } = await (await jetstreamManager(connection)).streams.info('kept')
        return state.messages === 1
      }),
  })
})

type Connection = Awaited<ReturnType<typeof connectNats>>

test('clients reach a container through the proxy, and only this machine reaches it', async (context) => {
  const redis = await service('redis', { backend: 'docker' }, context)
  const client = connectTo({ host: redis.host, port: redis.port })
  await once(client, 'connect')
  client.write('PING\r\n')
  expect(String((await once(client, 'data'))[0])).toMatch(/NOAUTH/)
  expect(redis.proxy.passed('up')).toBe('PING\r\n'.length)
  client.destroy()
  const engine = await openEngine()
  const containers = await engine.container.dockerode.listContainers({ filters: { label: [runLabel] } })
  const published = containers.flatMap(({ Ports }) =>
    Ports.filter(({ PublicPort }) => PublicPort !== undefined),
  )
  expect(published.map(({ PublicPort }) => PublicPort)).toContain(redis.directPort)
  expect(new Set(published.map(({ IP }) => IP))).toEqual(new Set(['127.0.0.1']))
})

test('a container whose owner was killed is removed by the next that uses the engine', async (context) => {
  await service('redis', { backend: 'docker' }, context)
  const program = join(import.meta.dirname, '../services/docker-services.ts')
  const code = `const { startDockerRedis } = await import(${JSON.stringify(program)})
    await startDockerRedis()
    console.log('started')
    setInterval(() => {}, 1000)`
  const { ESCROW_TEST_RUN_FOLDER: _, ...env } = process.env
  const child = spawn(process.execPath, ['--input-type=module', '--eval', code], { env })
  const ofChild = async () => {
    const { dockerode } = (await openEngine()).container
    return await dockerode.listContainers({ all: true, filters: { label: [`${runLabel}=${child.pid}`] } })
  }
  await once(child.stdout, 'data')
  expect(await ofChild()).toHaveLength(1)
  child.kill('SIGKILL')
  await once(child, 'close')
  await until('its container is removed', async () => (await ofChild()).length === 0 || undefined)
})
