/** Hands on whole answers of a broker only. */
import type { Socket } from 'node:net'

/** Of the length that stands before each answer. */
const LENGTH_BYTES = 4

/**
 * kafkajs keeps the beginning of an answer when its connection breaks, and puts the first bytes of the next connection
 * behind it, so that nothing is understood from then on (its `Connection` never clears `chunks`). It doesn't get to see
 * the beginning.
 */
export function withWholeAnswers(socket: Socket): Socket {
  let held: Buffer[] = []
  let heldBytes = 0
  let needed = LENGTH_BYTES
  const emit = socket.emit.bind(socket)
  socket.emit = (event: string | symbol, ...args: unknown[]): boolean => {
    if (event !== 'data') return emit(event, ...args)
    held.push(args[0] as Buffer)
    heldBytes += (args[0] as Buffer).length
    if (heldBytes < needed) return true
    const bytes = held.length === 1 ? (held[0] as Buffer) : Buffer.concat(held)
    let whole = 0
    needed = LENGTH_BYTES
    while (bytes.length - whole >= needed) {
      needed = LENGTH_BYTES + bytes.readInt32BE(whole)
      if (bytes.length - whole < needed) break
      whole += needed
      needed = LENGTH_BYTES
    }
    held = whole === bytes.length ? [] : [bytes.subarray(whole)]
    heldBytes = bytes.length - whole
    return whole === 0 || emit('data', bytes.subarray(0, whole))
  }
  return socket
}
