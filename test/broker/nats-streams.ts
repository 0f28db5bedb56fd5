import { jetstreamManager, type StreamAPI } from '@nats-io/jetstream'
import { connect } from '@nats-io/transport-node'
import type { NatsService } from '../services/nats.ts'

/** Asks a server about its streams, past its proxy. */
export async function natsStreams<T>(
  { directPort, user, password: pass }: NatsService,
  ask: (streams: StreamAPI) => Promise<T>,
): Promise<T> {
  const client = await connect({ servers: `127.0.0.1:${directPort}`, user, pass, reconnect: false })
  try {
    return await ask((await jetstreamManager(client)).streams)
  } finally {
    await client.close()
  }
}
