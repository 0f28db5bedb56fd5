/**
 * A server as a native process, on ports and in a folder of its own.
 *
 * | state   | process | data | leaves by                    |
 * |---------|---------|------|------------------------------|
 * | running | yes     | yes  | `pause`, `kill`, `stop`      |
 * | paused  | stopped | yes  | `resume`, `kill`, `stop`     |
 * | killed  | no      | yes  | `start`, `stop`              |
 * | stopped | no      | no   |                              |
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { isAlive, killTree, resumeTree, stopTree } from '../../examples/shop/process-tree.ts'

const LOG_CHARACTERS_MAX = 64_000
const STOP_MS_MAX = 20_000

/** What to run. */
export interface NativeProcessOptions {
  /** What to call it in errors. */
  readonly name: string
  readonly command: readonly [string, ...string[]]
  /** The whole environment; default: PATH alone. */
  readonly env?: Readonly<Record<string, string>>
  /** Runs there, and is removed with all that is in it when the server stops. */
  readonly folder: string
  /** As root, whom the server runs as. */
  readonly uid?: number
  readonly gid?: number
  /** Resolves to true once the server answers; asked again and again, its errors mean "not yet". */
  readonly isReady: (log: string) => Promise<boolean> | boolean
  /** Default 60,000. */
  readonly startMsMax?: number
}

/** A server that tests can trouble. It ends with this process, on Linux also when that is killed. */
export class NativeProcess {
  readonly #options: NativeProcessOptions
  #child: ChildProcess | undefined
  #log = ''
  readonly #onExit = () => {
    if (this.#child?.pid !== undefined) killTree(this.#child.pid)
  }

  private constructor(options: NativeProcessOptions) {
    this.#options = options
  }

  static async start(options: NativeProcessOptions): Promise<NativeProcess> {
    const started = new NativeProcess(options)
    try {
      await started.start()
    } catch (error) {
      await started.stop()
      throw error
    }
    return started
  }

  /** The end of what it has written to its standard output and error. */
  get log(): string {
    return this.#log
  }

  /** Starts it again on the same data, and waits until it answers. Does nothing where it runs. */
  async start(): Promise<void> {
    if (this.#child !== undefined) return
    const { command, folder, env, uid, gid } = this.#options
    const child = spawn(dieWithParent[0] ?? command[0], [...dieWithParent, ...command].slice(1), {
      cwd: folder,
      env: env ?? { PATH: process.env.PATH ?? '' },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
      ...(uid !== undefined && process.getuid?.() === 0 && { uid, gid: gid ?? uid }),
    })
    this.#child = child
    process.off('exit', this.#onExit).on('exit', this.#onExit)
    const said = (text: string) => {
      this.#log = `${this.#log}${text}`.slice(-LOG_CHARACTERS_MAX)
    }
    child.stdout.setEncoding('utf8').on('data', said)
    child.stderr.setEncoding('utf8').on('data', said)
    child.once('error', (error) => said(error.message))
    child.once('close', () => {
      if (this.#child === child) this.#child = undefined
    })
    await this.#ready(child)
  }

  async #ready(child: ChildProcess): Promise<void> {
    const { name, isReady, startMsMax = 60_000 } = this.#options
    const deadline = performance.now() + startMsMax
    for (;;) {
      if (this.#child !== child) throw new Error(`${name} ended while starting:\n${this.#log}`)
      if (await Promise.resolve(isReady(this.#log)).catch(() => false)) return
      if (performance.now() > deadline)
        throw new Error(`${name}: no answer in ${startMsMax} ms:\n${this.#log}`)
      await sleep(50)
    }
  }

  /** SIGSTOP for all its processes: connections stay open, and nothing answers. Resolves when every thread stands still. */
  async pause(): Promise<void> {
    if (this.#child?.pid === undefined) return
    const pids = stopTree(this.#child.pid)
    const deadline = performance.now() + STOP_MS_MAX
    // On a busy machine a thread may answer one more request before it sees the signal.
    while (!pids.every(isStopped) && performance.now() < deadline) await sleep(1)
  }

  async resume(): Promise<void> {
    if (this.#child?.pid !== undefined) resumeTree(this.#child.pid)
  }

  /** SIGKILL for all its processes; resolves when none is left. The data stays. */
  async kill(): Promise<void> {
    const child = this.#child
    if (child?.pid === undefined) return
    const pids = killTree(child.pid)
    const deadline = performance.now() + STOP_MS_MAX
    while ((this.#child === child || pids.some(isAlive)) && performance.now() < deadline) await sleep(5)
  }

  /** SIGTERM, then SIGKILL after 20 s; removes its folder. May be repeated. */
  async stop(): Promise<void> {
    const child = this.#child
    if (child !== undefined) {
      await this.resume()
      child.kill('SIGTERM')
      const deadline = performance.now() + STOP_MS_MAX
      while (this.#child === child && performance.now() < deadline) await sleep(10)
      await this.kill()
    }
    process.off('exit', this.#onExit)
    rmSync(this.#options.folder, { recursive: true, force: true })
  }
}

/** Whether no thread of a process runs; where there is no /proc, that is believed. */
function isStopped(pid: number): boolean {
  try {
    return readdirSync(`/proc/${pid}/task`).every((thread) => {
      const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8')
      return 'TtZX'.includes(stat.charAt(stat.lastIndexOf(')') + 2))
    })
  } catch {
    // It, or a thread of it, has ended meanwhile: the next look tells; without /proc there is none.
    return !existsSync(`/proc/${pid}`)
  }
}

const setpriv = '/usr/bin/setpriv'
/** A prefix that makes Linux end the server when our process dies, however it dies. */
const dieWithParent = existsSync(setpriv) ? [setpriv, '--pdeathsig', 'KILL', '--'] : []

const PORT_TRIES_MAX = 50

/** `count` ports in a row that are free on 127.0.0.1, below the range that the kernel gives to outgoing connections. */
export async function freePorts(count = 1): Promise<number> {
  for (let attempt = 1; attempt <= PORT_TRIES_MAX; attempt++) {
    const first = 20_000 + Math.floor(Math.random() * 11_900)
    const free = await Promise.all(Array.from({ length: count }, (_, at) => isFree(first + at)))
    if (free.every(Boolean)) return first
  }
  throw new Error(`no ${count} free ports in a row on 127.0.0.1`)
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer()
  return await new Promise((resolve) => {
    server.once('error', () => resolve(false))
    server.listen({ port, host: '127.0.0.1', exclusive: true }, () => server.close(() => resolve(true)))
  })
}
