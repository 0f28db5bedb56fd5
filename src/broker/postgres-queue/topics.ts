import { EscrowError } from '../../core/errors.ts'
import type { Row, Statement } from '../../core/postgres-session.ts'
import type { Connection } from './connections.ts'

/** What topics are held to. */
export interface TopicsOptions {
  readonly schema: string
  readonly missingTopics: 'refuse' | 'create'
}

const NAME_BYTES_MAX = 1_024

const SETTINGS: Statement = {
  name: 'escrow_queue_settings',
  // `reset_val`: what others get who don't ask for more, as a connection of ours does.
  text: `select name, reset_val from pg_settings
    where name in ('fsync', 'full_page_writes', 'synchronous_commit', 'synchronous_standby_names') order by name`,
}

/** What each setting may be, and what goes wrong otherwise. */
const SETTINGS_NEEDED: Readonly<
  Record<string, readonly [isFine: (value: string) => boolean, otherwise: string]>
> = {
  fsync: [
    (value) => value === 'on',
    'a crash of the machine loses and tears what was confirmed: switch it on',
  ],
  full_page_writes: [
    (value) => value === 'on',
    'a crash of the machine may tear pages: switch it on, unless the file system never tears one',
  ],
  synchronous_commit: [
    (value) => value === 'on' || value === 'remote_apply',
    'what services enqueue on their own transactions may be lost after its COMMIT (what is published is not): switch it on',
  ],
  synchronous_standby_names: [
    (value) => value !== '',
    'what was confirmed is on one machine alone: name a standby that commits wait for',
  ],
}

/** The topics of a queue, by name. */
export class Topics {
  readonly #options: TopicsOptions
  readonly #find: Statement
  readonly #create: Statement
  readonly #numbers = new Map<string, number>()

  constructor(options: TopicsOptions) {
    this.#options = options
    const table = `"${options.schema}".topics`
    this.#find = { name: 'escrow_queue_topic', text: `select topic from ${table} where name = $1` }
    this.#create = {
      name: 'escrow_queue_create_topic',
      text: `insert into ${table} (name) values ($1) on conflict do nothing`,
    }
  }

  forget(): void {
    this.#numbers.clear()
  }

  /** Its number; it is made where the options say so. Throws `unknownDestination`, and what `pg` throws. */
  async numberOf(connection: Connection, name: string, signal: AbortSignal): Promise<number> {
    const known = this.#numbers.get(name)
    if (known !== undefined) return known
    const { schema, missingTopics } = this.#options
    if (name === '' || Buffer.byteLength(name) > NAME_BYTES_MAX || name.includes('\0'))
      throw new EscrowError(
        'unknownDestination',
        `topic ${JSON.stringify(name.slice(0, 100))} can't be one: its name is not 1 to ${NAME_BYTES_MAX} bytes without U+0000`,
      )
    let [row] = await connection.run(this.#find, [name], signal)
    if (row === undefined && missingTopics === 'create') {
      await connection.run(this.#create, [name], signal)
      ;[row] = await connection.run(this.#find, [name], signal)
    }
    if (row === undefined)
      throw new EscrowError(
        'unknownDestination',
        `topic ${JSON.stringify(name)} is not in the queue of schema ${schema}: correct its name, or have it made with missingTopics: 'create'`,
      )
    this.#numbers.set(name, row[0] as number)
    return row[0] as number
  }

  /** In which ways the server may lose what it has confirmed, each with the setting. */
  async shortfalls(connection: Connection, signal: AbortSignal): Promise<readonly string[]> {
    const rows = await connection.run(SETTINGS, [], signal)
    return rows.flatMap(([name, value]: Row) => {
      const [isFine, otherwise] = SETTINGS_NEEDED[name as string] as (typeof SETTINGS_NEEDED)[string]
      return isFine(value as string) ? [] : [`${name} is ${value === '' ? 'empty' : value}: ${otherwise}`]
    })
  }
}
