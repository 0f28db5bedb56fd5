import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import {
  type PostgresOptions,
  type PostgresServer,
  startEmbeddedPostgres,
  startPostgresFrom,
} from '../../examples/shop/embedded-postgres.ts'

export type PostgresBackend = 'embedded' | 'native'

/** A PostgreSQL of the test's own; fsync and synchronous_commit are on unless its settings say otherwise. */
export interface PostgresService extends PostgresServer {
  readonly backend: PostgresBackend
}

export interface PostgresServiceOptions extends PostgresOptions {
  /** Default: what TEST_SERVICES says, else `embedded`, which needs nothing installed. */
  readonly backend?: PostgresBackend
}

const debian = '/usr/lib/postgresql'

/** The folder of the newest native PostgreSQL's programs, or undefined when there is none. */
export function nativePostgresBin(): string | undefined {
  const majors = existsSync(debian) ? readdirSync(debian).map(Number).filter(Number.isInteger) : []
  return majors
    .sort((a, b) => b - a)
    .map((major) => join(debian, String(major), 'bin'))
    .find((bin) => existsSync(join(bin, 'postgres')))
}

/** Starts a server on a free port of 127.0.0.1 with an empty data folder; under a second either way. */
export async function startPostgres(options: PostgresServiceOptions = {}): Promise<PostgresService> {
  const { backend = defaultBackend(), ...rest } = options
  if (backend === 'embedded') return Object.assign(await startEmbeddedPostgres(rest), { backend })
  const bin = nativePostgresBin()
  if (bin === undefined) throw new Error(`no PostgreSQL below ${debian}`)
  return Object.assign(await startPostgresFrom(bin, rest), { backend })
}

function defaultBackend(): PostgresBackend {
  const asked = process.env.TEST_SERVICES ?? 'embedded'
  if (asked === 'embedded' || asked === 'native') return asked
  throw new Error(`TEST_SERVICES is "${asked}"; it may be embedded or native`)
}
