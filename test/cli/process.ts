import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'

const ESCROW = join(import.meta.dirname, '../../src/cli/escrow.ts')

/** What `escrow serve` says when it is ready: its ports, its store, its process. */
export const READY: RegExp =
  /is ready: gRPC 127\.0\.0\.1:(\d+), HTTP http:\/\/127\.0\.0\.1:(\d+), store embedded:(.*), process (\d+)\n/

/** How a run of the command line ended. */
export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly out: string
  readonly err: string
}

/** The command line, while it runs. */
export class Running {
  out = ''
  err = ''
  readonly child: ChildProcess
  readonly ended: Promise<Ended>

  constructor(args: readonly string[], options: { cwd: string; env?: Record<string, string> }) {
    const child = spawn(process.execPath, [ESCROW, ...args], {
      cwd: options.cwd,
      env: { PATH: process.env.PATH ?? '', ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.child = child
    child.stdout.on('data', (chunk) => (this.out += chunk))
    child.stderr.on('data', (chunk) => (this.err += chunk))
    this.ended = new Promise((resolve) => {
      child.once('close', (code, signal) => resolve({ code, signal, out: this.out, err: this.err }))
    })
  }

  /** Waits for a text in the output; rejects when the process ends without it, or after thirty seconds. */
  async says(pattern: RegExp): Promise<RegExpExecArray> {
    const end = performance.now() + 30_000
    for (;;) {
      const found = pattern.exec(this.out)
      if (found !== null) return found
      if (this.child.exitCode !== null || this.child.signalCode !== null || performance.now() > end) {
        throw new Error(`it never said ${pattern}: ${this.out}${this.err}`)
      }
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }
}
