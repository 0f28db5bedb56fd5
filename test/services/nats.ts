/** A NATS with JetStream of the test's own. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { BrokerService } from './broker-service.ts'
import { startFaultProxy } from './fault-proxy.ts'
import { freePorts, NativeProcess } from './native-process.ts'

/** How to start it. */
export interface NatsOptions {
  /** More of its configuration, in its own language. */
  readonly configuration?: string
}

/** Such a NATS. */
export interface NatsService extends BrokerService {
  readonly user: string
  readonly password: string
  /** Of the server itself, without the proxy. */
  readonly directPort: number
}

/** Starts one, in under a second. Throws where none is installed. */
export async function startNats({ configuration = '' }: NatsOptions = {}): Promise<NatsService> {
  const version = natsVersion()
  if (version === undefined) throw new Error('no nats-server is installed on this machine')
  const [user, password] = ['escrow', 'secret-of-the-test']
  const port = await freePorts()
  const folder = mkdtempSync(join(tmpdir(), 'escrow-nats-'))
  const file = join(folder, 'nats.conf')
  // As in production where the server has it, from 2.10 on; before, it syncs every two minutes.
  const sync = Number(version.split('.')[1]) >= 10 ? 'sync_interval: always' : ''
  writeFileSync(
    file,
    `listen: 127.0.0.1:${port}
jetstream { store_dir: "${folder}", ${sync} }
authorization {
  users: [
    { user: ${user}, password: ${password} }
    { user: narrow, password: narrow, permissions: { publish: { deny: ["forbidden.>"] } } }
  ]
}
${configuration}
`,
  )
  const readyBefore = { times: 0 }
  const server = await NativeProcess.start({
    name: 'NATS',
    command: ['nats-server', '-c', file],
    folder,
    isReady: (log) => log.split('Server is ready').length - 1 > readyBefore.times,
  })
  const proxy = await startFaultProxy({ target: { host: '127.0.0.1', port } })
  return {
    backend: 'native',
    version,
    host: proxy.host,
    port: proxy.port,
    directPort: port,
    user,
    password,
    proxy,
    pause: () => server.pause(),
    resume: () => server.resume(),
    kill: () => server.kill(),
    async start() {
      readyBefore.times = server.log.split('Server is ready').length - 1
      await server.start()
    },
    async stop() {
      await proxy.close()
      await server.stop()
    },
  }
}

/** The version of the installed server, or undefined where there is none. */
export function natsVersion(): string | undefined {
  const { stdout } = spawnSync('nats-server', ['--version'], { encoding: 'utf8' })
  return /v(\d+\.\d+\.\d+)/.exec(stdout ?? '')?.[1]
}
