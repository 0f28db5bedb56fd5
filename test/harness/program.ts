/**
 * A program in a process of its own, as tests start, kill and restart it.
 *
 * | state    | process | leaves by                        |
 * |----------|---------|----------------------------------|
 * | running  | yes     | `pause`, `kill`, its own end     |
 * | paused   | stopped | `resume`, `kill`                 |
 * | ended    | no      | another `start`                  |
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { until } from './until.ts'

const root = join(import.meta.dirname, '../..')
// The kernel closes its standard input when this process ends, however that ends: no test leaves a process behind.
const endWithParent = join(root, 'examples/shop/exit-with-parent.ts')
const alive = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of alive) child.kill('SIGKILL')
})

/** How a process ended. */
export interface Ending {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** What to start. */
export interface ProgramOptions {
  /** A TypeScript file, by its absolute path, or from the root of the repository. */
  readonly file: string
  readonly args?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  /** Lines of bash that run first, in the process that then becomes the program: limits, for example. */
  readonly before?: string
}

/** One process of a program. */
export class Program {
  readonly #child: ChildProcess
  readonly #name: string
  readonly ended: Promise<Ending>
  #out = ''
  #all = ''
  #ending: Ending | undefined

  constructor({ file, args = [], env = {}, before }: ProgramOptions) {
    this.#name = [file.split('/').at(-1), ...args].join(' ')
    const command = [process.execPath, '--import', endWithParent, join(root, file), ...args]
    if (file.startsWith('/')) command[3] = file
    const [name, ...rest] =
      before === undefined ? command : ['bash', '-c', `${before}\nexec "$@"`, 'bash', ...command]
    this.#child = spawn(name as string, rest, {
      env: { ...process.env, ...env },
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    alive.add(this.#child)
    this.#child.stdin?.on('error', () => {})
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.#out += text
      this.#all += text
    })
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#all += text
    })
    this.ended = new Promise((resolve) => {
      // 'close' and not 'exit': all that it said has been read by then.
      this.#child.once('close', (code, signal) => {
        alive.delete(this.#child)
        this.#ending = { code, signal }
        resolve(this.#ending)
      })
    })
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  /** Undefined while it runs. */
  get ending(): Ending | undefined {
    return this.#ending
  }

  /** All that it has written to standard output and standard error. */
  get output(): string {
    return this.#all
  }

  /** Waits for a whole line of standard output that matches; answers the match. Rejects when the process ends without. */
  async said(line: RegExp, timeoutMs = 60_000): Promise<RegExpExecArray> {
    const whole = new RegExp(`^(?:${line.source})$`, 'm')
    const found = await until(
      `${this.#name} says ${line}`,
      () => whole.exec(this.#out) ?? (this.#ending === undefined ? undefined : ('ended' as const)),
      timeoutMs,
    ).catch((error: Error) => {
      throw new Error(`${error.message}; it said:\n${this.#all}`)
    })
    if (found !== 'ended') return found
    throw new Error(
      `${this.#name} ended (${JSON.stringify(this.#ending)}) without saying ${line}; it said:\n${this.#all}`,
    )
  }

  /** Waits for its own end. */
  async end(timeoutMs = 60_000): Promise<Ending> {
    return await until(`${this.#name} ends`, () => this.#ending, timeoutMs)
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  /** SIGKILL; resolves when it has ended. */
  async kill(): Promise<Ending> {
    this.#child.kill('SIGKILL')
    return await this.ended
  }

  /** Stops it in its tracks (SIGSTOP): its connections stay open, and nothing answers. */
  pause(): void {
    this.#child.kill('SIGSTOP')
  }

  resume(): void {
    this.#child.kill('SIGCONT')
  }
}
