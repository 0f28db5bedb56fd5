import { type DescMessage, fromBinary, type MessageShape, toBinary } from '@bufbuild/protobuf'
import { Server, ServerCredentials, type ServerUnaryCall, type sendUnaryData } from '@grpc/grpc-js'
import { EscrowError } from '../core/errors.ts'
import { errorToGrpc } from '../wire/errors.ts'
import { CALLS, type ListenedCall, REQUEST_BYTES_MAX, readError } from './listened-calls.ts'
import type { Serving } from './serving.ts'

/** A server that is listening. */
export interface ListeningServer {
  readonly port: number
  /** Takes no new calls; resolves when those under way are answered, at the latest when `force` is called. */
  drain(): Promise<void>
  force(): void
}

/** Offers ParticipantService over gRPC. Rejects with `invalidArgument` where it can't listen. */
export async function listenGrpc(serving: Serving, host: string, port: number): Promise<ListeningServer> {
  const server = new Server({
    'grpc.max_receive_message_length': REQUEST_BYTES_MAX,
    'grpc.keepalive_time_ms': 20_000,
  })
  for (const call of CALLS) addCall(server, serving, call)
  const address = `${host.includes(':') ? `[${host}]` : host}:${port}`
  const bound = await new Promise<number>((resolve, reject) => {
    server.bindAsync(address, ServerCredentials.createInsecure(), (error, actual) => {
      if (error === null) resolve(actual)
      else
        reject(
          new EscrowError('invalidArgument', `can't listen on ${address}: ${error.message}`, {
            cause: error,
          }),
        )
    })
  })
  return {
    port: bound,
    drain: () => new Promise((resolve) => server.tryShutdown(() => resolve())),
    force: () => server.forceShutdown(),
  }
}

function addCall<Input extends DescMessage, Output extends DescMessage>(
  server: Server,
  serving: Serving,
  call: ListenedCall<Input, Output>,
): void {
  const definition = {
    path: call.path,
    requestStream: false,
    responseStream: false,
    // Read in the handler: what can't be read there is answered with a clear status, here it would be INTERNAL.
    requestDeserialize: (bytes: Buffer) => bytes,
    requestSerialize: (bytes: Buffer) => bytes,
    responseSerialize: (message: MessageShape<Output>) => Buffer.from(toBinary(call.output, message)),
    responseDeserialize: (bytes: Buffer) => fromBinary(call.output, bytes),
  }
  server.addService(
    { [call.name]: definition },
    {
      [call.name]: (
        received: ServerUnaryCall<Buffer, unknown>,
        answer: sendUnaryData<MessageShape<Output>>,
      ) => {
        try {
          call.take(serving, fromBinary(call.input, received.request), (response) => answer(null, response))
        } catch (error) {
          answer(errorToGrpc(readError(call.name, error)))
        }
      },
    },
  )
}
