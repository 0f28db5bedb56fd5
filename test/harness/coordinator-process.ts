/** A coordinator in a process of its own, as `escrow serve` runs it: killed, restarted on its store and ports, and asked. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { EscrowOptions } from '../../src/index.ts'
import { errorFromHttp } from '../../src/wire/errors.ts'
import { type Ending, Program } from './program.ts'
import { until } from './until.ts'

/** Where a coordinator keeps things, and how it is started. */
export interface CoordinatorProcessOptions {
  /** Its configuration, as far as JSON can say it. */
  readonly options?: EscrowOptions
  /** A configuration file instead, by its absolute path. */
  readonly config?: string
  readonly env?: Readonly<Record<string, string>>
  /** The store's folder. Default: one in a fresh temp folder. */
  readonly store?: string
  /** The URL of a PostgreSQL instead, which others may share. */
  readonly url?: string
  /** Lines of bash that run before it. */
  readonly before?: string
}

const startMsMax = 60_000
const requestMsMax = 30_000

/** A coordinator that can be killed and started again; `await using` ends it and removes its folder. */
export class CoordinatorProcess {
  readonly folder: string
  readonly store: string
  readonly grpcPort: number
  readonly httpPort: number
  readonly #options: CoordinatorProcessOptions
  #program: Program | undefined

  private constructor(options: CoordinatorProcessOptions, ports: readonly [grpc: number, http: number]) {
    this.#options = options
    this.folder = mkdtempSync(join(tmpdir(), 'escrow-test-'))
    this.store = options.store ?? join(this.folder, 'store')
    this.grpcPort = ports[0]
    this.httpPort = ports[1]
    writeFileSync(
      join(this.folder, 'escrow.config.mjs'),
      `export default ${JSON.stringify(options.options ?? {})}\n`,
    )
  }

  /** Chooses ports and a folder; `start` starts it. */
  static async make(options: CoordinatorProcessOptions = {}): Promise<CoordinatorProcess> {
    return new CoordinatorProcess(options, [await freePort(), await freePort()])
  }

  /** Makes one, and waits until it is ready. */
  static async start(options: CoordinatorProcessOptions = {}): Promise<CoordinatorProcess> {
    const made = await CoordinatorProcess.make(options)
    await made.start()
    return made
  }

  /** `host:port` for sessions. */
  get grpc(): string {
    return `127.0.0.1:${this.grpcPort}`
  }

  get http(): string {
    return `http://127.0.0.1:${this.httpPort}`
  }

  /** The process that runs now, or ran last. */
  get program(): Program {
    if (this.#program === undefined) throw new Error('it was never started')
    return this.#program
  }

  /** Starts a process on the store, and doesn't wait for it. */
  launch(): Program {
    const { config = join(this.folder, 'escrow.config.mjs'), env = {}, before, url } = this.#options
    const ports = ['--grpc-port', String(this.grpcPort), '--http-port', String(this.httpPort)]
    this.#program = new Program({
      file: 'src/cli/escrow.ts',
      args: ['serve', '--config', config, '--store', url ?? `embedded:${this.store}`, ...ports],
      env,
      ...(before === undefined ? {} : { before }),
    })
    return this.#program
  }

  /** Starts it and waits until it is ready. */
  async start(): Promise<void> {
    this.launch()
    await this.ready()
  }

  /** Waits until it serves and is ready. Rejects when it ends instead. */
  async ready(timeoutMs = startMsMax): Promise<void> {
    const { program } = this
    const how = await until(
      'the coordinator is ready',
      async () => {
        if (program.ending !== undefined) return 'ended' as const
        const { ok } = await fetch(`${this.http}/readyz`, { signal: AbortSignal.timeout(1_000) })
        return ok ? ('ready' as const) : undefined
      },
      timeoutMs,
    ).catch((error: Error) => {
      throw new Error(`${error.message}; it said:\n${program.output}`, { cause: error })
    })
    if (how === 'ended')
      throw new Error(`the coordinator ended (${JSON.stringify(program.ending)}):\n${program.output}`)
    // HTTP is there from the start, gRPC last of all.
    await program.said(/escrow .* is ready: .*/, timeoutMs)
  }

  async kill(): Promise<Ending> {
    return await this.program.kill()
  }

  /** SIGTERM; resolves when it has ended. */
  async terminate(): Promise<Ending> {
    this.program.signal('SIGTERM')
    return await this.program.end(60_000)
  }

  /** Asks by HTTP with JSON; rejects with the `EscrowError` that was answered. */
  async ask(method: string, request: object, headers: Readonly<Record<string, string>> = {}): Promise<Json> {
    const response = await fetch(`${this.http}/escrow.v1.CoordinatorService/${method}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify(request),
      signal: AbortSignal.timeout(requestMsMax),
    })
    const text = await response.text()
    if (!response.ok) throw errorFromHttp(response.status, text)
    return JSON.parse(text) as Json
  }

  /** Everything that it knows, ended or not, as of a moment after the call. */
  async all(): Promise<readonly Json[]> {
    const from = Date.now()
    const found: Json[] = []
    for (let pageToken = ''; ; ) {
      const page = await this.ask('List', { statuses: STATUSES, limit: 1_000, pageToken })
      if (pageToken === '' && Number(page.asOfMs) < from) {
        await new Promise((resolve) => setTimeout(resolve, 50))
        continue
      }
      found.push(...(page.transactions ?? []))
      pageToken = page.nextPageToken ?? ''
      if (pageToken === '') return found
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#program?.kill()
    rmSync(this.folder, { recursive: true, force: true })
  }
}

const STATUSES = ['PREPARED', 'COMMITTED', 'DELIVERED', 'ROLLED_BACK', 'PARKED'].map(
  (name) => `TRANSACTION_STATUS_${name}`,
)

/** An answer in JSON, read as the test that asks knows it. */
// biome-ignore lint/suspicious/noExplicitAny: what a field is stands in protos/escrow/v1; a wrong name fails the test
export type Json = Record<string, any>

/** What was given to one test is not given to another: until it is used, a look at it says that it is free. */
const given = new Set<number>()

/** A port on 127.0.0.1 below those of outgoing connections, so that none of them takes it between two starts. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 12_000 + Math.floor(Math.random() * 8_000)
    if (given.has(port)) continue
    given.add(port)
    if (await isFree(port)) return port
  }
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer()
  return await new Promise((resolve) => {
    server.once('error', () => resolve(false))
    server.listen({ port, host: '127.0.0.1', exclusive: true }, () => server.close(() => resolve(true)))
  })
}
