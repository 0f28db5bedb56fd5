/** A Redis of the test's own, as in production: every write is synced to the disk before it is confirmed. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { BrokerService } from './broker-service.ts'
import { startFaultProxy } from './fault-proxy.ts'
import { freePorts, NativeProcess } from './native-process.ts'

/** How to start it. */
export interface RedisOptions {
  /** Settings of redis.conf beside those that every server here has, or instead of them. */
  readonly settings?: Readonly<Record<string, string>>
}

/** Such a Redis. */
export interface RedisService extends BrokerService {
  readonly password: string
  /** Of the server itself, without the proxy. */
  readonly directPort: number
}

const ANSWER_MS_MAX = 1_000

/** Starts one, in under a second. Throws where none is installed. */
export async function startRedis({ settings = {} }: RedisOptions = {}): Promise<RedisService> {
  const version = redisVersion()
  if (version === undefined) throw new Error('no redis-server is installed on this machine')
  const password = 'secret-of-the-test'
  const port = await freePorts()
  const folder = mkdtempSync(join(tmpdir(), 'escrow-redis-'))
  const all = {
    port: String(port),
    bind: '127.0.0.1',
    dir: folder,
    requirepass: password,
    save: '',
    appendonly: 'yes',
    appendfsync: 'always',
    // Redis' least: a body that Escrow takes can be too large for it.
    'proto-max-bulk-len': '1mb',
    ...settings,
  }
  const server = await NativeProcess.start({
    name: 'Redis',
    command: ['redis-server', ...Object.entries(all).flatMap(([name, value]) => [`--${name}`, value])],
    folder,
    isReady: () => answers(port, password),
  })
  const proxy = await startFaultProxy({ target: { host: '127.0.0.1', port } })
  return {
    backend: 'native',
    version,
    host: proxy.host,
    port: proxy.port,
    directPort: port,
    password,
    proxy,
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

/** The version of the installed server, or undefined where there is none. */
export function redisVersion(): string | undefined {
  return /v=(\S+)/.exec(spawnSync('redis-server', ['--version'], { encoding: 'utf8' }).stdout ?? '')?.[1]
}

/** Whether it takes commands: while it loads its data, it answers that it doesn't. */
function answers(port: number, password: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port })
    let said = ''
    const end = (): void => {
      socket.destroy()
      resolve(said.includes('+PONG'))
    }
    socket.setTimeout(ANSWER_MS_MAX, end)
    socket.on('error', end).on('close', end)
    socket.on('data', (bytes) => {
      said += bytes
      if (said.split('\r\n').length > 2) end()
    })
    socket.write(`AUTH ${password}\r\nPING\r\n`)
  })
}
