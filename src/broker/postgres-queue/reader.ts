/**
 * One reader of a group: a loop that renews its leases, writes down what was acknowledged, gives lanes up to others and looks
 * for messages, one after the other; the handlers run beside it.
 *
 * | state   | what it does                                           | leaves by                                        |
 * |---------|--------------------------------------------------------|--------------------------------------------------|
 * | reading | all of that                                            | close                                            |
 * | closing | hands nothing out; renews until the handlers have ended | they have: acknowledges, gives all up: over       |
 * | over    | nothing; messages in hand come again after the lease   |                                                  |
 *
 * After an error it goes on from what is written down, rather than from its memory: the server may have lost commits that
 * weren't flushed, and given their ids and positions away again. So what was acknowledged within its last round comes again.
 */
import { randomUUID } from 'node:crypto'
import { boundMs, fullJitterMs } from '../../core/backoff.ts'
import type { Row, Statement } from '../../core/postgres-session.ts'
import type { BrokerMessage, Subscription } from '../broker.ts'
import { messageOf } from '../headers.ts'
import type { Connections } from './connections.ts'
import { type Item, Lane } from './lane.ts'
import {
  acknowledgeValues,
  type LaneStatements,
  lanesArray,
  loadedOf,
  loadValues,
  pageOf,
  pageValues,
  READ_BYTES,
  type ReadRow,
  stateOf,
} from './lanes.ts'
import { LANES } from './schema.ts'

/** What a reader needs to know. */
export interface ReaderOptions {
  readonly connections: Connections
  readonly statements: LaneStatements
  readonly schema: string
  readonly topic: { readonly name: string; readonly number: number }
  readonly group: { readonly name: string; readonly number: number }
  readonly concurrencyMax: number
  readonly leaseMs: number
  readonly pollMs: number
  readonly handle: (message: BrokerMessage) => Promise<void>
  readonly onOver: (reader: Reader) => void
}

/** Bodies in memory beyond which nothing more is read. */
const BYTES_MAX = 16 << 20
/** Messages that are loaded by one statement. */
const LOAD_MAX = 512
/** Of a lease: when it is renewed, and when it is believed no more. */
const RENEW_SHARE = 1 / 3
const BELIEF_SHARE = 0.9
const RECONNECT = { delayMs: 100, delayMsMax: 5_000 }
const REJECTED = { delayMs: 100, delayMsMax: 10_000 }
/** How long a broker that closes waits for what its readers still have to say. */
const FAREWELL_MS = 2_000

const now = (): number => performance.now()

export class Reader implements Subscription {
  readonly #options: ReaderOptions
  readonly #id = randomUUID()
  readonly #lanes = new Map<number, Lane>()
  #ready: Item[] = []
  #handling = 0
  #renewAt = 0
  #believedUntil = 0
  #lookAt = 0
  #isKnown = false
  #mustReset = false
  #failures = 0
  #phase: 'reading' | 'closing' | 'over' = 'reading'
  #isPatient = true
  #isAwake = false
  #wakeUp: () => void = () => {}
  readonly #over: Promise<void>

  constructor(options: ReaderOptions) {
    this.#options = options
    this.#over = this.#loop()
  }

