/** The bare loop of a message, in the items of a session. */
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

export class MessageClient implements BareEnd {
  readonly #frames = new Frames<ServiceItem>(serviceCodec.encoder)
  readonly #decoder = serviceCodec.decoder()

  say(stage: Stage, slot: number, body: Uint8Array): void {
    const { encoder } = this.#frames
    if (stage === 0) {
      const request = {
        id: idOf(slot),
        checker: 'bench',
        messages: [{ destination: 'bench/take', body }],
        trace: NO_TRACE,
      }
      const commandId = numberOf(slot, 0)
      encoder.append({ type: 'command', commandId, timeoutMs: 30_000, op: 'prepare', request })
    } else if (stage === 1) {
      const request = { id: idOf(slot) }
      const commandId = numberOf(slot, 1)
      encoder.append({ type: 'command', commandId, timeoutMs: 30_000, op: 'commit', request })
    } else {
      const response = { outcome: 'delivered', error: '' } as const
      encoder.append({ type: 'deliveryAnswer', callId: slot + 1, response })
    }
  }

  take(): Buffer | undefined {
    return this.#frames.take()
  }

  read(frame: Buffer, on: OnStage): void {
    for (const item of this.#decoder.decode(frame)) {
      // The reply to its commit came in the same frame as the call, just before.
      if (item.type === 'delivery') on(2, item.callId - 1, NONE)
      else if (item.type === 'reply' && item.op === 'prepare') on(1, slotOf(item.commandId), NONE)
    }
  }
}

export class MessageServer implements BareEnd {
  readonly #frames = new Frames<CoordinatorItem>(coordinatorCodec.encoder)
  readonly #decoder = coordinatorCodec.decoder()

  say(stage: Stage, slot: number, body: Uint8Array): void {
    if (stage === 0) this.#prepared(slot)
    else if (stage === 1) this.#committed(slot, body)
  }

  #prepared(slot: number): void {
    const response = { id: idOf(slot), executionId: executionIdOf(slot), status: 'prepared' } as const
    this.#frames.encoder.append({ type: 'reply', commandId: numberOf(slot, 0), op: 'prepare', response })
  }

  #committed(slot: number, body: Uint8Array): void {
    const response = { status: 'committed' } as const
    this.#frames.encoder.append({ type: 'reply', commandId: numberOf(slot, 1), op: 'commit', response })
    const request = {
      namespace: 'default',
      transactionId: idOf(slot),
      executionId: `${executionIdOf(slot)}.0`,
      attempt: 1,
      service: 'bench',
      handler: 'take',
      body,
      headers: {},
      key: '',
      contentType: 'application/json',
      trace: NO_TRACE,
      timeoutMs: 30_000,
    }
    this.#frames.encoder.append({ type: 'delivery', callId: slot + 1, request })
  }

  take(): Buffer | undefined {
    return this.#frames.take()
  }

  read(frame: Buffer, on: OnStage): void {
    for (const item of this.#decoder.decode(frame)) {
      if (item.type === 'deliveryAnswer') on(2, item.callId - 1, NONE)
      else if (item.type === 'command' && isSecond(item.commandId)) on(1, slotOf(item.commandId), NONE)
      else if (item.type === 'command' && item.op === 'prepare')
        on(0, slotOf(item.commandId), item.request.messages[0]!.body!)
    }
  }
}
