import { EscrowError } from '../core/errors.ts'
import { parseName, parseNamespace } from '../core/ids.ts'
import type { Runtime } from '../core/runtime.ts'
import { systemRuntime } from '../runtime.ts'
import type { Addresses } from './addresses.ts'
import { type CheckerInput, toChecker } from './checker.ts'
import { type ConnectOptions, connect } from './connect.ts'
import type { OpenStream } from './connection.ts'
import { type ListeningServer, listenGrpc } from './listen-grpc.ts'
import { listenHttp } from './listen-http.ts'
import { registerListener } from './register-listener.ts'
import { type BarrierOfHandlers, type Handlers, namesOf, Serving } from './serving.ts'
import type { Session } from './session.ts'
import { bounded } from './session-options.ts'

/** What stands behind a participant's handlers and steps. */
export interface ParticipantOptions {
  /**
   * The barrier that handlers and steps use: further attempts, and compensations, then come only to those who have the same
   * database, and the refusal of an action stands there before it is answered.
   */
  readonly barrier?: BarrierOfHandlers | undefined
  /** Checkers that it serves too, by name. */
  readonly checkers?: Readonly<Record<string, CheckerInput>> | undefined
}

/** Where a participant listens: any of the two ports, 0 for any that is free. */
export interface ListenPorts {
  readonly grpc?: number | undefined
  readonly http?: number | undefined
}

/** Options of a participant that listens. */
export interface ListenOptions {
  /** What a single port speaks. Default `grpc`. */
  readonly protocol?: 'grpc' | 'http' | undefined
  /** Default `127.0.0.1`. */
  readonly host?: string | undefined
  /** The coordinator to make itself known to: `http://host:7410`, or `host:7411` for gRPC. Default: it isn't. */
  readonly register?: string | undefined
  /** Where the coordinator calls it. Default: `grpc://127.0.0.1:<port>`, or `http://…` where it speaks only that. */
  readonly advertise?: string | undefined
  readonly namespace?: string | undefined
  /** How many deliveries it takes at once. Default 256. */
  readonly deliveriesMax?: number | undefined
  /** How many check-backs it takes at once. Default 64. */
  readonly checkBacksMax?: number | undefined
  /** How many calls of steps it takes at once. Default 256. */
  readonly stepsMax?: number | undefined
  /** How long it tries to make itself known. Default 10,000. */
  readonly registerTimeoutMs?: number | undefined
  /** How long `close` waits for calls under way. Default 5,000. */
  readonly closeTimeoutMs?: number | undefined
  readonly runtime?: Runtime | undefined
}

/** A participant that is listening. */
export interface ListeningParticipant {
  readonly grpcPort: number | undefined
  readonly httpPort: number | undefined
  /** Takes no new calls, waits for those under way (at most `closeTimeoutMs`), and stops. Idempotent. */
  close(): Promise<void>
}

/** A service that takes messages and runs steps: it connects outward, or listens and is called. */
export interface Participant {
  /** Opens a session and serves handlers and steps on it. Resolves when their names are durable; rejects as `connect` and `registerHandlers`. */
  connect(target: Addresses | OpenStream, options?: Omit<ConnectOptions, 'service'>): Promise<Session>
  /** Listens for ParticipantService. Rejects with `invalidArgument` where it can't, or with what the registration ends in. */
  listen(port: number | ListenPorts, options?: ListenOptions): Promise<ListeningParticipant>
}

/**
 * Describes a participant; nothing happens until it connects or listens.
 *
 * ```ts
 * participant('inventory', {
 *   'order-placed': (message) => …,           // takes messages
 *   reserve: { action: (order, call) => …, compensation: (order, reservation, call) => … },  // a step of sagas
 * })
 * ```
 */
export function participant(
  service: string,
  handlers: Handlers,
  options: ParticipantOptions = {},
): Participant {
  parseName('service', service)
  return {
    async connect(target, connectOptions = {}) {
      const session = await connect(target, { ...connectOptions, service })
      try {
        await Promise.all([
          session.registerHandlers(handlers, { barrier: options.barrier }),
          ...Object.entries(options.checkers ?? {}).map(([name, checker]) =>
            session.registerChecker(name, checker),
          ),
        ])
      } catch (error) {
        await session.close()
        throw error
      }
      return session
    },
    listen: (port, listenOptions = {}) => listen({ service, handlers, options, port, listenOptions }),
  }
}

