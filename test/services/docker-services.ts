/** PostgreSQL and the brokers in containers, as the tests use them. Each starts what docker-compose.yml describes. */
import { connect } from 'node:net'
import { Client } from 'pg'
import type { PostgresOptions } from '../../examples/shop/embedded-postgres.ts'
import type { BrokerService } from './broker-service.ts'
import { composeService } from './compose.ts'
import { DockerServer, type DockerServerOptions } from './docker.ts'
import { startFaultProxy } from './fault-proxy.ts'
import type { NatsOptions, NatsService } from './nats.ts'
import type { PostgresService } from './postgres.ts'
import { declareQueue, type RabbitOptions, type RabbitService } from './rabbitmq.ts'
import type { RedisOptions, RedisService } from './redis.ts'

const ANSWER_MS_MAX = 5_000
const HELLO_BYTES_MAX = 65_536

/** PostgreSQL; about 2 s. */
export async function startDockerPostgres(
  options: Pick<PostgresOptions, 'settings'> = {},
): Promise<PostgresService> {
  const { POSTGRES_USER: user, POSTGRES_PASSWORD: password } = composeService('postgres').environment ?? {}
  const urlOf = (port: number, database: string) =>
    `postgres://${user}:${password}@127.0.0.1:${port}/${encodeURIComponent(database)}`
  const settings = Object.entries(options.settings ?? {})
  const inside = 5432
  const server = await DockerServer.start({
    name: 'postgres',
    // As the first argument, because docker-compose.yml leaves the image its own command.
    args: ['postgres', ...settings.flatMap(([name, value]) => ['-c', `${name}=${value}`])],
    ports: [inside],
    answers: (port) => answerOf(urlOf(port, 'postgres'), 'show server_version'),
  })
  const port = server.hostPort(inside)
  return {
    ...faultsOf(server),
    backend: 'docker',
    version: server.version,
    port,
    url: urlOf(port, 'postgres'),
    async database(name) {
      try {
        await answerOf(urlOf(port, 'postgres'), `create database "${name.replaceAll('"', '""')}"`)
      } catch (error) {
        const duplicate = '42P04'
        if ((error as { code?: string }).code !== duplicate) throw error
      }
      return urlOf(port, name)
    },
    stop: () => server.stop(),
  }
}

async function answerOf(url: string, sql: string): Promise<string> {
  const client = new Client({ connectionString: url, connectionTimeoutMillis: ANSWER_MS_MAX })
  client.on('error', () => {})
  await client.connect()
  try {
    const { rows } = await client.query<unknown[]>({ text: sql, rowMode: 'array' })
    return String(rows[0]?.[0] ?? '').split(' ')[0]!
  } finally {
    await client.end()
  }
}

/** Redis; under a second. Settings are those of redis.conf, after what docker-compose.yml says. */
export async function startDockerRedis({ settings = {} }: RedisOptions = {}): Promise<RedisService> {
  const password = optionOf('redis', '--requirepass')
  const inside = 6379
  const { server, ...service } = await startBroker({
    name: 'redis',
    args: Object.entries(settings).flatMap(([name, value]) => [`--${name}`, value]),
    ports: [inside],
    answers: (port) =>
      hello(port, `AUTH ${password}\r\nPING\r\nINFO server\r\n`, /\+PONG[\s\S]*redis_version:(\S+)/),
  })
  return { ...service, password, directPort: server.hostPort(inside) }
}

/** RabbitMQ; about 8 s. Settings are lines of rabbitmq.conf. */
export async function startDockerRabbit({ settings = [] }: RabbitOptions = {}): Promise<RabbitService> {
  const { environment, hostname } = composeService('rabbitmq')
  const [inside, management] = [5672, 15_672]
  const { server, ...service } = await startBroker({
    name: 'rabbitmq',
    ports: [inside, management],
    ...(settings.length > 0 && {
      files: { '/etc/rabbitmq/conf.d/90-test.conf': `${settings.join('\n')}\n` },
    }),
    // Connection.Start, in which the server tells its properties; `S` is a long string of AMQP.
    answers: (port) => hello(port, 'AMQP\0\0\x09\x01', /versionS\0\0\0.([\d.]+)/),
  })
  const user = `${environment?.RABBITMQ_DEFAULT_USER}:${environment?.RABBITMQ_DEFAULT_PASS}`
  const directUrl = `amqp://${user}@127.0.0.1:${server.hostPort(inside)}`
  const control = async (...args: string[]): Promise<string> => {
    const { exitCode, output } = await server.exec(['rabbitmqctl', ...args])
    if (exitCode !== 0) throw new Error(`rabbitmqctl ${args[0]} ended with ${exitCode}: ${output}`)
    return output
  }
  return {
    ...service,
    url: service.proxy.through(directUrl),
    directUrl,
    managementUrl: `http://${user}@127.0.0.1:${server.hostPort(management)}`,
    node: `rabbit@${hostname}`,
    declareQueue: (...queue) => declareQueue({ directUrl, control }, ...queue),
    control,
  }
}

/** NATS; under a second. The configuration is nats-server's, beside the arguments in docker-compose.yml. */
export async function startDockerNats({ configuration = '' }: NatsOptions = {}): Promise<NatsService> {
  const inside = 4222
  const file = '/etc/nats-test.conf'
  const { server, ...service } = await startBroker({
    name: 'nats',
    ...(configuration !== '' && { args: ['--config', file], files: { [file]: configuration } }),
    ports: [inside],
    answers: (port) => hello(port, '', /^INFO .*"version":"([^"]+)"/),
  })
  const user = optionOf('nats', '--user')
  return { ...service, user, password: optionOf('nats', '--pass'), directPort: server.hostPort(inside) }
}

/** What docker-compose.yml gives as an option of a command. */
function optionOf(name: string, option: string): string {
  const command = composeService(name).command ?? []
  const at = command.indexOf(option)
  if (at < 0) throw new Error(`docker-compose.yml starts ${name} without ${option}`)
  return command[at + 1]!
}

async function startBroker(options: DockerServerOptions): Promise<BrokerService & { server: DockerServer }> {
  const server = await DockerServer.start(options)
  const proxy = await startFaultProxy({
    target: { host: '127.0.0.1', port: server.hostPort(options.ports[0]!) },
  })
  return {
    ...faultsOf(server),
    server,
    backend: 'docker',
    version: server.version,
    host: proxy.host,
    port: proxy.port,
    proxy,
    async stop() {
      await proxy.close()
      await server.stop()
    },
  }
}

function faultsOf(server: DockerServer) {
  return {
    pause: () => server.pause(),
    resume: () => server.resume(),
    kill: () => server.kill(),
    start: () => server.start(),
  }
}

/** Says something to a server, and returns what the pattern takes out of its answer. */
function hello(port: number, words: string, pattern: RegExp): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: '127.0.0.1', port })
    let said = ''
    const failed = (): void => {
      socket.destroy()
      reject(new Error(`no answer at port ${port}`))
    }
    socket.setTimeout(ANSWER_MS_MAX, failed)
    socket.once('error', failed).once('close', failed)
    socket.setEncoding('latin1').on('data', (text) => {
      said = `${said}${text}`.slice(-HELLO_BYTES_MAX)
      const found = pattern.exec(said)?.[1]
      if (found === undefined) return
      resolve(found)
      socket.destroy()
    })
    socket.write(words, 'latin1')
  })
}
