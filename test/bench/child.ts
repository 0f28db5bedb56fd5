import { type ChildProcess, fork } from 'node:child_process'
import { join } from 'node:path'
import type { Readable } from 'node:stream'

const running = new Set<ChildProcess>()

/** How a process is started. */
export interface ChildOptions {
  readonly args?: readonly string[]
  readonly nodeOptions?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  /** Whether its standard output is read, not shown. */
  readonly isRead?: boolean
}

/** A process of a bench, spoken to by messages: each asks for one answer. */
export class Child {
  readonly #name: string
  readonly #process: ChildProcess
  readonly #ended: Promise<void>

  /** Starts a file, by its path from this folder. */
  constructor(file: string, { args = [], nodeOptions = [], env = {}, isRead = false }: ChildOptions = {}) {
    this.#name = file
    this.#process = fork(join(import.meta.dirname, file), args, {
      execArgv: [...nodeOptions],
      env: { ...process.env, ...env },
      stdio: ['ignore', isRead ? 'pipe' : 'inherit', 'inherit', 'ipc'],
      serialization: 'advanced',
    })
    running.add(this.#process)
    this.#ended = new Promise((resolve) => {
      this.#process.once('exit', () => {
        running.delete(this.#process)
        resolve()
      })
    })
  }

  get pid(): number {
    return this.#process.pid ?? 0
  }

  /** What it prints on a line that matches; rejects when it ends before. */
  async printed(pattern: RegExp): Promise<RegExpExecArray> {
    let text = ''
    for await (const chunk of this.#process.stdout as Readable) {
      text += chunk
      const found = pattern.exec(text)
      if (found !== null) return found
    }
    throw new Error(`${this.#name} ended without printing ${pattern}: ${text}`)
  }

  /** The next message; rejects when the process ends first. */
  answer<Answer>(): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const ended = (code: number | null, signal: string | null): void => {
        this.#process.off('message', told)
        reject(new Error(`${this.#name} ended (${signal ?? code}) instead of answering`))
      }
      const told = (message: unknown): void => {
        this.#process.off('exit', ended)
        resolve(message as Answer)
      }
      this.#process.once('message', told)
      this.#process.once('exit', ended)
    })
  }

  ask<Answer>(question: unknown): Promise<Answer> {
    const answer = this.answer<Answer>()
    this.#process.send(question as object)
    return answer
  }

  /** Ends one of this folder in good order, which it does when it is let go, and waits for that. */
  async stop(): Promise<void> {
    if (this.#process.connected) this.#process.disconnect()
    await this.#ended
  }

  /** Ends it by a signal, and waits for that. */
  async signal(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    this.#process.kill(signal)
    await this.#ended
  }
}

/** Ends whatever still runs. */
export function killChildren(): void {
  for (const child of running) child.kill('SIGKILL')
}
