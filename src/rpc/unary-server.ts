import { fromBinary, toBinary } from '@bufbuild/protobuf'
import type { Metadata, ServerUnaryCall, sendUnaryData } from '@grpc/grpc-js'
import { EscrowError } from '../core/errors.ts'
import { errorToGrpc } from '../wire/errors.ts'
import type { GrpcService } from './grpc-server.ts'
import { traceOfHeaders } from './trace.ts'
import { COORDINATOR_SERVICE, requestTooLarge, type UnaryContext, type UnaryMethod } from './unary.ts'

/** What the gRPC side of the methods is made of. */
export interface UnaryServiceOptions {
  readonly methods: Iterable<UnaryMethod>
  /** Wall clock, in milliseconds: the one that gRPC's deadlines are counted by. */
  now(): number
  /** Of one request. */
  readonly requestBytesMax: number
}

const asIs = (bytes: Buffer): Buffer => bytes

/**
 * CoordinatorService over gRPC. Requests are decoded here and not by grpc-js, which would answer INTERNAL, without a
 * word about what is wrong, to bytes that aren't the message.
 */
export function unaryService(options: UnaryServiceOptions): GrpcService {
  const definition: Record<string, unknown> = {}
  const implementation: Record<string, (call: UnaryCall, callback: sendUnaryData<Buffer>) => void> = {}
  for (const method of options.methods) {
    definition[method.desc.localName] = {
      path: method.path,
      requestStream: false,
      responseStream: false,
      requestSerialize: asIs,
      requestDeserialize: asIs,
      responseSerialize: asIs,
      responseDeserialize: asIs,
    }
    implementation[method.desc.localName] = (call, callback) => {
      // An answer to a call that was cancelled goes nowhere; what was decided stands, and is there to be asked for.
      answer(method, call, options).then(
        (bytes) => callback(null, bytes),
        (thrown: unknown) => callback(errorToGrpc(EscrowError.from(thrown))),
      )
    }
  }
  return {
    descriptor: COORDINATOR_SERVICE,
    definition: definition as GrpcService['definition'],
    implementation: implementation as unknown as GrpcService['implementation'],
  }
}

type UnaryCall = ServerUnaryCall<Buffer, Buffer>

async function answer(method: UnaryMethod, call: UnaryCall, options: UnaryServiceOptions): Promise<Buffer> {
  const { desc } = method
  const bytes = call.request
  if (bytes.length > options.requestBytesMax) throw requestTooLarge(bytes.length, options.requestBytesMax)
  let message: Parameters<UnaryMethod['call']>[0]
  try {
    message = fromBinary(desc.input, bytes)
  } catch (cause) {
    throw new EscrowError(
      'malformed',
      `the request is no ${desc.input.typeName}: ${(cause as Error).message}`,
      { cause },
    )
  }
  const response = await method.call(message, contextOf(call, options.now()))
  return Buffer.from(toBinary(desc.output, response))
}

function contextOf(call: UnaryCall, nowMs: number): UnaryContext {
  const deadline = Number(call.getDeadline())
  return {
    timeoutMs: Number.isFinite(deadline) ? deadline - nowMs : undefined,
    trace: traceOfHeaders((name) => headerOf(call.metadata, name)),
  }
}

function headerOf(metadata: Metadata, name: string): string | undefined {
  const values = metadata.get(name)
  return values.length === 0 ? undefined : values.join(',')
}
