/**
 * The bare loops in plain protobuf: what no implementation of the protocol can do without, in whichever language, and
 * nothing else. Their items are those of bare-messages.ts and bare-sagas.ts, field by field; but a library writes and
 * reads them by protos/, ids and JSON are made for each transaction, and the server keeps each one until it ends.
 */
import { join } from 'node:path'
import protobuf from 'protobufjs'
import { DeliverOutcome, StepOperation, StepOutcome } from '../../src/wire/gen/escrow/v1/participant_pb.ts'
import { TransactionStatus } from '../../src/wire/gen/escrow/v1/transaction_pb.ts'
import { type BareEnd, isSecond, numberOf, type OnStage, type Stage, slotOf } from './bare-frame.ts'
import { type Order, orderOf, type Taken } from './saga-definitions.ts'

const protos = new protobuf.Root()
protos.resolvePath = (_, file) => join(import.meta.dirname, '../../protos', file)
protos.loadSync('escrow/v1/session.proto')
const request = protos.lookupType('escrow.v1.ConnectRequest')
const response = protos.lookupType('escrow.v1.ConnectResponse')

/** How the library reads a field of 64 bits. */
interface Long {
  toNumber(): number
}

/** What the loops look at in a frame, from a client or from a server. */
interface Frame {
  readonly commands: readonly {
    readonly commandId: Long
    readonly prepare: { readonly id: string; readonly messages: readonly { readonly body: Buffer }[] } | null
    readonly commit: { readonly id: string } | null
    readonly startSaga: { readonly id: string; readonly input: Buffer } | null
  }[]
  readonly deliveryAnswers: readonly { readonly callId: Long }[]
  readonly stepAnswers: readonly { readonly callId: Long; readonly response: { readonly result: Buffer } }[]
  readonly replies: readonly { readonly commandId: Long; readonly prepare: { readonly id: string } | null }[]
  readonly deliveries: readonly { readonly callId: Long; readonly request: { readonly body: Buffer } }[]
  readonly steps: readonly { readonly callId: Long; readonly request: { readonly input: Buffer } }[]
}

const NONE = new Uint8Array(0)
/** Ids of transactions are as long as minted ones. */
const FIRST_ID = 1_000_000
const parse = <T>(json: Buffer): T => JSON.parse(json.toString()) as T
const toJson = (value: unknown): Buffer => Buffer.from(JSON.stringify(value))

/** Collects items by the field of the frame that they stand in. */
abstract class PlainEnd implements BareEnd {
  readonly #sent: protobuf.Type
  readonly #received: protobuf.Type
  #frame: Record<string, object[]> | undefined

  constructor(sent: protobuf.Type, received: protobuf.Type) {
    this.#sent = sent
    this.#received = received
  }

  abstract say(stage: Stage, slot: number, body: Uint8Array): void
  abstract read(frame: Buffer, on: OnStage): void

  protected add(field: string, item: object): void {
    this.#frame ??= {}
    this.#frame[field] ??= []
    this.#frame[field].push(item)
  }

  protected decode(frame: Buffer): Frame {
    return this.#received.decode(frame) as unknown as Frame
  }

  take(): Buffer | undefined {
    if (this.#frame === undefined) return undefined
    const frame = this.#sent.encode({ format: 1, ...this.#frame }).finish() as Buffer
    this.#frame = undefined
    return frame
  }
}

/** Its orders are made once, as the real load makes them; their JSON and the ids each time. */
abstract class PlainClient extends PlainEnd {
  readonly #orders: Order[] = []
  #lastId = FIRST_ID
  /** The call that is being answered. */
  protected callId = 0

  constructor() {
    super(request, response)
  }

  protected mint(): string {
    this.#lastId += 1
    return `{k3}~m8x2k9a1b-1k2j3h4g5f6d7.${this.#lastId.toString(36)}`
  }

  protected orderJson(slot: number, bytes: number): Buffer {
    this.#orders[slot] ??= orderOf(slot, bytes)
    return toJson(this.#orders[slot])
  }
}

/** What a server keeps of a transaction until it ends. */
interface Transaction {
  /** Its calls are numbered by it. */
  readonly number: number
  readonly slot: number
  readonly id: string
  readonly executionId: string
  readonly body: Buffer
  readonly results: unknown[]
}

abstract class PlainServer extends PlainEnd {
  #begun = 0
  /** Those that wait for the answer to a call, by their number. */
  protected readonly called = new Map<number, Transaction>()
  /** The one that something was just said of. */
  protected current!: Transaction

  constructor() {
    super(response, request)
  }

  protected begin(slot: number, id: string, body: Buffer): void {
    const number = this.#begun++
    const executionId = `a1b2c3d4-1-${number.toString(36)}`
    this.current = { number, slot, id, executionId, body, results: [] }
  }
}

export class PlainSagaClient extends PlainClient {
  say(stage: Stage, slot: number, body: Uint8Array): void {
    if (stage === 0) {
      const input = this.orderJson(slot, body.length)
      const startSaga = { id: this.mint(), saga: 'two-steps', input, trace: {} }
      this.add('commands', { commandId: slot + 1, timeoutMs: 30_000, startSaga })
    } else {
      const result = toJson({ reservation: 10_000 + slot } satisfies Taken)
      this.add('stepAnswers', { callId: this.callId, response: { outcome: StepOutcome.DONE, result } })
    }
  }