  /** There may be something to read on a topic. */
  onMessages(topic: number | undefined): void {
    if (topic !== undefined && topic !== this.#options.topic.number) return
    this.#lookAt = 0
    this.#wake()
  }

  /** Readers of a group have come or gone. */
  onReaders(group: number): void {
    if (group !== this.#options.group.number) return
    this.#renewAt = 0
    this.#wake()
  }

  async close(): Promise<void> {
    this.#startClosing()
    await this.#over
  }

  /** Gives up what it has, handled or not. */
  async abandon(): Promise<void> {
    this.#isPatient = false
    this.#startClosing()
    await this.#over
  }

  #startClosing(): void {
    if (this.#phase === 'reading') this.#phase = 'closing'
    this.#ready = []
    for (const lane of this.#lanes.values()) lane.leave()
    this.#wake()
  }

  #wake(): void {
    this.#isAwake = true
    this.#wakeUp()
  }

  /** Until the time, or until it is woken. */
  async #sleep(ms: number): Promise<void> {
    if (!this.#isAwake && ms > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, ms)
        this.#wakeUp = () => {
          clearTimeout(timer)
          resolve()
        }
      })
      this.#wakeUp = () => {}
    }
    this.#isAwake = false
  }

  async #loop(): Promise<void> {
    while (this.#phase !== 'over') {
      try {
        await this.#turn()
        this.#failures = 0
      } catch {
        this.#mustReset = true
        this.#renewAt = 0
        this.#failures += 1
        if (this.#isDone()) break
        // Woken or not, a server that fails isn't asked again at once.
        this.#isAwake = false
        await this.#sleep(20 + fullJitterMs(RECONNECT, this.#failures, Math.random()))
      }
    }
    this.#phase = 'over'
    for (const lane of this.#lanes.values()) lane.isLost = true
    this.#options.onOver(this)
  }

  #isDone(): boolean {
    return this.#phase === 'closing' && (this.#handling === 0 || !this.#isPatient)
  }

  async #turn(): Promise<void> {
    if (now() >= this.#renewAt && !this.#isDone()) await this.#renew()
    if (!this.#mustReset) await this.#acknowledge()
    if (this.#phase === 'closing' && this.#isKnown) {
      await this.#query('leave', [])
      this.#isKnown = false
    }
    await this.#release()
    if (this.#isDone()) this.#phase = 'over'
    else await this.#sleep(Math.min(this.#renewAt, await this.#read()) - now())
  }

  /** Runs a statement that begins with group and reader. */
  async #query(name: keyof LaneStatements, values: readonly unknown[]): Promise<readonly Row[]> {
    return await this.#statement(this.#options.statements[name], [
      this.#options.group.number,
      this.#id,
      ...values,
    ])
  }

  async #statement(statement: Statement, values: readonly unknown[]): Promise<readonly Row[]> {
    const { connections, leaseMs, topic } = this.#options
    const ms = this.#isDone() ? Math.min(FAREWELL_MS, leaseMs) : leaseMs * RENEW_SHARE
    const signal = AbortSignal.timeout(Math.ceil(ms))
    return await connections.use(`reading topic ${topic.name}`, signal, (connection) =>
      connection.run(statement, values, signal),
    )
  }

  async #renew(): Promise<void> {
    const { leaseMs, group, schema, statements } = this.#options
    const from = now()
    const share = await this.#share()
    const states = await this.#query('claim', [leaseMs, share])
    this.#believedUntil = from + leaseMs * BELIEF_SHARE
    this.#renewAt = from + leaseMs * RENEW_SHARE
    this.#adopt(states.map(stateOf))
    const staying = [...this.#lanes.values()].filter(({ isLeaving }) => !isLeaving)
    for (const lane of staying.slice(share)) this.#leave(lane)
    this.#start()
    if (this.#phase === 'closing' || this.#isKnown) return
    this.#isKnown = true
    await this.#statement(statements.notify, [schema, `g${group.number}`])
  }

  /** How many lanes it may have; says that it lives, as long as it wants any. */
  async #share(): Promise<number> {
    if (this.#phase === 'closing') return 0
    const [row] = await this.#query('renewReader', [this.#options.leaseMs])
    return Math.ceil(LANES / ((row?.[0] as number) + 1))
  }

  #adopt(states: readonly ReturnType<typeof stateOf>[]): void {
    if (this.#mustReset) this.#ready = this.#ready.filter(({ lane, position }) => lane.held.has(position))
    for (const state of states) {
      const known = this.#lanes.get(state.lane)
      if (known === undefined) {
        const lane = new Lane(state)
        if (this.#phase !== 'reading') lane.leave()
        this.#lanes.set(state.lane, lane)
        this.#lookAt = 0
      } else if (this.#mustReset) {
        known.reset(state)
        if (known.isLeaving) known.leave()
        this.#lookAt = 0
      }
    }
    this.#mustReset = false
    const mine = new Set(states.map(({ lane }) => lane))
    for (const lane of this.#lanes.values()) if (!mine.has(lane.lane)) this.#lose(lane)
  }

  #lose(lane: Lane): void {
    lane.isLost = true
    this.#lanes.delete(lane.lane)
    this.#leave(lane)
  }

  #leave(lane: Lane): void {
    lane.leave()
    this.#ready = this.#ready.filter((item) => item.lane !== lane)
  }

  async #acknowledge(): Promise<void> {
    const dirty = [...this.#lanes.values()].filter(({ isDirty }) => isDirty)
    if (dirty.length === 0) return
    for (const lane of dirty) lane.isDirty = false
    const rows = await this.#query('acknowledge', acknowledgeValues(dirty.map(({ state }) => state)))
    const written = new Set(rows.map(([lane]) => lane))
    // Whatever had an id when a lane was looked at has a lower one: fewer are to be looked through for those that come late.
    for (const lane of this.#lanes.values())
      if (lane.below === '') lane.below = (rows[0]?.[1] as string | undefined) ?? ''
    for (const lane of dirty) if (!written.has(lane.lane)) this.#lose(lane)
  }

  /** Gives up the lanes that are to go, once nothing of them is handled. */
  async #release(): Promise<void> {
    const isDone = this.#isDone()
    const leaving = [...this.#lanes.values()].filter(
      (lane) => isDone || (lane.isLeaving && lane.handling === 0 && !lane.isDirty),
    )
    if (leaving.length === 0) return
    await this.#query('release', [lanesArray(leaving.map(({ lane }) => lane)), this.#options.schema])
    for (const lane of leaving) this.#lose(lane)
  }

  /** Reads once, where there is something to read and room for it; returns when to try again. */
  async #read(): Promise<number> {
    const lanes = [...this.#lanes.values()]
    // What is acknowledged, and lanes that are new, wake it.
    if (this.#phase === 'closing' || lanes.reduce((sum, { bytes }) => sum + bytes, 0) > BYTES_MAX)
      return Number.POSITIVE_INFINITY
    const unread = lanes.flatMap((lane) =>
      lane.unread.slice(0, LOAD_MAX).map((position) => ({ lane: lane.lane, position })),
    )
    if (unread.length > 0) {
      await this.#load(unread.slice(0, LOAD_MAX))
      return 0
    }
    const readable = lanes.filter(({ room }) => room > 0)
    if (readable.length === 0) return Number.POSITIVE_INFINITY
    if (now() >= this.#lookAt) await this.#look(readable)
    return this.#lookAt
  }

  async #look(lanes: readonly Lane[]): Promise<void> {
    const { statements, topic, pollMs } = this.#options
    this.#lookAt = now() + pollMs
    const rooms = lanes.map(({ room }) => room)
    const states = lanes.map(({ state }) => state)
    const { seen, late, fresh } = pageOf(
      await this.#statement(statements.page, [topic.number, ...pageValues(states, rooms)]),
    )
    let hasMore =
      late.length > 0 || fresh.reduce((sum, { body }) => sum + (body as Buffer).length, 0) >= READ_BYTES
    for (const [at, lane] of lanes.entries()) {
      // It was given up meanwhile, as it was.
      if (lane.isLeaving) continue
      lane.seen = seen
      lane.below = ''
      const ofLane = ({ lane: number }: ReadRow) => number === lane.lane
      lane.name(late.filter(ofLane).map(({ position }) => position))
      // What is late comes before what is fresh: that is read again.
      if (lane.unread.length > 0) continue
      const rows = fresh.filter(ofLane)
      if (rows.length === rooms[at]) hasMore = true
      lane.readTo = rows.at(-1)?.position ?? lane.readTo
      this.#take(lane, rows)
    }
    if (hasMore) this.#lookAt = 0
    this.#start()
  }

  async #load(wanted: readonly { readonly lane: number; readonly position: number }[]): Promise<void> {
    const { statements, topic } = this.#options
    const rows = loadedOf(await this.#statement(statements.load, [topic.number, ...loadValues(wanted)]))
    for (const lane of this.#lanes.values()) {
      const ofLane = wanted.filter((each) => each.lane === lane.lane).map(({ position }) => position)
      if (ofLane.length === 0 || lane.isLeaving) continue
      const found = rows.filter((row) => row.lane === lane.lane)
      const there = new Set(found.map(({ position }) => position))
      lane.forget(ofLane.filter((position) => !there.has(position)))
      const read = found.filter(({ body }) => body !== undefined)
      const cut = new Set(found.filter(({ body }) => body === undefined).map(({ position }) => position))
      const asked = new Set(ofLane)
      lane.unread = lane.unread.filter((position) => !asked.has(position) || cut.has(position))
      this.#take(lane, read)
    }
    this.#start()
  }

  #take(lane: Lane, rows: readonly ReadRow[]): void {
    for (const { position, headers, body } of rows) {
      const all = JSON.parse(headers as string) as Record<string, string> | null
      const message = messageOf(this.#options.topic.name, all ?? {}, body as Buffer, { id: '', key: '' })
      const ready = lane.take(position, message)
      if (ready !== undefined) this.#ready.push(ready)
    }
  }

  /** Hands out what is ready, while the leases are believed. */
  #start(): void {
    const { concurrencyMax } = this.#options
    while (this.#handling < concurrencyMax && now() < this.#believedUntil) {
      const item = this.#ready.shift()
      if (item === undefined) return
      this.#handling += 1
      item.lane.handling += 1
      item.lane.held.set(item.position, item)
      void this.#handle(item)
    }
  }

  async #handle(item: Item): Promise<void> {
    const { lane, message } = item
    let isHandled = true
    try {
      await this.#options.handle(message)
    } catch {
      isHandled = false
    }
    this.#handling -= 1
    lane.handling -= 1
    if (isHandled) {
      const next = lane.acknowledge(item)
      if (next !== undefined) this.#ready.push(next)
    } else {
      item.rejections += 1
      const pause = boundMs(REJECTED, item.rejections) * (0.5 + Math.random() / 2)
      setTimeout(() => this.#again(item), pause).unref()
    }
    this.#start()
    this.#wake()
  }

  #again(item: Item): void {
    const { lane, position } = item
    if (lane.isLost || lane.isLeaving || lane.held.get(position) !== item) return
    this.#ready.unshift(item)
    this.#start()
  }
}
