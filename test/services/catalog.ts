import { execFileSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import type { PostgresOptions } from '../../examples/shop/embedded-postgres.ts'
import { type Backend, type Running, type Started, startOn } from './backends.ts'
import { composeCommand } from './compose.ts'
import {
  type KafkaCluster,
  type KafkaOptions,
  type KafkaService,
  startKafka,
  startKafkaCluster,
} from './kafka.ts'
import { type NatsOptions, type NatsService, startNats } from './nats.ts'
import { findNode22, type NodeRuntime } from './node22.ts'
import { type PostgresService, startPostgres } from './postgres.ts'
import { type PostgresQueueService, startPostgresQueue } from './postgres-queue.ts'
import {
  type RabbitCluster,
  type RabbitOptions,
  type RabbitService,
  startRabbit,
  startRabbitCluster,
} from './rabbitmq.ts'
import { type RedisOptions, type RedisService, startRedis } from './redis.ts'
import { type RocketmqService, type RocketmqServiceOptions, startRocketmq } from './rocketmq.ts'

interface Entry<T, O> {
  /** The command that installs it; printed wherever it is missing. */
  readonly install: string
  /** Starts it, or throws with the reason why it can't be had. */
  start(options: O): Promise<Started<T>>
}

interface OnBackend {
  /** Runs there or not at all. Default: as `startOn` says. */
  readonly backend?: Backend
}

/** What a test may ask for by `service(name)`. */
export interface Catalog {
  readonly postgres: Entry<PostgresService, PostgresOptions & OnBackend>
  /** As a broker: behind a fault proxy. */
  readonly 'postgres-queue': Entry<PostgresQueueService, PostgresOptions>
  readonly rabbitmq: Entry<RabbitService, RabbitOptions & OnBackend>
  readonly 'rabbitmq-cluster': Entry<RabbitCluster, RabbitOptions>
  readonly redis: Entry<RedisService, RedisOptions & OnBackend>
  readonly nats: Entry<NatsService, NatsOptions & OnBackend>
  readonly kafka: Entry<KafkaService, KafkaOptions>
  readonly 'kafka-cluster': Entry<KafkaCluster, { readonly nodes: number }>
  readonly rocketmq: Entry<RocketmqService, RocketmqServiceOptions>
  readonly compose: Entry<readonly [string, ...string[]], object>
  readonly node22: Entry<NodeRuntime, object>
  readonly 'npm-registry': Entry<undefined, object>
}

const setup = 'npm run services:setup'
/** A broker's tests make it as strict as production, kill it and count what it kept: natively that takes least time. */
const BROKERS: readonly Backend[] = ['native', 'docker']

/** Every service, one entry each. */
export const catalog: Catalog = {
  postgres: {
    install: setup,
    start: (options) =>
      startOn(
        {
          docker: async (each) => (await docker()).startDockerPostgres(each),
          native: (each) => startPostgres('native', each),
          embedded: (each) => startPostgres('embedded', each),
        },
        options,
        // It starts in half the time, and many files start one.
        ['embedded'],
      ),
  },
  'postgres-queue': {
    install: 'npm ci',
    start: async (options) => started(await startPostgresQueue(options)),
  },
  rabbitmq: {
    install: setup,
    start: (options) =>
      startOn(
        { native: startRabbit, docker: async (each) => (await docker()).startDockerRabbit(each) },
        options,
        BROKERS,
      ),
  },
  'rabbitmq-cluster': {
    install: setup,
    async start(options) {
      const value = await startRabbitCluster(3, options)
      return { ...started(value.nodes[0]!), value, stop: () => value.stop() }
    },
  },
  redis: {
    install: setup,
    start: (options) =>
      startOn(
        { native: startRedis, docker: async (each) => (await docker()).startDockerRedis(each) },
        options,
        BROKERS,
      ),
  },
  nats: {
    install: setup,
    start: (options) =>
      startOn(
        { native: startNats, docker: async (each) => (await docker()).startDockerNats(each) },
        options,
        BROKERS,
      ),
  },
  kafka: { install: setup, start: async (options) => started(await startKafka(options)) },
  'kafka-cluster': {
    install: setup,
    async start({ nodes }) {
      const value = await startKafkaCluster(nodes)
      return { value, backend: 'native', version: value.version, insteadOf: '', stop: () => value.stop() }
    },
  },
  rocketmq: { install: setup, start: async (options) => started(await startRocketmq(options)) },
  compose: {
    install: setup,
    async start() {
      const value = composeCommand()
      if (value === undefined) throw new Error('neither `docker compose` nor `docker-compose` is installed')
      const [program, ...args] = value
      const version = execFileSync(program, [...args, 'version', '--short'], { encoding: 'utf8' }).trim()
      return { value, backend: value.join(' '), version, stop: async () => {} }
    },
  },
  node22: {
    install: setup,
    async start() {
      const value = findNode22()
      return { value, backend: 'npm', version: value.version, stop: async () => {} }
    },
  },
  'npm-registry': {
    install: 'a network in which npm reaches its registry',
    async start() {
      try {
        execFileSync('npm', ['view', 'pg', 'version', '--fetch-retries=3', '--fetch-timeout=20000'], {
          cwd: tmpdir(),
          stdio: ['ignore', 'pipe', 'pipe'],
          timeout: 120_000,
        })
      } catch (error) {
        throw new Error('npm does not reach its registry', { cause: error })
      }
      return { value: undefined, backend: 'npm', version: '', stop: async () => {} }
    },
  },
}

/** Loaded where it is asked for: most test files need no engine. */
function docker() {
  return import('./docker-services.ts')
}

function started<T extends Running>(value: T): Started<T> {
  const { backend, version } = value
  return { value, backend, version, insteadOf: '', stop: () => value.stop() }
}