  read(frame: Buffer, on: OnStage): void {
    for (const { callId, request } of this.decode(frame).steps) {
      this.callId = callId.toNumber()
      on(isSecond(this.callId) ? 2 : 1, parse<Order>(request.input).slot, NONE)
    }
  }
}

export class PlainSagaServer extends PlainServer {
  say(stage: Stage): void {
    if (stage === 0) {
      const { slot, id, executionId } = this.current
      const startSaga = { id, executionId, status: TransactionStatus.RUNNING, version: 1 }
      this.add('replies', { commandId: slot + 1, startSaga })
    }
    if (stage < 2) this.#call(stage === 0 ? 0 : 1)
  }

  #call(second: 0 | 1): void {
    const { number, id, executionId, body } = this.current
    const request = {
      namespace: 'default',
      transactionId: id,
      executionId: `${executionId}.${second + 1}`,
      attempt: 1,
      service: 'bench',
      step: 'take',
      operation: StepOperation.ACTION,
      input: body,
      saga: 'two-steps',
      trace: {},
      timeoutMs: 30_000,
    }
    this.add('steps', { callId: numberOf(number, second), request })
  }

  read(frame: Buffer, on: OnStage): void {
    const { commands, stepAnswers } = this.decode(frame)
    for (const { callId, response } of stepAnswers) {
      const number = slotOf(callId.toNumber())
      this.current = this.called.get(number)!
      this.current.results.push(parse(response.result))
      const isLast = this.current.results.length === 2
      if (isLast) this.called.delete(number)
      on(isLast ? 2 : 1, this.current.slot, NONE)
    }
    for (const { commandId, startSaga } of commands) {
      this.begin(commandId.toNumber() - 1, startSaga!.id, startSaga!.input)
      this.called.set(this.current.number, this.current)
      on(0, this.current.slot, this.current.body)
    }
  }
}

export class PlainMessageClient extends PlainClient {
  /** The transaction whose preparation was just answered. */
  #id = ''

  say(stage: Stage, slot: number, body: Uint8Array): void {
    if (stage === 0) {
      const messages = [{ destination: 'bench/take', body: this.orderJson(slot, body.length) }]
      const prepare = { id: this.mint(), checker: 'bench', messages, trace: {} }
      this.add('commands', { commandId: numberOf(slot, 0), timeoutMs: 30_000, prepare })
    } else if (stage === 1) {
      this.add('commands', { commandId: numberOf(slot, 1), timeoutMs: 30_000, commit: { id: this.#id } })
    } else {
      const response = { outcome: DeliverOutcome.DELIVERED }
      this.add('deliveryAnswers', { callId: this.callId, response })
    }
  }

  read(frame: Buffer, on: OnStage): void {
    const { replies, deliveries } = this.decode(frame)
    for (const { callId, request } of deliveries) {
      this.callId = callId.toNumber()
      on(2, parse<Order>(request.body).slot, NONE)
    }
    for (const { commandId, prepare } of replies) {
      if (prepare === null) continue
      this.#id = prepare.id
      on(1, slotOf(commandId.toNumber()), NONE)
    }
  }
}

export class PlainMessageServer extends PlainServer {
  readonly #kept = new Map<string, Transaction>()

  say(stage: Stage): void {
    const { number, slot, id, executionId, body } = this.current
    if (stage === 0) {
      const prepare = { id, executionId, status: TransactionStatus.PREPARED }
      this.add('replies', { commandId: numberOf(slot, 0), prepare })
    } else if (stage === 1) {
      const commit = { status: TransactionStatus.COMMITTED }
      this.add('replies', { commandId: numberOf(slot, 1), commit })
      const request = {
        namespace: 'default',
        transactionId: id,
        executionId: `${executionId}.0`,
        attempt: 1,
        service: 'bench',
        handler: 'take',
        body,
        contentType: 'application/json',
        trace: {},
        timeoutMs: 30_000,
      }
      this.add('deliveries', { callId: number + 1, request })
    }
  }

  read(frame: Buffer, on: OnStage): void {
    const { commands, deliveryAnswers } = this.decode(frame)
    for (const { callId } of deliveryAnswers) {
      const number = callId.toNumber() - 1
      this.current = this.called.get(number)!
      this.called.delete(number)
      this.#kept.delete(this.current.id)
      on(2, this.current.slot, NONE)
    }
    for (const { commandId, prepare, commit } of commands) {
      if (prepare !== null) {
        this.begin(slotOf(commandId.toNumber()), prepare.id, prepare.messages[0]!.body)
        this.#kept.set(prepare.id, this.current)
      } else {
        this.current = this.#kept.get(commit!.id)!
        this.called.set(this.current.number, this.current)
      }
      on(prepare === null ? 1 : 0, this.current.slot, this.current.body)
    }
  }
}
