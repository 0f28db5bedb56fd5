import { Server, ServerCredentials } from '@grpc/grpc-js'
import type { Operations } from '../../src/core/api.ts'
import { DEFAULT_LIMITS, type Limits } from '../../src/core/envelope.ts'
import { EscrowError } from '../../src/core/errors.ts'
import type { OpenStream } from '../../src/participant/connection.ts'
import { coordinatorStream } from '../../src/wire/grpc-stream.ts'
import type { CoordinatorItem, CoordinatorStream, HelloItem, ServiceItem } from '../../src/wire/items.ts'
import { localStreamPair } from '../../src/wire/local-stream.ts'
import { SESSION_SERVICE } from '../../src/wire/session-service.ts'

export type CommandItem = Extract<ServiceItem, { type: 'command' }>
type Answer = { readonly [Op in keyof Operations]?: Operations[Op]['response'] | EscrowError }

/** One session as the fake sees it. */
export interface FakeSession {
  readonly id: string
  readonly stream: CoordinatorStream
  readonly hello: HelloItem
  readonly items: ServiceItem[]
  readonly commands: CommandItem[]
  closed: boolean
}

/** A coordinator of which a test decides every answer. */
export class FakeCoordinator {
  commandsMax = 1024
  routings: readonly string[] = ['a', 'b']
  limits: Limits = DEFAULT_LIMITS
  welcomes = true
  refusal: EscrowError | undefined
  /** Registrations are answered by itself, with this error if there is one. */
  registrationError: EscrowError | undefined
  /** What commands are answered with by itself; undefined: not at all. */
  answer: ((command: CommandItem) => Answer | undefined) | undefined
  readonly sessions: FakeSession[] = []

  get last(): FakeSession {
    return this.sessions.at(-1) as FakeSession
  }

  accept(stream: CoordinatorStream): void {
    let session: FakeSession | undefined
    stream.onClose(() => {
      if (session !== undefined) session.closed = true
    })
    stream.onItems((items) => {
      for (const item of items) {
        if (item.type === 'hello') session = this.#welcome(stream, item)
        else if (session !== undefined && item.type !== 'unreadableCommand') this.#take(session, item)
      }
    })
  }

  #welcome(stream: CoordinatorStream, hello: HelloItem): FakeSession | undefined {
    if (this.refusal !== undefined) stream.close(this.refusal)
    if (this.refusal !== undefined || !this.welcomes) return undefined
    const id = `s${this.sessions.length + 1}-x`
    const session = { id, stream, hello, items: [], commands: [], closed: false }
    this.sessions.push(session)
    const { commandsMax, routings, limits } = this
    stream.send({ type: 'welcome', session: id, commandsMax, routings, limits })
    return session
  }

  #take(session: FakeSession, item: ServiceItem): void {
    session.items.push(item)
    if (item.type === 'register') {
      session.stream.send({ type: 'registered', number: item.number, error: this.registrationError })
    }
    if (item.type !== 'command') return
    session.commands.push(item)
    const answer = this.answer?.(item)?.[item.op]
    if (answer !== undefined) this.reply(item, answer, session)
  }

  /** Answers a command. */
  reply(command: CommandItem, answer: unknown, session = this.last): void {
    const { commandId, op } = command
    const item =
      answer instanceof EscrowError
        ? { type: 'failure', commandId, error: answer }
        : { type: 'reply', commandId, op, response: answer }
    session.stream.send(item as CoordinatorItem)
  }
}

/** Answers every prepare and its followers as a coordinator that has no trouble does. */
export const agreeable = (command: CommandItem): Answer => ({
  prepare: {
    id: (command.request as { id: string }).id,
    executionId: `x-${command.commandId}`,
    status: 'prepared',
  },
  commit: { status: 'committed' },
  rollback: { status: 'rolledBack' },
  requestCheckBack: { status: 'prepared' },
})

/** A way to reach a fake coordinator. */
export interface Reach {
  readonly open: OpenStream | string
  close(): Promise<void>
}

/** In the same process. */
export async function reachLocally(coordinator: FakeCoordinator): Promise<Reach> {
  const open = () => {
    const pair = localStreamPair(setImmediate)
    coordinator.accept(pair.coordinator)
    return pair.service
  }
  return { open, close: async () => {} }
}

/** Over gRPC, on a port of 127.0.0.1. */
export async function reachByGrpc(coordinator: FakeCoordinator): Promise<Reach> {
  const server = new Server()
  server.addService(SESSION_SERVICE, {
    connect: (call: Parameters<typeof coordinatorStream>[0]) =>
      coordinator.accept(coordinatorStream(call, { defer: setImmediate })),
  })
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    )
  })
  return { open: `127.0.0.1:${port}`, close: async () => server.forceShutdown() }
}
