import type { PostgresOptions } from '../../examples/shop/embedded-postgres.ts'
import type { BrokerService } from './broker-service.ts'
import { startFaultProxy } from './fault-proxy.ts'
import { type PostgresProcess, startPostgres } from './postgres.ts'

/** A PostgreSQL that is a broker. */
export interface PostgresQueueService extends BrokerService {
  /** Of the database `postgres`, through the proxy. */
  readonly url: string
  /** The server itself, past the proxy. */
  readonly server: PostgresProcess
}

/** Starts a PostgreSQL behind a fault proxy; fsync is on, as in production, unless its settings say otherwise. */
export async function startPostgresQueue(options: PostgresOptions = {}): Promise<PostgresQueueService> {
  const server = await startPostgres('embedded', options)
  const proxy = await startFaultProxy({ target: { host: '127.0.0.1', port: server.port } })
  return {
    backend: server.backend,
    version: server.version,
    host: proxy.host,
    port: proxy.port,
    proxy,
    url: proxy.through(server.url),
    server,
    pause: () => server.pause(),
    resume: () => server.resume(),
    kill: () => server.kill(),
    start: () => server.start(),
    async stop() {
      await proxy.close()
      await server.stop()
    },
  }
}
