/**
 * The frames of a session: protobuf messages (`ConnectRequest` from a service, `ConnectResponse` from a coordinator),
 * written and read by hand because every transaction crosses here several times, and readable by any protobuf library.
 *
 * Order. Items stand in a frame in the order in which they were appended, classes mixed, and are read in that order. A
 * peer that reads with a protobuf library sees them by field, so only this is promised: items of one class (all
 * commands are one) keep their order, in a frame and over frames.
 *
 * Limits. A frame is cut before the item that would make it longer than `frameBytesMax`. An item that is longer alone is
 * `tooLarge`; what was appended before it is not touched.
 *
 * What is read. Whatever the bytes are, `decode` returns items or throws one `EscrowError`: `malformed`, or
 * `unsupported` for a frame that names a key. Its cost is bounded by the frame's length. Bodies are views on the frame
 * where that pins little memory, see `ProtoReader.body`; the frame's buffer must not be written to afterwards.
 */
import { EscrowError } from '../core/errors.ts'
import {
  readCheckBackAnswer,
  readCheckBackCall,
  readDeliveryAnswer,
  readDeliveryCall,
  readNoSession,
  readStepAnswer,
  readStepCall,
} from './decode-calls.ts'
import { readCommand, readReply } from './decode-items.ts'
import { LastNames } from './decode-parts.ts'
import { writeCoordinatorItem, writeServiceItem } from './encode-items.ts'
import { helloOf, registeredOf, registrationOf, routingsOf, welcomeOf } from './handshake.ts'
import type { CoordinatorItem, ServiceItem, UnreadableCommandItem } from './items.ts'
import { malformed, ProtoReader } from './proto-reader.ts'
import { ProtoWriter } from './proto-writer.ts'

export { detach } from './proto-reader.ts'

/** The layout of frames that this version writes and reads. */
const FORMAT = 1
/** The field `format` with its value, which opens each frame. */
const HEADER_BYTES = 2

/** Fills frames with items. */
export interface FrameEncoder<Item> {
  /** The longest frame, in bytes; may be changed between items, as a welcome tells it. */
  frameBytesMax: number
  /** How long the frame is that fills. */
  readonly bytes: number
  /** Appends an item, and hands out a frame when that fills one. Throws `tooLarge`, `invalidArgument`. */
  append(item: Item): void
  /** Hands out what is left. */
  flush(): void
}

/** Reads frames. */
export interface FrameDecoder<Item> {
  /** The items of a frame. Throws `malformed`, `unsupported`. */
  decode(frame: Uint8Array): readonly Item[]
}

/** Both directions of one side of a session. Each stream needs its own: what they remember is a stream's. */
export interface FrameCodec<Sent, Received> {
  encoder(frameBytesMax: number, onFrame: (frame: Buffer) => void): FrameEncoder<Sent>
  decoder(): FrameDecoder<Received>
}

/** Of a service: it sends `ConnectRequest`s and receives `ConnectResponse`s. */
export const serviceCodec: FrameCodec<ServiceItem, CoordinatorItem> = {
  encoder: (frameBytesMax, onFrame) => new Encoder(writeServiceItem, frameBytesMax, onFrame),
  decoder: () => new Decoder(readCoordinatorField, 10),
}

/** Of a coordinator: it sends `ConnectResponse`s and receives `ConnectRequest`s. */
export const coordinatorCodec: FrameCodec<CoordinatorItem, ServiceItem | UnreadableCommandItem> = {
  encoder: (frameBytesMax, onFrame) => new Encoder(writeCoordinatorItem, frameBytesMax, onFrame),
  decoder: () => new Decoder(readServiceField, 9),
}

class Encoder<Item> implements FrameEncoder<Item> {
  readonly #writer: ProtoWriter
  readonly #write: (writer: ProtoWriter, item: Item) => void
  readonly #onFrame: (frame: Buffer) => void
  #frameBytesMax = 0

  constructor(
    write: (writer: ProtoWriter, item: Item) => void,
    frameBytesMax: number,
    onFrame: (frame: Buffer) => void,
  ) {
    this.#write = write
    this.#onFrame = onFrame
    this.#writer = new ProtoWriter(0)
    this.frameBytesMax = frameBytesMax
  }

  get frameBytesMax(): number {
    return this.#frameBytesMax
  }

