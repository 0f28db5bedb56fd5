import type { BareEnd, BareLoop } from './bare-frame.ts'
import { MessageClient, MessageServer } from './bare-messages.ts'
import { PackedClient, PackedServer } from './bare-packed.ts'
import { PlainMessageClient, PlainMessageServer, PlainSagaClient, PlainSagaServer } from './bare-plain.ts'
import { SagaClient, SagaServer } from './bare-sagas.ts'

/** Both sides of each bare loop, and what a record of each of its stages holds beside a body. */
export const BARE_ENDS: Readonly<
  Record<
    BareLoop,
    {
      readonly client: new () => BareEnd
      readonly server: new () => BareEnd
      /** Bytes: ids, names, times, inputs and results. With them a segment is as large as a coordinator's. */
      readonly recordBytes: readonly [number, number, number]
    }
  >
> = {
  message: { client: MessageClient, server: MessageServer, recordBytes: [180, 75, 75] },
  'message-packed': { client: PackedClient, server: PackedServer, recordBytes: [180, 75, 75] },
  'message-plain': { client: PlainMessageClient, server: PlainMessageServer, recordBytes: [180, 75, 75] },
  saga: { client: SagaClient, server: SagaServer, recordBytes: [400, 350, 130] },
  'saga-plain': { client: PlainSagaClient, server: PlainSagaServer, recordBytes: [400, 350, 130] },
}
