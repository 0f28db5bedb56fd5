import { MemoryBroker } from '../../src/broker/memory.ts'
import { DEFAULT_CHECK_BACK, DEFAULT_RETRY } from '../../src/config.ts'
import type { Operation, OperationRequest, Operations, PrepareRequest } from '../../src/core/api.ts'
import { DEFAULT_LIMITS, type HalfMessageInput } from '../../src/core/envelope.ts'
import { type ErrorCode, EscrowError } from '../../src/core/errors.ts'
import type { Namespace } from '../../src/core/ids.ts'
import { DEFAULT_SAGA_LIMITS } from '../../src/core/saga/decision.ts'
import { compileSlip, parseSlip } from '../../src/core/saga/slip.ts'
import { Engine, type EngineOptions } from '../../src/engine/engine.ts'
import { MemoryDisk, openMemoryStore, type StoreCall } from '../../src/store/memory.ts'
import { FakeOutlet, FakeParticipants } from './fake-outlet.ts'
import { FakeRuntime } from './fake-runtime.ts'
import { FakeStepOutlet, FakeStepParticipants } from './fake-step-outlet.ts'

/** What became of a request; nothing while it is open. */
export interface Answer<Op extends Operation> {
  error?: EscrowError
  response?: Operations[Op]['response']
  /** How often it was answered: at most once, or the engine is wrong. */
  count: number
}

/** One coordinator on the disk of a world, until it is killed. */
export interface Coordinator {
  readonly engine: Engine
  readonly kill: () => void
  /** Stops it as by SIGSTOP; what this returns lets it go on. */
  readonly freeze: () => () => void
  /** Has these calls of its store fail from now on, or all; what this returns ends that. */
  readonly loseStore: (methods?: readonly StoreCall['method'][]) => () => void
}

type Hook = (call: StoreCall) => void | Promise<void>

/** A machine with a disk, participants around it, and coordinators that come and go. */
export class World {
  readonly clock: FakeRuntime
  readonly disk: MemoryDisk
  readonly participants = new FakeParticipants()
  readonly steps = new FakeStepParticipants()
  readonly logged: string[] = []
  /** Called around each effect of the store. */
  hook: Hook = () => {}
  #current: Coordinator | undefined

  constructor(options: { readonly seed?: number; readonly logs?: number } = {}) {
    this.clock = new FakeRuntime(options.seed)
    this.disk = new MemoryDisk({ logs: options.logs ?? 1 })
  }

  /** Starts a coordinator, which is the one that requests go to from here on. */
  async start(overrides: Partial<EngineOptions> = {}): Promise<Coordinator> {
    const coordinator = this.assemble(overrides)
    const started = coordinator.engine.start()
    let isStarted = false
    const settled = started.finally(() => {
      isStarted = true
    })
    settled.catch(() => {})
    await this.clock.until(() => isStarted)
    await settled
    this.#current = coordinator
    return coordinator
  }

  assemble(overrides: Partial<EngineOptions> = {}): Coordinator {
    const { runtime, isKilled, kill, freeze, awake } = this.clock.process()
    let lost = (_: StoreCall): boolean => false
    const hook = async (call: StoreCall): Promise<void> => {
      await awake()
      await this.hook(call)
      await awake()
      if (lost(call)) throw new EscrowError('storeUnavailable', `${call.method} reached no store`)
    }
    const loseStore: Coordinator['loseStore'] = (methods) => {
      lost = ({ method }) => methods?.includes(method) ?? true
      return () => {
        lost = () => false
      }
    }
    const engine = new Engine({
      openStore: async () => openMemoryStore(this.disk, hook),
      outlet: new FakeOutlet(this.participants, runtime, isKilled),
      stepOutlet: new FakeStepOutlet(this.steps, runtime, isKilled),
      sagas: [],
      sagaLimits: DEFAULT_SAGA_LIMITS,
      compileSlip: (text) => compileSlip(parseSlip(text)).program,
      runtime,
      limits: DEFAULT_LIMITS,
      defaults: { checkBack: DEFAULT_CHECK_BACK, retry: DEFAULT_RETRY },
      namespaces: ['default', 'other'],
      brokers: new Map([['memory', new MemoryBroker()]]),
      retentionMs: 86_400_000,
      // So few rows a part that small crowds are checkpointed in several.
      bounds: { checkpointRowsMax: 5 },
      onListener: () => {},
      log: (level, message) => this.logged.push(`${level}: ${message}`),
      ...overrides,
    })
    return { engine, kill, freeze, loseStore }
  }

