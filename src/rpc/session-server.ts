import type { handleBidiStreamingCall } from '@grpc/grpc-js'
import type { Limits } from '../core/envelope.ts'
import type { Runtime } from '../core/runtime.ts'
import { SessionService } from '../wire/gen/escrow/v1/session_pb.ts'
import { coordinatorStream } from '../wire/grpc-stream.ts'
import { SESSION_SERVICE } from '../wire/session-service.ts'
import type { GrpcService } from './grpc-server.ts'
import type { SessionHosts } from './session-hosts.ts'

/** What the session's service needs beside the sessions. */
export interface SessionServiceOptions {
  readonly hosts: SessionHosts
  readonly limits: Pick<Limits, 'frameBytesMax'>
  readonly runtime: Pick<Runtime, 'defer'>
}

/**
 * SessionService over gRPC, for a `GrpcServer`: each call is a stream that `hosts` takes. The server ends only when its
 * calls have, so `hosts.drain()` comes before its `stop`.
 */
export function sessionService({ hosts, limits, runtime }: SessionServiceOptions): GrpcService {
  const connect: handleBidiStreamingCall<Buffer, Buffer> = (call) => {
    hosts.accept(
      coordinatorStream(call, {
        defer: (callback) => runtime.defer(callback),
        frameBytesMax: limits.frameBytesMax,
        receivedFrameBytesMax: limits.frameBytesMax,
      }),
    )
  }
  return { descriptor: SessionService, definition: SESSION_SERVICE, implementation: { connect } }
}
