import { join } from 'node:path'
import { open } from 'lmdb'

/** Changes a closed store's files with LMDB alone. */
export async function tamper(
  path: string,
  folder: string,
  table: string,
  versions: boolean,
  change: (rows: Tampering) => unknown,
): Promise<void> {
  const root = open<Uint8Array, Uint8Array>({
    path: join(path, folder),
    encoding: 'binary',
    keyEncoding: 'binary',
    maxDbs: 60,
  })
  const rows = root.openDB<Uint8Array, Uint8Array>({
    name: table,
    encoding: 'binary',
    keyEncoding: 'binary',
    useVersions: versions,
  })
  await change(rows)
  await root.flushed
  await root.close()
}

type Tampering = ReturnType<ReturnType<typeof open<Uint8Array, Uint8Array>>['openDB']> & {
  put(key: Uint8Array, value: Uint8Array, version?: number): Promise<boolean>
}
