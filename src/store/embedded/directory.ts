import { EscrowError } from '../../core/errors.ts'
import type { Directory, DirectoryEntry } from '../directory.ts'
import type { Environment, Table } from './environment.ts'
import { bytesValue, keyText, textKey, valueBytes } from './row.ts'

const NAME_BYTES_MAX = 1024

/** The directory of the embedded store: an entry's version is its row's, on which LMDB makes the write depend. */
export class EmbeddedDirectory implements Directory {
  readonly #environment: Environment
  readonly #table: Table

  constructor(environment: Environment) {
    this.#environment = environment
    this.#table = environment.table('directory', { versions: true })
  }

  async get(name: string): Promise<DirectoryEntry | undefined> {
    const key = nameKey(name)
    this.#environment.refresh()
    const found = this.#table.getEntry(key)
    return found === undefined ? undefined : entry(name, found.value, found.version)
  }

  async list(prefix: string): Promise<readonly DirectoryEntry[]> {
    this.#environment.refresh()
    const start = textKey(prefix)
    // No UTF-8 has a byte of 255, so this stands behind every name that starts so.
    const end = Buffer.concat([start, Buffer.from([255])])
    const range = this.#table.getRange({ ...(prefix === '' ? {} : { start }), end, versions: true })
    return Array.from(range, ({ key, value, version }) => entry(keyText(key), value, version))
  }

  async compareAndSet(name: string, expected: number, value: Uint8Array): Promise<number | undefined> {
    const key = nameKey(name)
    const bytes = bytesValue(value)
    const put = (): void => void this.#table.put(key, bytes, expected + 1)
    const isWritten = await this.#environment.write(() =>
      expected === 0 ? this.#table.ifNoExists(key, put) : this.#table.ifVersion(key, expected, put),
    )
    return isWritten ? expected + 1 : undefined
  }

  async remove(name: string, expected: number): Promise<boolean> {
    const key = nameKey(name)
    return this.#environment.write(() =>
      this.#table.ifVersion(key, expected, () => void this.#table.remove(key)),
    )
  }
}

function entry(name: string, value: Uint8Array, version: number | undefined): DirectoryEntry {
  return {
    name,
    version: version ?? 0,
    value: valueBytes(value, `the directory's entry ${JSON.stringify(name)}`),
  }
}

function nameKey(name: string): Uint8Array {
  const key = textKey(name)
  if (key.length > 0 && key.length <= NAME_BYTES_MAX) return key
  throw new EscrowError(
    'invalidArgument',
    `a name in the directory is ${key.length} bytes long, allowed are 1-${NAME_BYTES_MAX}`,
  )
}
