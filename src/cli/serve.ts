import { type Config, type EscrowOptions, optionsOfEnvironment, parseConfig, portOfText } from '../config.ts'
import type { Coordinator } from '../coordinator.ts'
import { addressText } from '../core/address.ts'
import { type Command, parse, UsageError } from './command.ts'
import { CONFIG_FILES, optionsOfFile } from './config-file.ts'
import { openLog } from './log.ts'
import { tuneMemory } from './memory.ts'

/** What stopping may take beside `drainMsMax`, for the store to write what is left. */
const CLOSE_MS_MAX = 10_000

/** `escrow serve`. */
export const serve: Command = {
  name: 'serve',
  summary: 'runs a coordinator',
  help: `Usage: escrow serve [OPTIONS]

Runs a coordinator until SIGTERM or SIGINT: then it takes nothing new, finishes what is under way, and ends. A
second signal ends it at once; nothing that was answered is lost either way.

  --config FILE      the configuration, default ${CONFIG_FILES.join(' or ')} in this folder, if there is one
  --store URL        where transactions are kept: embedded:FOLDER, default embedded:./.escrow, or a PostgreSQL that
                     many coordinators share: postgres://USER:PASSWORD@HOST:PORT/DATABASE  (ESCROW_STORE)
  --advertise HOST:PORT
                     where the others reach this one's gRPC port, default where it listens  (ESCROW_ADVERTISE)
  --host HOST        the address to listen at, default 127.0.0.1                  (ESCROW_HOST)
  --grpc-port N      the port for gRPC, default 7411, 0 for any                   (ESCROW_GRPC_PORT)
  --http-port N      the port for HTTP, default 7410, 0 for any                   (ESCROW_HTTP_PORT)
  --log FORMAT       text or json, on standard error, default text

An option goes before its environment variable, that before the file.`,
  async run(args, { version }) {
    const { values } = parse(args, {
      options: {
        config: { type: 'string' },
        store: { type: 'string' },
        advertise: { type: 'string' },
        host: { type: 'string' },
        'grpc-port': { type: 'string' },
        'http-port': { type: 'string' },
        log: { type: 'string' },
      },
    })
    const format = values.log ?? 'text'
    if (format !== 'text' && format !== 'json')
      throw new UsageError(`--log ${JSON.stringify(format)} is not text or json`)
    const flags: EscrowOptions = {
      store: values.store,
      cluster: { advertise: values.advertise },
      grpc: { host: values.host, port: portOfText('--grpc-port', values['grpc-port']) },
      http: { host: values.host, port: portOfText('--http-port', values['http-port']) },
    }
    const config = parseConfig(
      flags,
      optionsOfEnvironment(process.env),
      (await optionsOfFile(values.config)) ?? {},
    )
    // Only here: the other commands needn't load a store to ask a coordinator that runs elsewhere.
    const { createCoordinator } = await import('../coordinator.ts')
    const coordinator = createCoordinator(config, { log: openLog(format) })
    return runUntilSignal(coordinator, config, version)
  },
}

async function runUntilSignal(coordinator: Coordinator, config: Config, version: string): Promise<number> {
  const signalled = firstSignal()
  const started = coordinator.start().then(() => 'started' as const)
  // A signal while it starts doesn't wait for the recovery of a large store: nothing was answered yet.
  if ((await Promise.race([started, signalled])) === 'started') {
    process.stdout.write(`${readyLine(coordinator, config, version)}\n`)
    tuneMemory()
    await signalled
  }
  const isStopped = await within(coordinator.stop(), config.drainMsMax + CLOSE_MS_MAX)
  if (isStopped) return 0
  process.stderr.write(
    `escrow: not stopped after ${config.drainMsMax + CLOSE_MS_MAX} ms: ended as by a crash\n`,
  )
  process.exit(1)
}

function readyLine(coordinator: Coordinator, config: Config, version: string): string {
  const { grpc, http } = coordinator.addresses
  const where = [
    grpc && `gRPC ${addressText(grpc)}`,
    http && `HTTP http://${addressText(http)}`,
    `store ${config.store.kind === 'embedded' ? `embedded:${config.store.path}` : String(config.store.url)}`,
  ]
  return `escrow ${version} is ready: ${where.filter(Boolean).join(', ')}, process ${process.pid}`
}

/** Resolves at the first SIGTERM or SIGINT; the second one ends the process with the code that shells expect. */
function firstSignal(): Promise<'signalled'> {
  return new Promise((done) => {
    let signals = 0
    for (const [signal, code] of [
      ['SIGTERM', 143],
      ['SIGINT', 130],
    ] as const) {
      process.on(signal, () => {
        signals += 1
        if (signals > 1) process.exit(code)
        done('signalled')
      })
    }
  })
}

async function within(work: Promise<void>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<false>((done) => {
    timer = setTimeout(() => done(false), ms)
  })
  try {
    return await Promise.race([work.then(() => true), late])
  } finally {
    clearTimeout(timer)
  }
}
