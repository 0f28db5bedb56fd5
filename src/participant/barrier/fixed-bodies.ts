import type { FixedBody } from '../../core/api.ts'
import { EscrowError } from '../../core/errors.ts'

/**
 * The bodies of a local transaction as its row keeps them: for each one its index and its length, both unsigned 32-bit
 * big-endian, then its bytes. Part of the barrier's contract: see protos/escrow/v1/BARRIER.md.
 */
export function encodeFixedBodies(bodies: readonly FixedBody[]): Uint8Array {
  const parts = bodies.flatMap(({ index, body }) => {
    const head = Buffer.alloc(8)
    head.writeUInt32BE(index, 0)
    head.writeUInt32BE(body.length, 4)
    return [head, body]
  })
  return Buffer.concat(parts)
}

/** Reads what `encodeFixedBodies` wrote. Throws `malformed`. */
export function decodeFixedBodies(bytes: Uint8Array): readonly FixedBody[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const bodies: FixedBody[] = []
  for (let at = 0; at < bytes.length; ) {
    const end = at + 8 <= bytes.length ? at + 8 + view.getUint32(at + 4) : bytes.length + 1
    if (end > bytes.length)
      throw new EscrowError('malformed', 'the fixed bodies of a barrier row end too early')
    bodies.push({ index: view.getUint32(at), body: bytes.subarray(at + 8, end) })
    at = end
  }
  return bodies
}
