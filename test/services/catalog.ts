import { execFileSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import {
  type KafkaCluster,
  type KafkaOptions,
  type KafkaService,
  startKafka,
  startKafkaCluster,
} from './kafka.ts'
import { findNode22, type NodeRuntime } from './node22.ts'
import {
  nativePostgresBin,
  type PostgresService,
  type PostgresServiceOptions,
  startPostgres,
} from './postgres.ts'

/** A service that answers: what the test gets, how it is called in the closing table, and how it ends. */
export interface Started<T> {
  readonly value: T
  readonly backend: string
  readonly version: string
  stop(): Promise<void>
}

interface Entry<T, O> {
  /** The command that installs it; printed wherever it is missing. */
  readonly install: string
  /** Starts it, or throws with the reason why it can't be had. */
  start(options: O): Promise<Started<T>>
}

/** What a test may ask for by `service(name)`. */
export interface Catalog {
  readonly postgres: Entry<PostgresService, PostgresServiceOptions>
  readonly 'postgres-native': Entry<PostgresService, Omit<PostgresServiceOptions, 'backend'>>
  readonly kafka: Entry<KafkaService, KafkaOptions>
  readonly 'kafka-cluster': Entry<KafkaCluster, { readonly nodes: number }>
  readonly node22: Entry<NodeRuntime, object>
  readonly 'npm-registry': Entry<undefined, object>
}

const setup = 'npm run services:setup'

/** Every service, one entry each. */
export const catalog: Catalog = {
  postgres: { install: 'npm ci', start: async (options) => started(await startPostgres(options)) },
  'postgres-native': {
    install: setup,
    async start(options) {
      if (nativePostgresBin() === undefined) throw new Error('no PostgreSQL is installed on this machine')
      return started(await startPostgres({ ...options, backend: 'native' }))
    },
  },
  kafka: {
    install: setup,
    async start(options) {
      const value = await startKafka(options)
      return { value, backend: value.backend, version: value.version, stop: () => value.stop() }
    },
  },
  'kafka-cluster': {
    install: setup,
    async start({ nodes }) {
      const value = await startKafkaCluster(nodes)
      return { value, backend: 'native', version: value.version, stop: () => value.stop() }
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

function started(value: PostgresService): Started<PostgresService> {
  return { value, backend: value.backend, version: value.version, stop: () => value.stop() }
}
