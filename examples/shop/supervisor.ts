/**
 * Keeps a process running: one that ends without being asked to is started again.
 *
 *   state      process   leaves by
 *   starting   yes       ready: it said so, or its probe did; waiting: it ended
 *   ready      yes       waiting: it ended
 *   waiting    no        starting, after a pause; given up: it ended too often before it was ready
 *   stopped    no        nothing: stop() was called, or it was given up
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'

const pauseMs = 100
const pauseMsMax = 3_000
/** How often in a row it may end before it was ready. */
const failedStartsMax = 8
const stopMsMax = 8_000
const probeMs = 20
const reportFd = 3

/** What is run: `node ...args`. */
export interface Program {
  readonly name: string
  readonly args: readonly string[]
  readonly env: Readonly<Record<string, string>>
  /** Tells when it is ready. Left out: it says so itself, with the line `ready` on its report pipe. */
  readonly probe?: () => Promise<boolean>
}

/** What its owner hears of it. `report` comes before `ended` for all that was written before the process ended. */
export interface Listener {
  log(name: string, line: string): void
  report(name: string, words: readonly string[]): void
  ended(name: string): void
}

/** How a kill went. */
export interface Kill {
  readonly pid: number
  /** Whether it was ready when it was killed, rather than still starting. */
  readonly wasReady: boolean
}

/** One process and its successors. */
export class Supervised {
  readonly name: string
  /** Rejects when it was given up; never resolves. */
  readonly failed: Promise<never>
  readonly #program: Program
  readonly #listener: Listener
  readonly #waiters = new Set<() => void>()
  #fail: (error: Error) => void = () => {}
  #state: 'starting' | 'ready' | 'waiting' | 'stopped' = 'waiting'
  #child: ChildProcess | undefined
  #failedStarts = 0

  constructor(program: Program, listener: Listener) {
    this.name = program.name
    this.#program = program
    this.#listener = listener
    this.failed = new Promise((_, reject) => {
      this.#fail = reject
    })
    this.failed.catch(() => {})
  }

  start(): void {
    const { args, env, probe } = this.#program
    // A group of its own, so that Ctrl-C reaches the main process alone, which then stops the others in order.
    // Standard input tells the child when the main process ends.
    const child = spawn(
      process.execPath,
      ['--import', join(import.meta.dirname, 'exit-with-parent.ts'), ...args],
      {
        env: { ...process.env, ...env, SHOP_REPORT_FD: String(reportFd) },
        stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
        detached: true,
      },
    )
    this.#child = child
    this.#become('starting')
    child.stdin?.on('error', () => {})
    for (const fd of [1, 2])
      onLine(child.stdio[fd] as Readable, (line) => this.#listener.log(this.name, line))
    onLine(child.stdio[reportFd] as Readable, (line) => {
      const words = line.split(' ')
      if (words[0] === 'ready') this.#become('ready')
      this.#listener.report(this.name, words)
    })
    child.once('error', (error) => this.#listener.log(this.name, error.message))
    // 'close', not 'exit': the pipes have been read to their end.
    child.once(
      'close',
      (code, signal) => void this.#ended(child, code === null ? `by ${signal}` : `with ${code}`),
    )
    if (probe !== undefined) void this.#probe(child, probe)
  }

  /** Writes a line to its standard input; one that isn't running misses it. */
  send(line: string): void {
    this.#child?.stdin?.write(`${line}\n`)
  }

  /** SIGKILL. Resolves when all that it had written was reported; undefined when there is no process to kill. */
  async kill(): Promise<Kill | undefined> {
    const child = this.#child
    if (child?.pid === undefined || child.exitCode !== null || child.signalCode !== null) return undefined
    const wasReady = this.#state === 'ready'
    const closed = new Promise((resolve) => child.once('close', resolve))
    child.kill('SIGKILL')
    await closed
    return { pid: child.pid, wasReady }
  }

  /** Resolves when it is ready; rejects when it was given up or stopped. */
  async ready(): Promise<void> {
    while (this.#state !== 'ready') {
      if (this.#state === 'stopped') {
        await Promise.race([this.failed, Promise.reject(new Error(`${this.name} is stopped`))])
      }
      await Promise.race([new Promise<void>((resolve) => this.#waiters.add(resolve)), this.failed])
    }
  }

  /** SIGTERM, and SIGKILL after 8 s. It isn't started again. */
  async stop(): Promise<void> {
    this.#become('stopped')
    const child = this.#child
    if (child === undefined) return
    const closed = new Promise((resolve) => child.once('close', resolve))
    child.kill('SIGTERM')
    const timer = setTimeout(() => child.kill('SIGKILL'), stopMsMax)
    await closed
    clearTimeout(timer)
  }

  async #ended(child: ChildProcess, how: string): Promise<void> {
    if (this.#child === child) this.#child = undefined
    this.#listener.ended(this.name)
    if (this.#state === 'stopped') return
    // Whoever kills it does so on purpose: only an end of its own says that it can't start.
    if (this.#state === 'ready') this.#failedStarts = 0
    else if (how !== 'by SIGKILL') this.#failedStarts += 1
    if (how !== 'by SIGKILL') this.#listener.log(this.name, `ended ${how}; it is started again`)
    if (this.#failedStarts >= failedStartsMax) {
      this.#fail(new Error(`${this.name} ended ${failedStartsMax} times before it was ready: see its output`))
      return this.#become('stopped')
    }
    this.#become('waiting')
    await sleep(Math.min(pauseMsMax, pauseMs * 2 ** this.#failedStarts))
    if (this.#state === 'waiting') this.start()
  }

  async #probe(child: ChildProcess, probe: () => Promise<boolean>): Promise<void> {
    while (this.#child === child && this.#state === 'starting') {
      if (await probe().catch(() => false)) {
        if (this.#child === child && this.#state === 'starting') this.#become('ready')
      } else await sleep(probeMs)
    }
  }

  #become(state: 'starting' | 'ready' | 'waiting' | 'stopped'): void {
    if (this.#state === 'stopped') return
    this.#state = state
    for (const wake of this.#waiters) wake()
    this.#waiters.clear()
  }
}

function onLine(stream: Readable, take: (line: string) => void): void {
  stream.on('error', () => {})
  createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY }).on('line', take)
}
