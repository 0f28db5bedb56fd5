/** The bare loop of a message, packed by hand: the least that can cross. */
import type { BareEnd, OnStage, Stage } from './bare-frame.ts'

const CAPACITY_AT_FIRST = 1 << 16
/** A stage whose item carries a body is told so by this bit. */
const WITH_BODY = 1 << 7
const NONE = new Uint8Array(0)

/** Packs items by hand: a frame of the bare loop, and a segment of its log. */
export class Packer {
  #bytes = Buffer.allocUnsafe(CAPACITY_AT_FIRST)
  #length = 0

  #room(bytes: number): void {
    if (this.#length + bytes <= this.#bytes.length) return
    const larger = Buffer.allocUnsafe(2 * (this.#length + bytes))
    this.#bytes.copy(larger, 0, 0, this.#length)
    this.#bytes = larger
  }

  item(kind: number, slot: number): void {
    this.#room(5)
    this.#bytes[this.#length] = kind
    this.#bytes.writeUInt32LE(slot, this.#length + 1)
    this.#length += 5
  }

  itemWithBody(kind: number, slot: number, body: Uint8Array): void {
    this.item(kind | WITH_BODY, slot)
    this.#room(4 + body.length)
    this.#bytes.writeUInt32LE(body.length, this.#length)
    this.#bytes.set(body, this.#length + 4)
    this.#length += 4 + body.length
  }

  /** What it holds; it is empty then. */
  take(): Buffer | undefined {
    if (this.#length === 0) return undefined
    const taken = Buffer.from(this.#bytes.subarray(0, this.#length))
    this.#length = 0
    return taken
  }
}

function unpack(frame: Buffer, on: OnStage): void {
  let at = 0
  while (at < frame.length) {
    const kind = frame[at]!
    const slot = frame.readUInt32LE(at + 1)
    at += 5
    let body: Uint8Array = NONE
    if (kind & WITH_BODY) {
      const bytes = frame.readUInt32LE(at)
      body = frame.subarray(at + 4, at + 4 + bytes)
      at += 4 + bytes
    }
    on((kind & ~WITH_BODY) as Stage, slot, body)
  }
}

export class PackedClient implements BareEnd {
  readonly #packer = new Packer()

  say(stage: Stage, slot: number, body: Uint8Array): void {
    if (stage === 0) this.#packer.itemWithBody(stage, slot, body)
    else this.#packer.item(stage, slot)
  }

  take(): Buffer | undefined {
    return this.#packer.take()
  }

  read(frame: Buffer, on: OnStage): void {
    unpack(frame, (stage, slot, body) => {
      // Stage 0 is the reply to a commit, which asks for nothing.
      if (stage !== 0) on(stage, slot, body)
    })
  }
}

export class PackedServer implements BareEnd {
  readonly #packer = new Packer()

  say(stage: Stage, slot: number, body: Uint8Array): void {
    if (stage === 0) this.#packer.item(1, slot)
    if (stage !== 1) return
    this.#packer.item(0, slot)
    this.#packer.itemWithBody(2, slot, body)
  }

  take(): Buffer | undefined {
    return this.#packer.take()
  }

  read(frame: Buffer, on: OnStage): void {
    unpack(frame, on)
  }
}
