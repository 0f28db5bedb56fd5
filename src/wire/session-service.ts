/** What grpc-js is told of the session's service, and how both sides of a connection are set up. */
import type { ChannelOptions, ServiceDefinition } from '@grpc/grpc-js'
import { SessionService } from './gen/escrow/v1/session_pb.ts'

/** The longest message of any kind that either side takes; frames stay well below. */
export const MESSAGE_BYTES_MAX = 4 << 20

/**
 * A coordinator that stands still without a word is left within 7 s, as its logs are within their lease of 5 s and a look:
 * a ping every 3 s, and 4 s for its answer. It is patient with services for longer (see `GrpcServer`), for a step that
 * computes for seconds holds up the pings of its process. The window is what HTTP/2 lets a peer send unread on one
 * connection: at its default of 64 KiB a frame would take many round trips.
 */
export const CONNECTION_OPTIONS = {
  'grpc.keepalive_time_ms': 3_000,
  'grpc.keepalive_timeout_ms': 4_000,
  'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
  'grpc.max_send_message_length': MESSAGE_BYTES_MAX,
  'grpc-node.flow_control_window': 1 << 20,
} as const satisfies ChannelOptions

const asIs = (bytes: Buffer): Buffer => bytes
const { connect } = SessionService.method

/** The path of the session's method. */
export const SESSION_PATH = `/${SessionService.typeName}/${connect.name}`

/** The service for grpc-js. Its messages are bytes: frames are read and written by the stream, not by the library. */
export const SESSION_SERVICE = {
  connect: {
    path: SESSION_PATH,
    requestStream: true,
    responseStream: true,
    requestSerialize: asIs,
    requestDeserialize: asIs,
    responseSerialize: asIs,
    responseDeserialize: asIs,
    originalName: connect.name,
  },
} as const satisfies ServiceDefinition
