import { type DescFile, type DescService, toBinary } from '@bufbuild/protobuf'
import { FileDescriptorProtoSchema } from '@bufbuild/protobuf/wkt'
import {
  Server,
  ServerCredentials,
  type ServiceDefinition,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js'
import { ReflectionService } from '@grpc/reflection'
import { type Address, addressText } from '../core/address.ts'
import { EscrowError } from '../core/errors.ts'
import { listenError } from './listen-error.ts'

/** A service as the server takes it; its descriptor is what reflection tells. */
export interface GrpcService {
  readonly descriptor: DescService
  // biome-ignore lint/suspicious/noExplicitAny: grpc-js types a definition by the messages of all of its methods at once
  readonly definition: ServiceDefinition<any>
  readonly implementation: UntypedServiceImplementation
}

/** What a gRPC server is made of. */
export interface GrpcServerOptions {
  readonly host: string
  /** 0: any that is free. */
  readonly port: number
  readonly services: readonly GrpcService[]
  /** What the transport takes at most in one message; services hold their requests to lower bounds with better errors. */
  readonly messageBytesMax: number
}

/** The gRPC server: the services given, and reflection (v1 and v1alpha) over them. */
export class GrpcServer {
  readonly #options: GrpcServerOptions
  readonly #server: Server

  constructor(options: GrpcServerOptions) {
    this.#options = options
    this.#server = new Server({
      'grpc.max_receive_message_length': options.messageBytesMax,
      'grpc.max_send_message_length': options.messageBytesMax,
      // A peer that vanished without a word is noticed within 20 s; its calls are unknown until then.
      'grpc.keepalive_time_ms': 10_000,
      'grpc.keepalive_timeout_ms': 10_000,
      // Of one connection: a session is one stream, and unary calls queue at their client beyond it.
      'grpc.max_concurrent_streams': 1000,
    })
    for (const { definition, implementation } of options.services)
      this.#server.addService(definition, implementation)
    const descriptors = options.services.map(({ descriptor }) => descriptor)
    new ReflectionService(packageOf(descriptors), {
      services: descriptors.map(({ typeName }) => typeName),
    }).addToServer(this.#server)
  }

  /** Listens. Rejects with `invalidArgument` where it can't. */
  async start(): Promise<Address> {
    const { host, port } = this.#options
    const bound = await new Promise<number>((resolve, reject) => {
      this.#server.bindAsync(
        addressText({ host, port }),
        ServerCredentials.createInsecure(),
        (error, actual) => {
          if (error === null) resolve(actual)
          else reject(listenError('grpc', { host, port }, error))
        },
      )
    })
    return { host, port: bound }
  }

  /** Takes no new calls, and waits for those under way for at most `graceMs`; then ends them. */
  async stop(graceMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    const graceful = new Promise<void>((resolve) => this.#server.tryShutdown(() => resolve()))
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, graceMs)
    })
    await Promise.race([graceful, late])
    clearTimeout(timer)
    this.#server.forceShutdown()
  }
}

type ReflectedPackage = ConstructorParameters<typeof ReflectionService>[0]

/** What @grpc/reflection wants to see of services: the descriptors of their files, with everything that they import. */
function packageOf(services: readonly DescService[]): ReflectedPackage {
  const files = new Map<string, DescFile>()
  const visit = (file: DescFile): void => {
    if (files.has(file.name)) return
    files.set(file.name, file)
    file.dependencies.forEach(visit)
  }
  for (const { file } of services) visit(file)
  const fileDescriptorProtos = [...files.values()].map(({ proto }) =>
    Buffer.from(toBinary(FileDescriptorProtoSchema, proto)),
  )
  if (fileDescriptorProtos.length === 0) throw new EscrowError('internal', 'a gRPC server without services')
  return { files: { fileDescriptorProtos } } as unknown as ReflectedPackage
}
