/**
 * One process at a time. An LMDB environment of its own, in the folder `owner`, holds nothing but one reader for as long
 * as the store is open. LMDB keeps a record lock (fcntl) for each process that reads, which the kernel drops when the
 * process ends, however it ends, and tells the pids of the readers that live. It works for any user who may open the files, on
 * Linux and macOS, and between containers that share a folder of one kernel.
 *
 * Rejected: a file with a pid (pids come again), a listening socket (survives as a file, or is unknown in another network
 * namespace), SQLite's locks (Node calls them experimental on standard error).
 *
 * Each process registers before it looks, so that of two at once at least one sees the other; both may be refused.
 */
import { join } from 'node:path'
import { open, type RootDatabase } from 'lmdb'
import { EscrowError } from '../../core/errors.ts'

/** The hold of this process on a store's folder. */
export interface Ownership {
  /** Lets another process in. */
  release(): Promise<void>
}

/** Takes hold of a store by its folder `path/owner`, which must exist; throws `storeInUse` naming the process that has it. */
export async function own(path: string): Promise<Ownership> {
  const options = {
    path: join(path, 'owner'),
    maxDbs: 1,
    noSubdir: false,
    overlappingSync: false,
    permissionsMode: 0o600,
  }
  const environment = open<Uint8Array, Uint8Array>(options)
  // Another store of this process would share the environment, and so this process's line.
  if (readers(environment).includes(process.pid)) throw await refused(environment, path, process.pid)
  const reader = environment.useReadTransaction()
  const other = readers(environment).find((pid) => pid !== process.pid)
  if (other !== undefined) {
    reader.done()
    throw await refused(environment, path, other)
  }
  return {
    async release() {
      reader.done()
      await environment.close()
    },
  }
}

async function refused(environment: RootDatabase, path: string, pid: number): Promise<EscrowError> {
  await environment.close()
  const who = pid === process.pid ? `this process (${pid})` : `process ${pid}`
  return new EscrowError('storeInUse', `${who} has the store at ${path} open`, {
    details: { pid: String(pid) },
  })
}

/** The pids in LMDB's table of readers, without those that have ended. */
function readers(environment: RootDatabase): number[] {
  environment.readerCheck()
  const lines = environment.readerList().split('\n').slice(1)
  return lines.map((line) => Number.parseInt(line, 10)).filter((pid) => pid > 0)
}
