/**
 * The two ways in which the bare loop fills its frames. A transaction crosses as five items: a prepare with its body and
 * its reply, a commit and its reply, a call with the body and its answer.
 *
 * | packing  | items                                                                                              |
 * |----------|----------------------------------------------------------------------------------------------------|
 * | protocol | those of a session, as src/wire packs them, with the names and ids that a real transaction carries |
 * | packed   | a kind, a number, and for a body its length and bytes: the least that can cross                     |
 */

import { NO_TRACE } from '../../src/core/envelope.ts'
import { coordinatorCodec, type FrameEncoder, serviceCodec } from '../../src/wire/frame.ts'
import type { CoordinatorItem, ServiceItem } from '../../src/wire/items.ts'

export type Packing = 'protocol' | 'packed'

/** What a client says and hears. */
export interface ClientEnd {
  prepare(slot: number, body: Buffer): void
  commit(slot: number): void
  answer(slot: number): void
  take(): Buffer | undefined
  read(frame: Buffer, on: { prepared(slot: number): void; call(slot: number): void }): void
}

/** What a server says and hears. */
export interface ServerEnd {
  prepared(slot: number): void
  committed(slot: number): void
  call(slot: number, body: Uint8Array): void
  take(): Buffer | undefined
  read(
    frame: Buffer,
    on: {
      prepare(slot: number, body: Uint8Array): void
      commit(slot: number): void
      answer(slot: number): void
    },
  ): void
}

export const clientEnd = (packing: Packing): ClientEnd =>
  packing === 'packed' ? new PackedClient() : new ProtocolClient()

export const serverEnd = (packing: Packing): ServerEnd =>
  packing === 'packed' ? new PackedServer() : new ProtocolServer()

/** gRPC takes 4 MiB. */
const FRAME_BYTES_MAX = 3 << 20

/** Frames that are full, and the one that fills. */
class Frames<Item> {
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

// A slot has two commands, so that its number can be told from theirs.
const commandOf = (slot: number, isCommit: boolean): number => 2 * slot + (isCommit ? 2 : 1)

const ids = new Map<number, string>()

/** As long as a minted id, and as many different ones as there are slots. */
function idOf(slot: number): string {
  let id = ids.get(slot)
  if (id === undefined) {
    id = `{k3}~m8x2k9a1b-1k2j3h4g5f6d7.${(1_000_000 + slot).toString(36)}`
    ids.set(slot, id)
  }
  return id
}

class ProtocolClient implements ClientEnd {
  readonly #frames = new Frames<ServiceItem>(serviceCodec.encoder)
  readonly #decoder = serviceCodec.decoder()

  prepare(slot: number, body: Buffer): void {
    const request = {
      id: idOf(slot),
      checker: 'bench',
      messages: [{ destination: 'bench/take', body }],
      trace: NO_TRACE,
    }
    const commandId = commandOf(slot, false)
    this.#frames.encoder.append({ type: 'command', commandId, timeoutMs: 30_000, op: 'prepare', request })
  }

  commit(slot: number): void {
    const commandId = commandOf(slot, true)
    const request = { id: idOf(slot) }
    this.#frames.encoder.append({ type: 'command', commandId, timeoutMs: 30_000, op: 'commit', request })
  }

  answer(slot: number): void {
    const response = { outcome: 'delivered', error: '' } as const
    this.#frames.encoder.append({ type: 'deliveryAnswer', callId: slot + 1, response })
  }

  take(): Buffer | undefined {
    return this.#frames.take()
  }

  read(frame: Buffer, on: { prepared(slot: number): void; call(slot: number): void }): void {
    for (const item of this.#decoder.decode(frame)) {
      if (item.type === 'delivery') on.call(item.callId - 1)
      else if (item.type === 'reply' && item.op === 'prepare') on.prepared((item.commandId - 1) / 2)
    }
  }
}

class ProtocolServer implements ServerEnd {
  readonly #frames = new Frames<CoordinatorItem>(coordinatorCodec.encoder)
  readonly #decoder = coordinatorCodec.decoder()

