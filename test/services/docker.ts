/**
 * A server in a container, as docker-compose.yml describes it, on ports of 127.0.0.1 that it keeps.
 *
 * | state   | container | data | leaves by                    |
 * |---------|-----------|------|------------------------------|
 * | running | runs      | yes  | `pause`, `kill`, `stop`      |
 * | paused  | is frozen | yes  | `resume`, `kill`, `stop`     |
 * | killed  | is there  | yes  | `start`, `stop`              |
 * | stopped | no        | no   |                              |
 */
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type ExecResult,
  GenericContainer,
  PullPolicy,
  type StartedTestContainer,
  Wait,
} from 'testcontainers'
import { type ComposeService, composeService } from './compose.ts'
import { openEngine, runLabel } from './engine.ts'
import { type ImageName, imageOf } from './images.ts'
import { runPid } from './ledger.ts'
import { freePorts } from './native-process.ts'

const START_MS_MAX = 120_000
const LOG_LINES = 100

type Container =
  Awaited<ReturnType<typeof openEngine>> extends { container: { getById(id: string): infer C } } ? C : never

/** What to run. */
export interface DockerServerOptions {
  /** Of docker-compose.yml: its image, host name, environment, command, volumes and health check are the container's. */
  readonly name: ImageName
  /** After the command of docker-compose.yml. */
  readonly args?: readonly string[]
  /** Ports in the container. Each is published on a free port of 127.0.0.1. */
  readonly ports: readonly number[]
  /** Written into the container before it starts: text by path. */
  readonly files?: Readonly<Record<string, string>>
  /** Resolves to the server's version once it answers at the first port; asked again and again, its errors mean "not yet". */
  readonly answers: (port: number) => Promise<string>
}

/** A server that tests can trouble. Where its process is killed, the next run that uses the engine removes it. */
export class DockerServer {
  readonly #options: DockerServerOptions
  readonly #container: Container
  readonly #started: StartedTestContainer
  readonly #hostPorts: readonly number[]
  #version = ''
  #isRunning = true

  private constructor(
    options: DockerServerOptions,
    container: Container,
    started: StartedTestContainer,
    hostPorts: readonly number[],
  ) {
    this.#options = options
    this.#container = container
    this.#started = started
    this.#hostPorts = hostPorts
  }

  /** Throws with the reason where no engine answers or the image isn't there. */
  static async start(options: DockerServerOptions): Promise<DockerServer> {
    const client = await openEngine()
    const { name, args = [], files = {}, ports } = options
    const service = composeService(name)
    const hostPorts = await Promise.all(ports.map(() => freePorts()))
    const container = new TestContainer(await imageOf(client, name), foldersOf(service))
      .withPullPolicy(PullPolicy.neverPull())
      .withLabels({ [runLabel]: String(runPid()) })
      .withEnvironment({ ...service.environment })
      .withExposedPorts(...ports.map((port, at) => ({ container: port, host: hostPorts[at]! })))
      .withCopyContentToContainer(Object.entries(files).map(([target, content]) => ({ target, content })))
      // That it runs. Whether it answers is asked by us, as after each later start.
      .withWaitStrategy(Wait.forLogMessage(/./))
      .withStartupTimeout(START_MS_MAX)
    const command = [...(service.command ?? []), ...args]
    if (command.length > 0) container.withCommand(command)
    if (service.hostname !== undefined) container.withHostname(service.hostname)
    if (service.healthcheck !== undefined) container.withHealthCheck(healthCheckOf(service.healthcheck))
    const started = await container.start()
    const server = new DockerServer(options, client.container.getById(started.getId()), started, hostPorts)
    try {
      await server.#ready()
    } catch (error) {
      await server.stop()
      throw error
    }
    return server
  }

  /** As the server tells it. */
  get version(): string {
    return this.#version
  }

  /** The port of 127.0.0.1 at which a port of the container is reached; the same after a restart. */
  hostPort(port: number): number {
    const at = this.#options.ports.indexOf(port)
    if (at < 0) throw new Error(`port ${port} is not published`)
    return this.#hostPorts[at]!
  }

  /** Runs a command in the container. */
  exec(command: string[]): Promise<ExecResult> {
    return this.#started.exec(command)
  }

  /** Starts it again on the same data, and waits until it answers. Does nothing where it runs. */
  async start(): Promise<void> {
    if (this.#isRunning) return
    await this.#container.start()
    this.#isRunning = true
    await this.#ready()
  }

  async #ready(): Promise<void> {
    const { name, answers, ports } = this.#options
    const deadline = performance.now() + START_MS_MAX
    for (;;) {
      const version = await answers(this.hostPort(ports[0]!)).catch(() => undefined)
      if (version !== undefined) {
        this.#version = version
        return
      }
      const { State } = await this.#container.inspect()
      if (!State.Running) throw new Error(`${name} ended while starting:\n${await this.#log()}`)
      if (performance.now() > deadline)
        throw new Error(`${name}: no answer in ${START_MS_MAX} ms:\n${await this.#log()}`)
      await sleep(50)
    }
  }

  async #log(): Promise<string> {
    const lines = await this.#container.logs({ stdout: true, stderr: true, tail: LOG_LINES })
    return lines.toString('utf8')
  }

  /** Freezes all its processes: connections stay open, and nothing answers. */
  async pause(): Promise<void> {
    const { State } = await this.#container.inspect()
    if (State.Running && !State.Paused) await this.#container.pause()
  }

  async resume(): Promise<void> {
    const { State } = await this.#container.inspect()
    if (State.Paused) await this.#container.unpause()
  }

  /** SIGKILL for all its processes; resolves when none is left. The data stays. */
  async kill(): Promise<void> {
    if (!this.#isRunning) return
    const ended = this.#container.wait()
    await this.#container.kill({ signal: 'SIGKILL' })
    await ended
    this.#isRunning = false
  }

  /** Ends it, and removes its data. May be repeated. */
  async stop(): Promise<void> {
    this.#isRunning = false
    try {
      await this.#container.remove({ force: true, v: true })
    } catch (error) {
      const gone = 404
      if ((error as { statusCode?: number }).statusCode !== gone) throw error
    }
  }
}

class TestContainer extends GenericContainer {
  readonly #folders: readonly string[]

  /** Each folder is a volume of the container's own. */
  constructor(image: string, folders: readonly string[]) {
    super(image)
    this.#folders = folders
  }

  protected override async beforeContainerCreated(): Promise<void> {
    this.createOpts.Volumes = Object.fromEntries(this.#folders.map((folder) => [folder, {}]))
    // An engine that ends waits so long for it.
    this.createOpts.StopTimeout = 1
    // Whatever the engine's default is: nobody but this machine reaches a test's server.
    for (const bindings of Object.values(this.hostConfig.PortBindings ?? {}))
      for (const binding of bindings as { HostIp?: string }[]) binding.HostIp = '127.0.0.1'
  }
}

function foldersOf({ volumes = [] }: ComposeService): string[] {
  return volumes.map((each) => each.split(':')[1]!)
}

function healthCheckOf({ test, interval, timeout, retries }: NonNullable<ComposeService['healthcheck']>) {
  return { test, interval: milliseconds(interval), timeout: milliseconds(timeout), retries }
}

function milliseconds(text: string): number {
  const seconds = /^(\d+)s$/.exec(text)?.[1]
  if (seconds === undefined) throw new Error(`"${text}" is not a whole number of seconds`)
  return Number(seconds) * 1_000
}