interface Listening {
  readonly service: string
  readonly handlers: Handlers
  readonly options: ParticipantOptions
  readonly port: number | ListenPorts
  readonly listenOptions: ListenOptions
}

async function listen(listening: Listening): Promise<ListeningParticipant> {
  const { options, listenOptions } = listening
  const { runtime = systemRuntime, host = '127.0.0.1' } = listenOptions
  const closeTimeoutMs = bounded('closeTimeoutMs', listenOptions.closeTimeoutMs ?? 5000, 0, 3_600_000)
  const ports =
    typeof listening.port === 'number'
      ? { [listenOptions.protocol ?? 'grpc']: listening.port }
      : listening.port
  if (ports.grpc === undefined && ports.http === undefined)
    throw new EscrowError('invalidArgument', 'there is no port to listen on')
  const serving = new Serving(runtime, {
    deliveriesMax: bounded('deliveriesMax', listenOptions.deliveriesMax ?? 256, 1, 65_536),
    checkBacksMax: bounded('checkBacksMax', listenOptions.checkBacksMax ?? 64, 1, 65_536),
    stepsMax: bounded('stepsMax', listenOptions.stepsMax ?? 256, 1, 65_536),
  })
  serving.addHandlers(listening.handlers, options.barrier)
  for (const [name, checker] of Object.entries(options.checkers ?? {}))
    serving.addChecker(name, toChecker(checker))
  const servers: ListeningServer[] = []
  let closing: Promise<void> | undefined
  const close = (): Promise<void> => {
    closing ??= closeServers(servers, serving, { runtime, closeTimeoutMs })
    return closing
  }
  try {
    const grpc = ports.grpc === undefined ? undefined : await listenGrpc(serving, host, ports.grpc)
    if (grpc !== undefined) servers.push(grpc)
    const http = ports.http === undefined ? undefined : await listenHttp(serving, host, ports.http)
    if (http !== undefined) servers.push(http)
    await register(listening, grpc, http, runtime)
    return { grpcPort: grpc?.port, httpPort: http?.port, close }
  } catch (error) {
    await close()
    throw error
  }
}

async function register(
  { service, handlers, options, listenOptions }: Listening,
  grpc: ListeningServer | undefined,
  http: ListeningServer | undefined,
  runtime: Runtime,
): Promise<void> {
  if (listenOptions.register === undefined) return
  const byDefault = grpc === undefined ? `http://127.0.0.1:${http?.port}` : `grpc://127.0.0.1:${grpc.port}`
  const checkers = Object.entries(options.checkers ?? {})
  const databaseIds = [
    options.barrier?.databaseId,
    ...checkers.map(([, checker]) => toChecker(checker).databaseId),
  ]
  await registerListener(
    listenOptions.register,
    {
      namespace: parseNamespace(listenOptions.namespace ?? ''),
      service,
      url: listenOptions.advertise ?? byDefault,
      ...namesOf(handlers),
      checkers: checkers.map(([name]) => name),
      databaseId: oneDatabase(databaseIds),
    },
    { runtime, timeoutMs: listenOptions.registerTimeoutMs ?? 10_000 },
  )
}

// One registration names one database for all that it registers.
function oneDatabase(databaseIds: readonly (string | undefined)[]): string {
  const known = new Set(databaseIds.filter((databaseId) => databaseId !== undefined && databaseId !== ''))
  if (known.size <= 1) return [...known][0] ?? ''
  throw new EscrowError(
    'invalidArgument',
    'the barrier and the checkers of a participant that listens must share one database',
  )
}

async function closeServers(
  servers: readonly ListeningServer[],
  serving: Serving,
  { runtime, closeTimeoutMs }: { runtime: Runtime; closeTimeoutMs: number },
): Promise<void> {
  const cancel = runtime.setTimer(() => {
    for (const server of servers) server.force()
  }, closeTimeoutMs)
  await Promise.all(servers.map((server) => server.drain()))
  cancel()
  serving.stop()
}
