/**
 * What the two sides of a bare loop say. Each transaction has three stages: the client says something, the server records
 * it and answers, and the answer has the client go to the next stage.
 *
 * | loop           | stage 0             | answered by                   | stage 1              | answered by                     | stage 2              |
 * |----------------|---------------------|-------------------------------|----------------------|---------------------------------|----------------------|
 * | message        | prepare with a body | a reply                       | commit               | a reply, a call with the body   | the call's answer    |
 * | message-packed | the same            |                               |                      |                                 |                      |
 * | saga           | start with an input | a reply, a call with the input | answer with a result | another call with the input     | answer with a result |
 *
 * Those of `message` and `saga` are items of a session, as src/wire packs them, with the names and ids that a real
 * transaction carries. A packed one is a kind, a number, and for a body its length and bytes: the least that can cross.
 * `message-plain` and `saga-plain` say the same as those without it, in plain protobuf: see bare-plain.ts.
 */
import type { FrameEncoder } from '../../src/wire/frame.ts'

export const BARE_LOOPS = ['message', 'message-packed', 'message-plain', 'saga', 'saga-plain'] as const
export type BareLoop = (typeof BARE_LOOPS)[number]

export type Stage = 0 | 1 | 2

/** Told of an item: which stage of which transaction; `body` is that of stage 0. */
export type OnStage = (stage: Stage, slot: number, body: Uint8Array) => void

/** One side of a bare loop: its items collect in a frame. */
export interface BareEnd {
  /** A client says its part of a stage; a server answers it, which its client hears as the stage after it. */
  say(stage: Stage, slot: number, body: Uint8Array): void
  /** What was said; it is empty then. */
  take(): Buffer | undefined
  read(frame: Buffer, on: OnStage): void
}

/** gRPC takes 4 MiB. */
const FRAME_BYTES_MAX = 3 << 20

/** Frames that are full, and the one that fills. */
export class Frames<Item> {
  readonly #full: Buffer[] = []
  readonly encoder: FrameEncoder<Item>

  constructor(open: (bytesMax: number, onFrame: (frame: Buffer) => void) => FrameEncoder<Item>) {
    this.encoder = open(FRAME_BYTES_MAX, (frame) => this.#full.push(frame))
  }

  take(): Buffer | undefined {
    this.encoder.flush()
    if (this.#full.length > 1) throw new Error('the bare loop fills one frame at a time: fewer in flight')
    return this.#full.pop()
  }
}

const ids = new Map<number, string>()

/** As long as a minted id, and as many different ones as there are slots. */
export function idOf(slot: number): string {
  let id = ids.get(slot)
  if (id === undefined) {
    id = `{k3}~m8x2k9a1b-1k2j3h4g5f6d7.${(1_000_000 + slot).toString(36)}`
    ids.set(slot, id)
  }
  return id
}

export const executionIdOf = (slot: number): string => `a1b2c3d4-1-${slot.toString(36)}`

/** Numbers of commands and calls are one more than what they stand for: no number is 0. Each slot has two of them. */
export const numberOf = (slot: number, second: 0 | 1): number => 2 * slot + second + 1
export const slotOf = (number: number): number => (number - 1) >> 1
export const isSecond = (number: number): boolean => number % 2 === 0

const same = (bytes: Buffer): Buffer => bytes

/** One stream both ways whose messages are the frames themselves. */
export const BARE_METHOD = {
  path: '/bare.Loop/Run',
  requestStream: true,
  responseStream: true,
  requestSerialize: same,
  requestDeserialize: same,
  responseSerialize: same,
  responseDeserialize: same,
} as const
