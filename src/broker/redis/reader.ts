/**
 * One reader of a group of a stream. It reads on a connection of its own, because reading waits there for messages; what it
 * has to say goes over the broker's connection.
 *
 * | state    | what it reads                                                | leaves by                               |
 * |----------|--------------------------------------------------------------|-----------------------------------------|
 * | waiting  | what it was given before and doesn't hold, as an answer was lost; what dead readers left (XAUTOCLAIM). That is set aside | what others were given before is acknowledged or taken over; or `claimIdleMs` and a little is over |
 * | reading  | what was set aside, in the stream's order; then what nobody was given yet; what dead readers left, every half of `claimIdleMs` | the connection broke |
 *
 * While it holds a message, it says so (XCLAIM), so that nobody takes it for dead. What it holds unhandled at its end is
 * free for others at once.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { EscrowError } from '../../core/errors.ts'
import type { BrokerMessage, SubscribeOptions } from '../broker.ts'
import type { Connector } from '../connector.ts'
import { messageOf } from '../headers.ts'
import { Lanes } from '../lanes.ts'
import type { Reader } from '../readers.ts'
import { answered, briefly } from '../within.ts'
import { codeOf, type RedisConnection, type Reply, records, redisError } from './connection.ts'

/** What a reader is made of. */
export interface RedisReaderOptions extends SubscribeOptions {
  readonly handle: (message: BrokerMessage) => Promise<void>
  readonly claimIdleMs: number
  /** Its name in the group; undefined: a new one, which is removed when it ends. */
  readonly consumer: string | undefined
  /** Whether it makes a stream that isn't there. */
  readonly isCreating: boolean
  readonly main: Connector<RedisConnection>
  readonly own: Connector<RedisConnection>
}

interface Entry {
  readonly id: string
  readonly message: BrokerMessage
}

/** Messages that a reader holds, so that those of one key don't keep back all others. */
const HELD_MAX = 512
const PAGE = 128
const BLOCK_MS = 1_000
const ANSWER_MS_MAX = 10_000
const PAUSE_MS = 200
const LOOK_MS = 100
const PREFIX = 'escrow-'

/** Removes a reader from its group, unless it has been given messages that it has not acknowledged: those would be lost. */
const REMOVE = `if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end`

/** Such a reader. */
export class RedisReader implements Reader {
  readonly #options: RedisReaderOptions
  readonly #name: string
  readonly #lanes: Lanes<Entry>
  /** From when it is read until its acknowledgement is known to have arrived. */
  readonly #held = new Set<string>()
  readonly #handled: string[] = []
  readonly #ending = new AbortController()
  #from: string
  #acknowledging: Promise<void> | undefined
  #reading: Promise<void> = Promise.resolve()
  #heartbeat: NodeJS.Timeout | undefined
  #roomCallback = (): void => {}
  #isSilent = false

