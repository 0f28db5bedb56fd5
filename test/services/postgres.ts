import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import {
  type PostgresOptions,
  type PostgresServer,
  startEmbeddedPostgres,
  startPostgresFrom,
} from '../../examples/shop/embedded-postgres.ts'
import type { Backend } from './backends.ts'

/** A PostgreSQL of the test's own; fsync and synchronous_commit are on unless its settings say otherwise. */
export interface PostgresService extends Omit<PostgresServer, 'dataDir'> {
  readonly backend: Backend
}

/** The same as a process of this machine. */
export interface PostgresProcess extends PostgresServer {
  readonly backend: 'native' | 'embedded'
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

/**
 * Starts a server on a free port of 127.0.0.1 with an empty data folder; under a second either way. Embedded needs
 * nothing installed; throws where no native one is.
 */
export async function startPostgres(
  backend: PostgresProcess['backend'],
  options: PostgresOptions = {},
): Promise<PostgresProcess> {
  if (backend === 'embedded') return Object.assign(await startEmbeddedPostgres(options), { backend })
  const bin = nativePostgresBin()
  if (bin === undefined) throw new Error(`no PostgreSQL below ${debian}`)
  return Object.assign(await startPostgresFrom(bin, options), { backend })
}
