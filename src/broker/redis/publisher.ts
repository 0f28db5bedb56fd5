/** Publishes on streams of Redis: a batch as one transaction, or as several one after the other where it is large. */
import type { BrokerMessage, PublishOutcome } from '../broker.ts'
import type { Publisher } from '../connector.ts'
import { bytesOf, headersOf } from '../headers.ts'
import { ErrorReply, type RedisConnection, redisError } from './connection.ts'

/** What an adapter's options say of publishing. */
export interface PublishSettings {
  readonly missingTopics: 'refuse' | 'create'
  readonly durability: 'any' | 'replicated'
  readonly replicasMin: number
  /** Arguments of XADD. */
  readonly trimming: () => readonly string[]
}

interface Entry {
  /** Undefined: over the limit. */
  readonly command: readonly (string | Buffer)[] | undefined
  /** At most. */
  readonly bytes: number
}

/** A transaction is held in the server's memory until it is whole. */
const BLOCK_BYTES_MAX = 4 * 1_048_576
/** How long replicas may take for a block. */
const REPLICA_MS_MAX = 5_000
const UTF8_BYTES_MAX = 3

/** Such a publisher. */
export class RedisPublisher implements Publisher<RedisConnection> {
  /** Known from the first registration on. */
  messageBytesMax = Number.POSITIVE_INFINITY
  readonly #settings: PublishSettings
  readonly #drop: (connection: RedisConnection) => void

  /** `drop` ends a connection that isn't to be used any more. */
  constructor(settings: PublishSettings, drop: (connection: RedisConnection) => void) {
    this.#settings = settings
    this.#drop = drop
  }

  async publish(
    connection: RedisConnection,
    batch: readonly BrokerMessage[],
    signal: AbortSignal,
  ): Promise<readonly PublishOutcome[]> {
    const entries = batch.map((message) => this.#entry(message))
    const outcomes: PublishOutcome[] = []
    while (outcomes.length < batch.length) {
      const block = blockFrom(entries, outcomes.length)
      const results = await this.#publishBlock(connection, block, signal)
      for (const each of results) outcomes.push(each)
      const failure = results.find(({ outcome }) => outcome === 'failed' || outcome === 'unreachable')
      // Later messages of a key must not overtake: the rest is not sent.
      if (failure !== undefined) while (outcomes.length < batch.length) outcomes.push(failure)
    }
    return outcomes
  }

  #entry(message: BrokerMessage): Entry {
    const { missingTopics, trimming } = this.#settings
    const { topic, body } = message
    const command: (string | Buffer)[] = ['XADD', topic]
    if (missingTopics === 'refuse') command.push('NOMKSTREAM')
    command.push(...trimming(), '*', 'body', Buffer.from(body.buffer, body.byteOffset, body.length))
    const headers = headersOf(message)
    let characters = 0
    for (const name in headers) {
      const value = headers[name] as string
      command.push(name, value)
      characters += name.length + value.length
    }
    let bytes = body.length + characters * UTF8_BYTES_MAX
    // Counted exactly only where it matters.
    if (bytes > this.messageBytesMax) bytes = bytesOf(message)
    return { command: bytes > this.messageBytesMax ? undefined : command, bytes }
  }

  async #publishBlock(
    connection: RedisConnection,
    block: readonly Entry[],
    signal: AbortSignal,
  ): Promise<readonly PublishOutcome[]> {
    const commands = block.flatMap(({ command }) => (command === undefined ? [] : [command]))
    const results = commands.length === 0 ? [] : await this.#transact(connection, commands, signal)
    if (commands.length === block.length) return results
    let at = 0
    return block.map(({ command, bytes }): PublishOutcome => {
      if (command !== undefined) return results[at++] as PublishOutcome
      return { outcome: 'refused', error: `redis: ${bytes} bytes are over ${this.messageBytesMax}` }
    })
  }

  async #transact(
    connection: RedisConnection,
    commands: readonly (readonly (string | Buffer)[])[],
    signal: AbortSignal,
  ): Promise<readonly PublishOutcome[]> {
    try {
      const executed = connection.transact(commands)
      const waited = this.#waitForReplicas(connection)
      const replies = await executed
      const lacking = await waited
      return replies.map((reply): PublishOutcome => {
        if (reply instanceof ErrorReply) return { outcome: 'failed', error: redisError(reply).message }
        if (reply === null) return { outcome: 'failed', error: 'redis: the stream is not there any more' }
        return lacking === '' ? PUBLISHED : { outcome: 'failed', error: lacking }
      })
    } catch (thrown) {
      const failure = signal.aborted ? LATE : this.#failure(connection, thrown)
      return commands.map(() => failure)
    }
  }

  /** What is lacking, or an empty text; never rejects. */
  async #waitForReplicas(connection: RedisConnection): Promise<string> {
    const { durability, replicasMin } = this.#settings
    if (durability !== 'replicated') return ''
    const wait = hasWaitAof(connection.version) ? ['WAITAOF', '1'] : ['WAIT']
    try {
      const reply = await connection.send([...wait, String(replicasMin), String(REPLICA_MS_MAX)])
      const count = Number(Array.isArray(reply) ? reply[1] : reply)
      return count >= replicasMin ? '' : `redis: on ${count} replicas in time, not on ${replicasMin}`
    } catch (thrown) {
      return `redis: not known on its replicas: ${redisError(thrown).message}`
    }
  }

  #failure(connection: RedisConnection, thrown: unknown): PublishOutcome {
    // The primary has become a replica: the address may lead to another one by now.
    if (/\bREADONLY\b/.test(String(thrown))) this.#drop(connection)
    // The library takes no command on a connection that it knows to be broken.
    const isUnsent = thrown instanceof Error && /^Client(Closed|Offline)Error$/.test(thrown.constructor.name)
    return { outcome: isUnsent ? 'unreachable' : 'failed', error: redisError(thrown).message }
  }
}

const PUBLISHED: PublishOutcome = { outcome: 'published' }
const LATE: PublishOutcome = { outcome: 'failed', error: 'redis: no confirmation in time' }

/** The entries from there on that go together. */
function blockFrom(entries: readonly Entry[], from: number): readonly Entry[] {
  let to = from
  for (let bytes = 0; to < entries.length; to++) {
    bytes += entries[to]?.bytes ?? 0
    if (bytes > BLOCK_BYTES_MAX && to > from) break
  }
  return entries.slice(from, to)
}

function hasWaitAof(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number)
  return major > 7 || (major === 7 && minor >= 2)
}
