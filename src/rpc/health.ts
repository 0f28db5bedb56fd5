/** The health service that gRPC's clients and orchestrators ask: grpc/grpc, doc/health-checking.md. */
import {
  create,
  createFileRegistry,
  type DescMessage,
  type DescService,
  fromBinary,
  toBinary,
} from '@bufbuild/protobuf'
import {
  FieldDescriptorProto_Label,
  FieldDescriptorProto_Type,
  FileDescriptorProtoSchema,
  FileDescriptorSetSchema,
} from '@bufbuild/protobuf/wkt'
import { type ServerUnaryCall, type ServerWritableStream, type sendUnaryData, status } from '@grpc/grpc-js'
import type { Coordination } from '../engine/coordination.ts'
import type { GrpcService } from './grpc-server.ts'

/** grpc.health.v1.HealthCheckResponse.ServingStatus. */
const SERVING_STATUS = { UNKNOWN: 0, SERVING: 1, NOT_SERVING: 2, SERVICE_UNKNOWN: 3 } as const

/** How often a watched health is looked at. */
const WATCH_INTERVAL_MS = 500
/** More watchers than this are turned away: each costs a timer. */
const WATCHERS_MAX = 64

/** Written out and not generated, because buf's rules for our own protos would refuse its names. */
const HEALTH_FILE = create(FileDescriptorProtoSchema, {
  name: 'grpc/health/v1/health.proto',
  package: 'grpc.health.v1',
  syntax: 'proto3',
  messageType: [
    {
      name: 'HealthCheckRequest',
      field: [
        {
          name: 'service',
          jsonName: 'service',
          number: 1,
          label: FieldDescriptorProto_Label.OPTIONAL,
          type: FieldDescriptorProto_Type.STRING,
        },
      ],
    },
    {
      name: 'HealthCheckResponse',
      field: [
        {
          name: 'status',
          jsonName: 'status',
          number: 1,
          label: FieldDescriptorProto_Label.OPTIONAL,
          type: FieldDescriptorProto_Type.ENUM,
          typeName: '.grpc.health.v1.HealthCheckResponse.ServingStatus',
        },
      ],
      enumType: [
        {
          name: 'ServingStatus',
          value: Object.entries(SERVING_STATUS).map(([name, number]) => ({ name, number })),
        },
      ],
    },
  ],
  service: [
    {
      name: 'Health',
      method: [
        {
          name: 'Check',
          inputType: '.grpc.health.v1.HealthCheckRequest',
          outputType: '.grpc.health.v1.HealthCheckResponse',
        },
        {
          name: 'Watch',
          inputType: '.grpc.health.v1.HealthCheckRequest',
          outputType: '.grpc.health.v1.HealthCheckResponse',
          serverStreaming: true,
        },
      ],
    },
  ],
})

interface Asked {
  readonly service: string
}

interface Answered {
  readonly status: number
}

interface Descriptors {
  readonly service: DescService
  readonly request: DescMessage
  readonly response: DescMessage
}

function describe(): Descriptors {
  const registry = createFileRegistry(create(FileDescriptorSetSchema, { file: [HEALTH_FILE] }))
  return {
    service: registry.getService('grpc.health.v1.Health') as DescService,
    request: registry.getMessage('grpc.health.v1.HealthCheckRequest') as DescMessage,
    response: registry.getMessage('grpc.health.v1.HealthCheckResponse') as DescMessage,
  }
}

/**
 * `grpc.health.v1.Health` for the services named, and for the server as a whole (the empty name): SERVING exactly while
 * the engine is ready.
 */
export function healthService(
  coordination: Pick<Coordination, 'health'>,
  services: readonly string[],
): GrpcService {
  const { service, request, response } = describe()
  const known = new Set(['', ...services])
  let watchers = 0

  const read = (name: string): number | undefined => {
    if (!known.has(name)) return undefined
    return coordination.health().state === 'ready' ? SERVING_STATUS.SERVING : SERVING_STATUS.NOT_SERVING
  }
  const codec = {
    requestStream: false,
    // An object each: grpc-js takes a falsy value, such as an empty name, for a message that didn't come.
    requestSerialize: (value: Asked) => Buffer.from(toBinary(request, create(request, { ...value }))),
    requestDeserialize: (bytes: Buffer) => fromBinary(request, bytes) as unknown as Asked,
    responseSerialize: (value: Answered) => Buffer.from(toBinary(response, create(response, { ...value }))),
    responseDeserialize: (bytes: Buffer) => fromBinary(response, bytes) as unknown as Answered,
  }

  function check(call: ServerUnaryCall<Asked, Answered>, callback: sendUnaryData<Answered>): void {
    const { service: name } = call.request
    const answer = read(name)
    if (answer !== undefined) return callback(null, { status: answer })
    const details = `unknown service ${JSON.stringify(name.slice(0, 100))}: one of ${services.join(', ')}`
    callback({ code: status.NOT_FOUND, details })
  }

  function watch(call: ServerWritableStream<Asked, Answered>): void {
    if (watchers >= WATCHERS_MAX) {
      call.emit('error', {
        code: status.RESOURCE_EXHAUSTED,
        details: `${WATCHERS_MAX} watchers are open already`,
      })
      return
    }
    watchers += 1
    let last: number | undefined
    const look = () => {
      const now = read(call.request.service) ?? SERVING_STATUS.SERVICE_UNKNOWN
      // A watcher that doesn't read gets no second message: the latest one is what counts, and it is still to come.
      if (now === last || call.writableNeedDrain) return
      last = now
      call.write({ status: now })
    }
    const timer = setInterval(look, WATCH_INTERVAL_MS)
    timer.unref()
    call.once('close', () => {
      clearInterval(timer)
      watchers -= 1
    })
    call.on('cancelled', () => call.end())
    look()
  }

  return {
    descriptor: service,
    definition: {
      check: { ...codec, path: '/grpc.health.v1.Health/Check', responseStream: false },
      watch: { ...codec, path: '/grpc.health.v1.Health/Watch', responseStream: true },
    },
    implementation: { check, watch },
  }
}
