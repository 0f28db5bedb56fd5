import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parse } from 'yaml'

/** Where docker-compose.yml is. */
export const composeFile: string = join(import.meta.dirname, '../../docker-compose.yml')

/** A service of docker-compose.yml, as far as a container is made from it. */
export interface ComposeService {
  readonly image: string
  readonly hostname?: string
  readonly user?: string
  readonly command?: readonly string[]
  readonly environment?: Readonly<Record<string, string>>
  /** `127.0.0.1:HOST:CONTAINER`. */
  readonly ports?: readonly string[]
  /** `SOURCE:FOLDER`. */
  readonly volumes?: readonly string[]
  readonly healthcheck?: {
    readonly test: ['CMD-SHELL', string] | ['CMD', ...string[]]
    /** In whole seconds: `5s`. */
    readonly interval: string
    readonly timeout: string
    readonly retries: number
  }
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>
}

/** What docker-compose.yml says. */
export interface Compose {
  readonly services: Readonly<Record<string, ComposeService>>
  readonly volumes: Readonly<Record<string, null>>
}

/** Reads docker-compose.yml, its anchors resolved. */
export function readCompose(): Compose {
  return parse(readFileSync(composeFile, 'utf8'), { merge: true }) as Compose
}

/** One of its services. */
export function composeService(name: string): ComposeService {
  const found = readCompose().services[name]
  if (found === undefined) throw new Error(`docker-compose.yml has no service ${name}`)
  return found
}

/** How Compose itself is called on this machine: the engine's plug-in, or the program that was before it. */
export function composeCommand(): readonly [string, ...string[]] | undefined {
  const known = [['docker', 'compose'], ['docker-compose']] as const
  return known.find(([program, ...args]) => spawnSync(program, [...args, 'version']).status === 0)
}
