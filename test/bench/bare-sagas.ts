/** The bare loop of a saga of two steps, in the items of a session. */
import { NO_TRACE } from '../../src/core/envelope.ts'
import { coordinatorCodec, serviceCodec } from '../../src/wire/frame.ts'
import type { CoordinatorItem, ServiceItem } from '../../src/wire/items.ts'
import {
  type BareEnd,
  executionIdOf,
  Frames,
  idOf,
  isSecond,
  numberOf,
  type OnStage,
  type Stage,
  slotOf,
} from './bare-frame.ts'

const NONE = new Uint8Array(0)
const RESULT = Buffer.from(JSON.stringify({ reservation: 12_345 }))

export class SagaClient implements BareEnd {
  readonly #frames = new Frames<ServiceItem>(serviceCodec.encoder)
  readonly #decoder = serviceCodec.decoder()

  say(stage: Stage, slot: number, body: Uint8Array): void {
    const { encoder } = this.#frames
    if (stage === 0) {
      const request = { id: idOf(slot), saga: 'two-steps', input: body, trace: NO_TRACE }
      const commandId = slot + 1
      encoder.append({ type: 'command', commandId, timeoutMs: 30_000, op: 'startSaga', request })
    } else {
      const response = { outcome: 'done', result: RESULT, code: '', error: '' } as const
      encoder.append({ type: 'stepAnswer', callId: numberOf(slot, stage === 1 ? 0 : 1), response })
    }
  }

  take(): Buffer | undefined {
    return this.#frames.take()
  }

  read(frame: Buffer, on: OnStage): void {
    for (const item of this.#decoder.decode(frame)) {
      // The reply to its start came in the same frame as the first call, just before.
      if (item.type === 'step') on(isSecond(item.callId) ? 2 : 1, slotOf(item.callId), NONE)
    }
  }
}

export class SagaServer implements BareEnd {
  readonly #texts: string[] = []
  readonly #frames = new Frames<CoordinatorItem>(coordinatorCodec.encoder)
  readonly #decoder = coordinatorCodec.decoder()

  say(stage: Stage, slot: number, body: Uint8Array): void {
    if (stage === 0) this.#started(slot)
    if (stage < 2) this.#call(slot, stage === 0 ? 0 : 1, this.#textOf(slot, body))
  }

  #started(slot: number): void {
    const response = {
      id: idOf(slot),
      executionId: executionIdOf(slot),
      status: 'running',
      version: 1,
    } as const
    this.#frames.encoder.append({ type: 'reply', commandId: slot + 1, op: 'startSaga', response })
  }

  /** Read once: what a slot's sagas are started with is always the same. */
  #textOf(slot: number, body: Uint8Array): string {
    this.#texts[slot] ??= Buffer.from(body).toString()
    return this.#texts[slot]
  }

  #call(slot: number, second: 0 | 1, input: string): void {
    const request = {
      namespace: 'default',
      transactionId: idOf(slot),
      executionId: `${executionIdOf(slot)}.${second + 1}`,
      attempt: 1,
      service: 'bench',
      step: 'take',
      operation: 'action',
      input,
      result: '',
      isActionDone: false,
      saga: 'two-steps',
      trace: NO_TRACE,
      timeoutMs: 30_000,
    } as const
    this.#frames.encoder.append({ type: 'step', callId: numberOf(slot, second), request })
  }

  take(): Buffer | undefined {
    return this.#frames.take()
  }

  read(frame: Buffer, on: OnStage): void {
    for (const item of this.#decoder.decode(frame)) {
      if (item.type === 'stepAnswer') on(isSecond(item.callId) ? 2 : 1, slotOf(item.callId), NONE)
      else if (item.type === 'command' && item.op === 'startSaga')
        on(0, item.commandId - 1, item.request.input!)
    }
  }
}
