import type { Runtime } from '../core/runtime.ts'
import { systemRuntime } from '../runtime.ts'
import { openGrpcStream } from '../wire/grpc-stream.ts'
import { type Addresses, inTurns, parseAddresses } from './addresses.ts'
import type { OpenStream } from './connection.ts'
import { Session } from './session.ts'
import type { SessionOptions } from './session-options.ts'

/** Options of `connect`: those of the session, with the real clock by default. */
export interface ConnectOptions extends Omit<SessionOptions, 'runtime'> {
  readonly runtime?: Runtime | undefined
}

/**
 * Opens a session with the coordinator at `target`: `host:port` for gRPC, several of them (`'a:7411,b:7411'`, or an array), or a
 * function that opens a stream, as a coordinator in the same process gives it. Of several addresses any one is tried first;
 * the session stays where it is welcomed, and goes on at the next one when that fails, is lost, or is about to stop. Tries until
 * `connectTimeoutMs` and resolves at the welcome. Rejects with `disconnected`, or at once with what the coordinator refused.
 */
export async function connect(target: Addresses | OpenStream, options: ConnectOptions): Promise<Session> {
  const runtime = options.runtime ?? systemRuntime
  const session =
    typeof target === 'function'
      ? new Session(target, { ...options, runtime })
      : sessionAt(parseAddresses(target), { ...options, runtime })
  await session.open()
  return session
}

function sessionAt(addresses: readonly string[], options: SessionOptions): Session {
  const next = inTurns(addresses, options.runtime.random())
  return new Session(() => openGrpcStream(next()), options, addresses.length)
}