  constructor(options: RedisReaderOptions) {
    this.#options = options
    this.#name = options.consumer ?? `${PREFIX}${randomUUID()}`
    this.#from = options.from === 'latest' ? '$' : '0'
    this.#lanes = new Lanes({
      concurrencyMax: options.concurrencyMax ?? 16,
      keyOf: ({ message }) => message.key,
      handle: ({ message }) => options.handle(message),
      done: ({ id }) => this.#acknowledge(id),
      compare: byId,
    })
  }

  /** Makes the group, and begins to read. Rejects as `Broker.register` does. */
  async start(signal: AbortSignal): Promise<void> {
    const { own, claimIdleMs } = this.#options
    await answered('redis', this.#makeGroup(await own.get(signal)))
    this.#heartbeat = setInterval(() => void this.#renew().catch(() => {}), Math.ceil(claimIdleMs / 3))
    this.#reading = own.readUntil(this.#ending.signal, (next) => this.#read(next))
  }

  async #makeGroup(connection: RedisConnection): Promise<void> {
    const { topic, group, isCreating } = this.#options
    try {
      await connection.send([
        'XGROUP',
        'CREATE',
        topic,
        group,
        this.#from,
        ...(isCreating ? ['MKSTREAM'] : []),
      ])
    } catch (error) {
      if (/requires the key to exist/.test(String(error))) throw missingStream(topic)
      if (codeOf(error) !== 'BUSYGROUP') throw redisError(error)
    }
    // A group that is lost later has lost what it was to read.
    this.#from = '0'
  }

  async #read(connection: RedisConnection): Promise<void> {
    const { claimIdleMs } = this.#options
    await this.#makeGroup(connection)
    this.#lanes.setAside()
    await this.#readOwn(connection)
    await this.#waitForOthers(connection)
    this.#lanes.goOn()
    let claimAt = performance.now() + claimIdleMs / 2
    while (!this.#ending.signal.aborted) {
      await this.#room()
      if (performance.now() >= claimAt) {
        await this.#claim(connection)
        claimAt = performance.now() + claimIdleMs / 2
        continue
      }
      const blockMs = Math.ceil(Math.min(BLOCK_MS, claimIdleMs / 2))
      this.#add(await this.#readGroup(connection, '>', 'BLOCK', String(blockMs)))
    }
  }

  async #readOwn(connection: RedisConnection): Promise<void> {
    for (let from = '0'; !this.#ending.signal.aborted; ) {
      await this.#room()
      const entries = await this.#readGroup(connection, from)
      const last = entries.at(-1)
      if (last === undefined) return
      this.#add(entries)
      from = idOf(last)
    }
  }

  async #waitForOthers(connection: RedisConnection): Promise<void> {
    const { topic, group, claimIdleMs } = this.#options
    const groups = await answered('redis', connection.send(['XINFO', 'GROUPS', topic]))
    const given =
      records(groups)
        .find((each) => each.get('name') === group)
        ?.get('last-delivered-id') ?? '0'
    const until = performance.now() + claimIdleMs * 1.25 + BLOCK_MS
    while (performance.now() < until && !this.#ending.signal.aborted) {
      await this.#claim(connection)
      const command = ['XPENDING', topic, group, '-', given, String(HELD_MAX * 2)]
      const pending = (await answered('redis', connection.send(command))) as readonly (readonly Reply[])[]
      if (pending.every(([, consumer]) => consumer === this.#name)) return
      await sleep(LOOK_MS)
    }
  }

  async #readGroup(connection: RedisConnection, from: string, ...how: string[]): Promise<readonly Reply[]> {
    const { topic, group } = this.#options
    const command = [
      'XREADGROUP',
      'GROUP',
      group,
      this.#name,
      'COUNT',
      String(PAGE),
      ...how,
      'STREAMS',
      topic,
      from,
    ]
    const reply = await answered('redis', connection.sendForBytes(command))
    const [stream] = (reply ?? []) as readonly (readonly [Reply, readonly Reply[]])[]
    return stream?.[1] ?? []
  }

  /** Takes what readers left that have given no sign of life. */
  async #claim(connection: RedisConnection): Promise<void> {
    const { topic, group, claimIdleMs } = this.#options
    let cursor = '0-0'
    do {
      await this.#room()
      const command = [
        'XAUTOCLAIM',
        topic,
        group,
        this.#name,
        String(claimIdleMs),
        cursor,
        'COUNT',
        String(PAGE),
      ]
      const reply = (await answered('redis', connection.sendForBytes(command))) as readonly Reply[]
      // Redis 6.2 tells what has been trimmed away as nothing.
      this.#add((reply[1] as readonly Reply[]).filter((each) => each !== null))
      cursor = String(reply[0])
    } while (cursor !== '0-0' && !this.#ending.signal.aborted)
    await this.#removeDead(connection)
  }

  /** The names of readers that crashed, once they hold nothing. */
  async #removeDead(connection: RedisConnection): Promise<void> {
    const { topic, group, claimIdleMs } = this.#options
    const consumers = await answered('redis', connection.send(['XINFO', 'CONSUMERS', topic, group]))
    for (const each of records(consumers)) {
      const name = each.get('name') ?? ''
      const isDead = name.startsWith(PREFIX) && Number(each.get('idle')) > claimIdleMs + BLOCK_MS * 2
      if (isDead && each.get('pending') === '0' && name !== this.#name) await this.#remove(connection, name)
    }
  }

  async #remove(connection: RedisConnection, name: string): Promise<void> {
    const { topic, group } = this.#options
    await answered('redis', connection.send(['EVAL', REMOVE, '1', topic, group, name])).catch(() => {})
  }

  #add(entries: readonly Reply[]): void {
    for (const entry of entries) {
      const id = idOf(entry)
      if (this.#held.has(id)) continue
      this.#held.add(id)
      const fields = (entry as readonly Reply[])[1]
      // Trimmed away after it was given to somebody.
      if (!Array.isArray(fields)) {
        this.#acknowledge(id)
        continue
      }
      this.#lanes.add({ id, message: toMessage(this.#options.topic, id, fields as readonly Buffer[]) })
    }
  }

  async #room(): Promise<void> {
    // More than it can set aside: their order is given up.
    if (this.#held.size > HELD_MAX - PAGE) this.#lanes.goOn()
    while (this.#held.size > HELD_MAX - PAGE && !this.#ending.signal.aborted)
      await new Promise<void>((resolve) => {
        this.#roomCallback = resolve
      })
  }

  #acknowledge(id: string): void {
    this.#handled.push(id)
    this.#acknowledging ??= this.#sendAcknowledgements().finally(() => {
      this.#acknowledging = undefined
    })
  }

  async #sendAcknowledgements(): Promise<void> {
    const { topic, group, main } = this.#options
    // What is handled in the same turn goes together.
    await Promise.resolve()
    while (this.#handled.length > 0 && !this.#isSilent) {
      const ids = this.#handled.slice(0, HELD_MAX)
      try {
        const connection = await main.get(AbortSignal.timeout(ANSWER_MS_MAX))
        await answered('redis', connection.send(['XACK', topic, group, ...ids]))
      } catch {
        await sleep(PAUSE_MS)
        continue
      }
      this.#handled.splice(0, ids.length)
      for (const id of ids) this.#held.delete(id)
      this.#roomCallback()
    }
  }

  /** Says that it still works at what it holds, as far as nobody else has taken it. */
  async #renew(): Promise<void> {
    const { topic, group, main } = this.#options
    if (this.#held.size === 0) return
    const connection = await main.get(AbortSignal.timeout(ANSWER_MS_MAX))
    const mine = (await this.#pending(connection)).filter((id) => this.#held.has(id))
    if (mine.length > 0)
      await answered('redis', connection.send(['XCLAIM', topic, group, this.#name, '0', ...mine, 'JUSTID']))
  }

  async #pending(connection: RedisConnection): Promise<readonly string[]> {
    const { topic, group } = this.#options
    const command = ['XPENDING', topic, group, '-', '+', String(HELD_MAX * 2), this.#name]
    return ((await answered('redis', connection.send(command))) as readonly Reply[]).map((each) =>
      String((each as readonly Reply[])[0]),
    )
  }

  /** Reads no more, waits for the handlers, acknowledges, and leaves the rest to others. */
  async close(): Promise<void> {
    this.#ending.abort()
    this.#roomCallback()
    await Promise.all([this.#reading, this.#lanes.close()])
    await briefly(this.#acknowledging)
    await this.#leave()
  }

  /** As `close`, without waiting for handlers. */
  async abandon(): Promise<void> {
    this.#ending.abort()
    this.#roomCallback()
    void this.#lanes.close()
    await this.#leave()
  }

  async #leave(): Promise<void> {
    this.#isSilent = true
    clearInterval(this.#heartbeat)
    // Where not even that one is open, there is nobody to tell.
    if (this.#options.own.current !== undefined) await briefly(this.#release())
    this.#options.own.close()
  }

  async #release(): Promise<void> {
    const { topic, group, main, claimIdleMs, consumer } = this.#options
    const connection = await main.get(AbortSignal.timeout(ANSWER_MS_MAX))
    const left = await this.#pending(connection)
    if (left.length > 0)
      await answered(
        'redis',
        connection.send([
          'XCLAIM',
          topic,
          group,
          this.#name,
          '0',
          ...left,
          'IDLE',
          String(claimIdleMs * 2),
          'JUSTID',
        ]),
      )
    else if (consumer === undefined) await this.#remove(connection, this.#name)
  }
}

/** `milliseconds-number`. */
function byId(one: Entry, other: Entry): number {
  const [a = 0, b = 0] = one.id.split('-').map(Number)
  const [c = 0, d = 0] = other.id.split('-').map(Number)
  return a - c || b - d
}

function idOf(entry: Reply | undefined): string {
  return String((entry as readonly Reply[])[0])
}

/** An entry's fields are names and values, one after the other; a name may come twice. */
function toMessage(topic: string, id: string, fields: readonly Buffer[]): BrokerMessage {
  const headers: Record<string, string> = {}
  let body: Buffer | undefined
  for (let at = 0; at + 1 < fields.length; at += 2) {
    const name = String(fields[at])
    // Escrow's own entries begin with it; a header of that name stands behind it.
    if (name === 'body' && body === undefined) body = fields[at + 1]
    else headers[name] = String(fields[at + 1])
  }
  return messageOf(topic, headers, body ?? Buffer.alloc(0), { id, key: '' })
}

/** The error of a stream that isn't there. */
export function missingStream(topic: string): EscrowError {
  return new EscrowError(
    'unknownDestination',
    `redis: there is no stream ${topic}: create it, or set missingTopics to 'create'`,
  )
}
