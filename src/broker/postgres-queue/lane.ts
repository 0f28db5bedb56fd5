/**
 * One lane in its reader's memory.
 *
 * | a message is | it stands in                | leaves by                                               |
 * |--------------|-----------------------------|---------------------------------------------------------|
 * | named        | `open`, `unread`            | loaded; or found to be gone, as acknowledged            |
 * | waiting      | `open`, a chain             | the one before it under its key has been acknowledged   |
 * | ready        | `open`, the reader's queue  | the reader hands it out                                 |
 * | held         | `open`, `held`              | acknowledged; rejected: held, and ready after a pause   |
 * | acknowledged | nowhere                     |                                                         |
 *
 * Whatever is in `open` comes to the next reader of the lane, should this one lose it.
 */
import type { BrokerMessage } from '../broker.ts'
import type { LaneState } from './lanes.ts'

/** A message that was read. */
export interface Item {
  readonly lane: Lane
  readonly position: number
  readonly message: BrokerMessage
  /** How often it was rejected. */
  rejections: number
}

/** Messages of a lane that are read and not acknowledged, at most; those that a late transaction or the reader before left come on top. */
const OPEN_MAX = 256

/** A lane that a reader has. */
export class Lane {
  readonly lane: number
  seen = ''
  readTo = 0
  below = ''
  /** Positions that were read and aren't acknowledged. */
  open = new Set<number>()
  /** Of those, the ones whose content isn't here; in their order. */
  unread: number[] = []
  /** Handed out and not acknowledged. */
  readonly held = new Map<number, Item>()
  /** Messages that wait behind another one of their key. */
  readonly #chains = new Map<string, Item[]>()
  /** Bytes of the bodies that are here. */
  bytes = 0
  /** How many are being handled at this moment. */
  handling = 0
  /** Something was acknowledged since that was last written down. */
  isDirty = false
  /** Nothing more is read or handed out: it is to go to another reader. */
  isLeaving = false
  /** It is another reader's. */
  isLost = false

  constructor(state: LaneState) {
    this.lane = state.lane
    this.reset(state)
  }

  /** Goes on from what is written down; what is held stays held, and isn't handed out again. */
  reset({ seen, readTo, below, open }: LaneState): void {
    this.seen = seen
    this.readTo = readTo
    this.below = below
    this.open = new Set(open)
    this.unread = open.filter((position) => !this.held.has(position)).sort((a, b) => a - b)
    this.isDirty = false
    this.#chains.clear()
    this.bytes = 0
    for (const { message } of this.held.values()) {
      this.bytes += message.body.length
      if (message.key !== '') this.#chains.set(message.key, [])
    }
  }

  get state(): LaneState {
    return { lane: this.lane, seen: this.seen, readTo: this.readTo, below: this.below, open: [...this.open] }
  }

  /** How many more may be read; 0 until there is room worth a look. */
  get room(): number {
    if (this.isLeaving || this.unread.length > 0) return 0
    const room = OPEN_MAX - this.open.size
    return room >= OPEN_MAX / 2 ? room : 0
  }

  /** Positions that were found late: to be loaded. */
  name(positions: readonly number[]): void {
    for (const position of positions) this.open.add(position)
    this.unread = [...this.unread, ...positions.filter((position) => !this.held.has(position))].sort(
      (a, b) => a - b,
    )
  }

  /** Takes a message that was read; returns it when it is ready at once. */
  take(position: number, message: BrokerMessage): Item | undefined {
    this.open.add(position)
    // It was in our hands when the connection broke.
    if (this.held.has(position)) return undefined
    this.bytes += message.body.length
    const item = { lane: this, position, message, rejections: 0 }
    if (message.key === '') return item
    const chain = this.#chains.get(message.key)
    if (chain === undefined) this.#chains.set(message.key, [])
    else chain.push(item)
    return chain === undefined ? item : undefined
  }

  /** Positions that were to be loaded, and aren't there any more. */
  forget(positions: readonly number[]): void {
    if (positions.length === 0) return
    for (const position of positions) this.open.delete(position)
    this.isDirty = true
  }

  /** It was handled; returns the next one of its key. */
  acknowledge(item: Item): Item | undefined {
    const { position, message } = item
    if (!this.held.delete(position)) return undefined
    this.bytes -= message.body.length
    if (this.open.delete(position)) this.isDirty = true
    const next = this.#chains.get(message.key)?.shift()
    if (next === undefined) this.#chains.delete(message.key)
    return next
  }

  /** Hands nothing out any more; what is handled is still acknowledged. */
  leave(): void {
    this.isLeaving = true
    this.unread = []
    this.#chains.clear()
  }
}
