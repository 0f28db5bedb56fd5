import type { Runtime } from '../core/runtime.ts'
import { systemRuntime } from '../runtime.ts'
import { openGrpcStream } from '../wire/grpc-stream.ts'
import type { OpenStream } from './connection.ts'
import { Session } from './session.ts'
import type { SessionOptions } from './session-options.ts'

/** Options of `connect`: those of the session, with the real clock by default. */
export interface ConnectOptions extends Omit<SessionOptions, 'runtime'> {
  readonly runtime?: Runtime | undefined
}

/**
 * Opens a session with the coordinator at `target`: `host:port` for gRPC, or a function that opens a stream, as a coordinator
 * in the same process gives it. Tries until `connectTimeoutMs` and resolves at the welcome. Rejects with `disconnected`, or
 * at once with what the coordinator refused.
 */
export async function connect(target: string | OpenStream, options: ConnectOptions): Promise<Session> {
  const open = typeof target === 'string' ? () => openGrpcStream(target) : target
  const session = new Session(open, { ...options, runtime: options.runtime ?? systemRuntime })
  await session.open()
  return session
}
