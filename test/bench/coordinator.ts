import { join } from 'node:path'
import { Child } from './child.ts'

/** `escrow serve` in a process of its own, with what `instrument.ts` adds. */
export interface RunningCoordinator {
  readonly process: Child
  readonly port: number
  readonly pid: number
  /** From its start until it said that it is ready. */
  readonly startMs: number
}

/** Starts a coordinator on a store, a folder or a URL, at any port that is free; `config` is a file of this folder. */
export async function startCoordinator(
  where: string,
  config?: string,
  env: Readonly<Record<string, string>> = {},
): Promise<RunningCoordinator> {
  const startedAt = performance.now()
  const store = where.includes('://') ? where : `embedded:${where}`
  const configured = config === undefined ? [] : ['--config', join(import.meta.dirname, config)]
  const process = new Child('../../src/cli/escrow.ts', {
    args: ['serve', '--store', store, '--grpc-port', '0', '--http-port', '0', ...configured],
    nodeOptions: ['--import', new URL('instrument.ts', import.meta.url).href],
    env,
    isRead: true,
  })
  const [, port] = await process.printed(/is ready: gRPC \S+:(\d+)/)
  return { process, port: Number(port), pid: process.pid, startMs: performance.now() - startedAt }
}
