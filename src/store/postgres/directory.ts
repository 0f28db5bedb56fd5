import { EscrowError } from '../../core/errors.ts'
import type { Row } from '../../core/postgres-session.ts'
import type { Directory, DirectoryEntry } from '../directory.ts'
import type { Connections } from './connections.ts'

const NAME_BYTES_MAX = 1024
/** Behind every character: what starts with a prefix stands before the prefix and this one. */
const LAST_CHARACTER = '\u{10ffff}'

const GET = { name: 'get', text: 'select name, version, value from directory where name = $1' }
const LIST = {
  name: 'list',
  text: 'select name, version, value from directory where name >= $1 and name < $2 order by name',
}
const CREATE = {
  name: 'create',
  text: 'insert into directory (name, version, value) values ($1, 1, $2) on conflict do nothing',
}
const REPLACE = {
  name: 'replace',
  text: 'update directory set version = version + 1, value = $3 where name = $1 and version = $2',
}
const REMOVE = { name: 'remove', text: 'delete from directory where name = $1 and version = $2' }

/** The directory of the PostgreSQL store. */
export class PostgresDirectory implements Directory {
  readonly #connections: Connections

  constructor(connections: Connections) {
    this.#connections = connections
  }

  async get(name: string): Promise<DirectoryEntry | undefined> {
    const rows = await this.#connections.use('reading the directory', (session) =>
      session.query(GET, [parseEntryName(name)]),
    )
    return rows[0] && entry(rows[0])
  }

  async list(prefix: string): Promise<readonly DirectoryEntry[]> {
    const rows = await this.#connections.use('reading the directory', (session) =>
      session.query(LIST, [prefix, prefix + LAST_CHARACTER]),
    )
    return rows.map(entry)
  }

  async compareAndSet(name: string, expected: number, value: Uint8Array): Promise<number | undefined> {
    const key = parseEntryName(name)
    const { rowCount } = await this.#connections.use('writing to the directory', (session) =>
      expected === 0 ? session.run(CREATE, [key, value]) : session.run(REPLACE, [key, expected, value]),
    )
    return rowCount === 1 ? expected + 1 : undefined
  }

  async remove(name: string, expected: number): Promise<boolean> {
    const { rowCount } = await this.#connections.use('writing to the directory', (session) =>
      session.run(REMOVE, [parseEntryName(name), expected]),
    )
    return rowCount === 1
  }
}

function entry([name, version, value]: Row): DirectoryEntry {
  return { name: name as string, version: version as number, value: Uint8Array.from(value as Uint8Array) }
}

function parseEntryName(name: string): string {
  const bytes = Buffer.byteLength(name)
  if (bytes > 0 && bytes <= NAME_BYTES_MAX && !name.includes('\0')) return name
  throw new EscrowError(
    'invalidArgument',
    `a name in the directory is ${bytes} bytes long, allowed are 1-${NAME_BYTES_MAX} without U+0000`,
  )
}