  set frameBytesMax(bytes: number) {
    this.#frameBytesMax = bytes
    // A frame that is nearly full and one more item: whatever needs more is too large anyway.
    this.#writer.bytesMax = 2 * bytes + 64
  }

  get bytes(): number {
    return this.#writer.length
  }

  append(item: Item): void {
    const writer = this.#writer
    const start = writer.length
    if (start === 0) writer.uint32(1 << 3, FORMAT)
    const itemStart = writer.length
    try {
      this.#write(writer, item)
      const bytes = writer.length - itemStart
      if (bytes + HEADER_BYTES > this.#frameBytesMax)
        throw tooLarge(bytes + HEADER_BYTES, this.#frameBytesMax)
    } catch (error) {
      writer.truncate(start)
      throw error
    }
    if (writer.length > this.#frameBytesMax) {
      this.#onFrame(writer.copy(itemStart))
      // The header stays, and opens the next frame.
      writer.remove(HEADER_BYTES, itemStart)
    }
  }

  flush(): void {
    const { length } = this.#writer
    if (length === 0) return
    const frame = this.#writer.copy(length)
    this.#writer.reset()
    this.#onFrame(frame)
  }
}

function tooLarge(actual: number, max: number): EscrowError {
  return new EscrowError(
    'tooLarge',
    `an item takes ${actual} bytes, over the limit frameBytesMax of ${max}`,
    {
      details: { limit: 'frameBytesMax', max: String(max), actual: String(actual) },
    },
  )
}

/** Reads the field of `tag`, and adds what it holds to the items; false for a field that isn't known. */
type ReadField<Item> = (reader: ProtoReader, tag: number, names: LastNames, items: Item[]) => boolean

class Decoder<Item> implements FrameDecoder<Item> {
  readonly #names = new LastNames()
  readonly #readField: ReadField<Item>
  readonly #fields: number

  constructor(readField: ReadField<Item>, fields: number) {
    this.#readField = readField
    this.#fields = fields
  }

  decode(frame: Uint8Array): readonly Item[] {
    const reader = new ProtoReader(frame)
    const items: Item[] = []
    let format = 0
    while (reader.more) {
      const tag = reader.tag()
      if (tag === 8) {
        format = reader.uint32()
        checkFormat(format)
      } else if (tag === 18) checkKey(reader.text())
      else if (!this.#readField(reader, tag, this.#names, items)) reader.skip(tag, this.#fields)
    }
    checkFormat(format)
    return items
  }
}

function checkFormat(format: number): void {
  if (format === FORMAT) return
  const problem = format === 0 ? 'no format is named' : `format ${format} is not known here`
  throw malformed(
    `${problem}: this version reads format ${FORMAT}, bring both sides to versions that share one`,
  )
}

function checkKey(keyId: string): void {
  if (keyId === '') return
  throw new EscrowError(
    'unsupported',
    `the frame is encrypted with key ${JSON.stringify(keyId.slice(0, 100))}: send it plain`,
  )
}

function readServiceField(
  reader: ProtoReader,
  tag: number,
  names: LastNames,
  items: (ServiceItem | UnreadableCommandItem)[],
): boolean {
  switch (tag) {
    case 34:
      items.push(readCommand(reader, names))
      return true
    case 42:
      items.push(readDeliveryAnswer(reader))
      return true
    case 50:
      items.push(readCheckBackAnswer(reader))
      return true
    case 26:
      items.push(helloOf(reader.raw()))
      return true
    case 58:
      items.push(registrationOf(reader.raw()))
      return true
    case 66:
      items.push(readStepAnswer(reader))
      return true
    case 74:
      items.push(readNoSession(reader))
      return true
    default:
      return false
  }
}

function readCoordinatorField(
  reader: ProtoReader,
  tag: number,
  names: LastNames,
  items: CoordinatorItem[],
): boolean {
  switch (tag) {
    case 34:
      items.push(readReply(reader, names))
      return true
    case 42:
      items.push(readDeliveryCall(reader, names))
      return true
    case 50:
      items.push(readCheckBackCall(reader, names))
      return true
    case 26:
      items.push(welcomeOf(reader.raw()))
      return true
    case 58:
      items.push(registeredOf(reader.raw()))
      return true
    case 64:
      if (reader.bool()) items.push({ type: 'drain' })
      return true
    case 74:
      items.push(readStepCall(reader, names))
      return true
    case 82:
      items.push(routingsOf(reader.raw()))
      return true
    default:
      return false
  }
}