  get coordinator(): Coordinator {
    if (this.#current === undefined) throw new Error('no coordinator was started')
    return this.#current
  }

  /** Kills the coordinator, lets time pass without one, and starts another. */
  async restart(outageMs = 0, overrides: Partial<EngineOptions> = {}): Promise<Coordinator> {
    this.coordinator.kill()
    await this.clock.advance(outageMs)
    return this.start(overrides)
  }

  /** Makes the usual names known, and the services behind them present. */
  async introduce(): Promise<void> {
    const { engine } = this.coordinator
    const names = { checkers: ['orders'], handlers: ['receive', 'audit'], databaseId: '' }
    await engine.register('default' as Namespace, 'shop', names)
    await engine.register('default' as Namespace, 'bank', { ...names, checkers: [] })
    for (const destination of ['shop/receive', 'shop/audit', 'bank/receive', 'memory:topic']) {
      this.participants.comes(destination)
    }
    this.participants.checkerComes('orders')
  }

  /** Sends a request; its answer comes while time passes. */
  ask<Op extends Operation>(
    op: Op,
    request: Operations[Op]['request'],
    options: { readonly timeoutMs?: number; readonly of?: Coordinator; readonly fresh?: boolean } = {},
  ): Answer<Op> {
    const answer: Answer<Op> = { count: 0 }
    const { engine } = options.of ?? this.coordinator
    engine.request(
      { op, request } as OperationRequest,
      (error, response) => {
        answer.count += 1
        if (error !== undefined) answer.error = error
        if (response !== undefined) answer.response = response as Operations[Op]['response']
      },
      { deadlineMs: this.clock.now() + (options.timeoutMs ?? 30_000), fresh: options.fresh ?? false },
    )
    if (answer.count > 0) throw new Error(`${op} was answered within its own call`)
    return answer
  }

  /** Sends a request and waits for its response; throws its error. */
  async call<Op extends Operation>(
    op: Op,
    request: Operations[Op]['request'],
    options: { readonly timeoutMs?: number; readonly of?: Coordinator } = {},
  ): Promise<Operations[Op]['response']> {
    const answer = this.ask(op, request, options)
    await this.clock.until(() => answer.count > 0)
    if (answer.error !== undefined) throw answer.error
    return answer.response as Operations[Op]['response']
  }

  /** The code that a request is refused with, or `none`. */
  async codeOf<Op extends Operation>(
    op: Op,
    request: Operations[Op]['request'],
  ): Promise<ErrorCode | 'none'> {
    const answer = this.ask(op, request)
    await this.clock.until(() => answer.count > 0)
    return answer.error?.code ?? 'none'
  }

  /** Prepares a transaction with one message to shop/receive, where nothing else is said. */
  async prepare(request: Partial<PrepareRequest> = {}): Promise<Operations['prepare']['response']> {
    return this.call('prepare', prepareOf(request))
  }

  /** Prepares and commits; returns the id. */
  async commit(request: Partial<PrepareRequest> = {}): Promise<string> {
    const { id } = await this.prepare(request)
    await this.call('commit', { id })
    return id
  }

  async status(id: string): Promise<string> {
    return (await this.call('get', { id })).status
  }
}

/** A message with a text as its body. */
export const messageTo = (
  destination: string,
  body: string,
  more: Partial<HalfMessageInput> = {},
): HalfMessageInput => ({
  destination,
  body: Buffer.from(body),
  ...more,
})

export const prepareOf = (request: Partial<PrepareRequest> = {}): PrepareRequest => ({
  checker: 'orders',
  messages: [messageTo('shop/receive', 'hello')],
  ...request,
})

/** Started, with everybody there. */
export async function openWorld(
  options: { readonly seed?: number; readonly logs?: number } & Partial<EngineOptions> = {},
): Promise<World> {
  const { seed, logs, ...overrides } = options
  const world = new World({
    ...(seed === undefined ? {} : { seed }),
    ...(logs === undefined ? {} : { logs }),
  })
  await world.start(overrides)
  await world.introduce()
  return world
}

/** Fails the next calls that match, as a store does that is away. */
export function failing(
  method: StoreCall['method'],
  moment: StoreCall['moment'],
  isOn: () => boolean = () => true,
): Hook {
  return (call) => {
    if (call.method === method && call.moment === moment && isOn()) {
      throw new EscrowError('storeUnavailable', `${method} failed ${moment}`)
    }
  }
}

/** A gate: `hook` holds back the calls of a method until `open`. */
export function gate(method: StoreCall['method'], moment: StoreCall['moment'] = 'before') {
  let release = (): void => {}
  const opened = new Promise<void>((resolve) => {
    release = resolve
  })
  const waiting: StoreCall[] = []
  const hook = async (call: StoreCall): Promise<void> => {
    if (call.method !== method || call.moment !== moment) return
    waiting.push(call)
    await opened
  }
  return { hook, waiting, open: release }
}
