import { lstatSync, realpathSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname } from 'node:path'

/** The temp folder; as root, who starts servers as somebody else, one that others may enter. */
export function sharedTemp(): string {
  const candidates = [realpathSync(tmpdir()), '/tmp', '/var/tmp']
  const found = process.getuid?.() === 0 ? candidates.find(isTraversable) : candidates[0]
  if (found === undefined)
    throw new Error(`as root a temp folder that others may enter is needed: ${candidates}`)
  return found
}

/** Whether we made it: the temp folder is everybody's, and nothing planted there may be run or removed by us. */
export function isOurs(path: string): boolean {
  const stat = lstatSync(path, { throwIfNoEntry: false })
  return stat?.isDirectory() === true && stat.uid === process.getuid?.() && (stat.mode & 0o022) === 0
}

function isTraversable(path: string): boolean {
  for (let folder = path; ; folder = dirname(folder)) {
    if ((statSync(folder).mode & 0o001) === 0) return false
    if (folder === dirname(folder)) return true
  }
}