  prepared(slot: number): void {
    const response = {
      id: idOf(slot),
      executionId: `a1b2c3d4-1-${slot.toString(36)}`,
      status: 'prepared',
    } as const
    this.#frames.encoder.append({ type: 'reply', commandId: commandOf(slot, false), op: 'prepare', response })
  }

  committed(slot: number): void {
    const response = { status: 'committed' } as const
    this.#frames.encoder.append({ type: 'reply', commandId: commandOf(slot, true), op: 'commit', response })
  }

  call(slot: number, body: Uint8Array): void {
    const request = {
      namespace: 'default',
      transactionId: idOf(slot),
      executionId: `a1b2c3d4-1-${slot.toString(36)}.0`,
      attempt: 1,
      service: 'bench',
      handler: 'take',
      body,
      headers: {},
      key: '',
      contentType: 'application/json',
      trace: NO_TRACE,
      timeoutMs: 30_000,
    }
    this.#frames.encoder.append({ type: 'delivery', callId: slot + 1, request })
  }

  take(): Buffer | undefined {
    return this.#frames.take()
  }

  read(frame: Buffer, on: Parameters<ServerEnd['read']>[1]): void {
    for (const item of this.#decoder.decode(frame)) {
      if (item.type === 'deliveryAnswer') on.answer(item.callId - 1)
      else if (item.type === 'command' && item.op === 'commit') on.commit((item.commandId - 2) / 2)
      else if (item.type === 'command' && item.op === 'prepare') {
        on.prepare((item.commandId - 1) / 2, item.request.messages[0]!.body!)
      }
    }
  }
}

const [PREPARE, COMMIT, ANSWER, PREPARED, COMMITTED, CALL] = [1, 2, 3, 4, 5, 6]
const CAPACITY_AT_FIRST = 1 << 16

/** Packs items by hand: a frame of the bare loop, and a segment of its log. */
export class Packer {
  #bytes = Buffer.allocUnsafe(CAPACITY_AT_FIRST)
  #length = 0

  get isEmpty(): boolean {
    return this.#length === 0
  }

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
    this.item(kind, slot)
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

function unpack(frame: Buffer, each: (kind: number, slot: number, body: Buffer) => void): void {
  let at = 0
  while (at < frame.length) {
    const kind = frame[at]!
    const slot = frame.readUInt32LE(at + 1)
    at += 5
    let body = frame
    if (kind === PREPARE || kind === CALL) {
      const bytes = frame.readUInt32LE(at)
      body = frame.subarray(at + 4, at + 4 + bytes)
      at += 4 + bytes
    }
    each(kind, slot, body)
  }
}

class PackedClient implements ClientEnd {
  readonly #packer = new Packer()
  prepare = (slot: number, body: Buffer): void => this.#packer.itemWithBody(PREPARE!, slot, body)
  commit = (slot: number): void => this.#packer.item(COMMIT!, slot)
  answer = (slot: number): void => this.#packer.item(ANSWER!, slot)
  take = (): Buffer | undefined => this.#packer.take()

  read(frame: Buffer, on: { prepared(slot: number): void; call(slot: number): void }): void {
    unpack(frame, (kind, slot) => {
      if (kind === PREPARED) on.prepared(slot)
      else if (kind === CALL) on.call(slot)
    })
  }
}

class PackedServer implements ServerEnd {
  readonly #packer = new Packer()
  prepared = (slot: number): void => this.#packer.item(PREPARED!, slot)
  committed = (slot: number): void => this.#packer.item(COMMITTED!, slot)
  call = (slot: number, body: Uint8Array): void => this.#packer.itemWithBody(CALL!, slot, body)
  take = (): Buffer | undefined => this.#packer.take()

  read(frame: Buffer, on: Parameters<ServerEnd['read']>[1]): void {
    unpack(frame, (kind, slot, body) => {
      if (kind === PREPARE) on.prepare(slot, body)
      else if (kind === COMMIT) on.commit(slot)
      else on.answer(slot)
    })
  }
}

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
