import { execFileSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import type { PostgresOptions } from '../../examples/shop/embedded-postgres.ts'
import { type Backend, type Started, startOn } from './backends.ts'
import { composeCommand } from './compose.ts'
import type { DockerNats, DockerRabbit, DockerRedis } from './docker-services.ts'
import { findNode22, type NodeRuntime } from './node22.ts'
import { type PostgresService, startPostgres } from './postgres.ts'

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
  readonly rabbitmq: Entry<DockerRabbit, { readonly settings?: readonly string[] } & OnBackend>
  readonly redis: Entry<DockerRedis, { readonly settings?: Readonly<Record<string, string>> } & OnBackend>
  readonly nats: Entry<DockerNats, { readonly configuration?: string } & OnBackend>
  readonly compose: Entry<readonly [string, ...string[]], object>
  readonly node22: Entry<NodeRuntime, object>
  readonly 'npm-registry': Entry<undefined, object>
}

const setup = 'npm run services:setup'

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
  rabbitmq: {
    install: setup,
    start: (options) =>
      startOn({ docker: async (each) => (await docker()).startDockerRabbit(each) }, options),
  },
  redis: {
    install: setup,
    start: (options) => startOn({ docker: async (each) => (await docker()).startDockerRedis(each) }, options),
  },
  nats: {
    install: setup,
    start: (options) => startOn({ docker: async (each) => (await docker()).startDockerNats(each) }, options),
  },
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
