import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'

/** The least that `engines` in package.json promises; a newer 22 has what this one has. */
export const node22Version = '22.18.0'

/** Where `npm run services:setup` puts it: ignored by git, away from the lock and from node_modules/.bin. */
export const node22Folder: string = join(import.meta.dirname, '../../node_modules/.cache/escrow-node22')

/** A Node to run the published package on. */
export interface NodeRuntime {
  /** The executable, as an absolute path. */
  readonly path: string
  /** Such as `22.18.0`. */
  readonly version: string
}

/** The Node 22 that the setup installed. Throws when it isn't there or doesn't run. */
export function findNode22(): NodeRuntime {
  const path = join(node22Folder, 'node_modules/node/bin/node')
  if (!existsSync(path)) throw new Error(`Node ${node22Version} is not installed`)
  return { path, version: execFileSync(path, ['--version'], { encoding: 'utf8' }).trim().slice(1) }
}
