import { execFile } from 'node:child_process'
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, statSync, writeFileSync } from 'node:fs'
import { connect as connectTcp } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { type ChannelModel, connect } from 'amqplib'
import type { BrokerService } from './broker-service.ts'
import { type FaultProxy, startFaultProxy } from './fault-proxy.ts'
import { freePorts, NativeProcess } from './native-process.ts'

const bin = '/usr/lib/rabbitmq/bin'
/** The server of Debian's package. */
export const rabbitServer = join(bin, 'rabbitmq-server')

const user = 'escrow'
const password = 'rabbit-secret'
const epmd = '/usr/bin/epmd'
const portsOfNode = 3

/** One node of RabbitMQ, on disk as in production. */
export interface RabbitService extends BrokerService {
  /** Through the proxy; with a user who may do everything. */
  readonly url: string
  /** Past the proxy. */
  readonly directUrl: string
  /** Of the management API, past the proxy, with the same user. */
  readonly managementUrl: string
  /** As the cluster calls it. */
  readonly node: string
  /** Declares a durable queue of that type, so that it outlives `kill` from then on. */
  declareQueue(
    name: string,
    type?: 'quorum' | 'classic',
    args?: Readonly<Record<string, unknown>>,
  ): Promise<void>
  /** Runs `rabbitmqctl` and answers what it printed. */
  control(...args: string[]): Promise<string>
}

export interface RabbitOptions {
  /** Lines of rabbitmq.conf. Default: RabbitMQ's own settings. */
  readonly settings?: readonly string[]
}

/** Nodes that know each other; each can be killed by itself. */
export interface RabbitCluster {
  readonly nodes: readonly RabbitService[]
  stop(): Promise<void>
}

/** Declares a durable queue on a server, for good. */
export async function declareQueue(
  server: Pick<RabbitService, 'directUrl' | 'control'>,
  name: string,
  type: 'quorum' | 'classic' = 'quorum',
  args: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  const model = await connect(server.directUrl)
  const channel = await model.createChannel()
  await channel.assertQueue(name, { durable: true, arguments: { 'x-queue-type': type, ...args } })
  await model.close()
  if (type === 'quorum') await queuesOnDisk(server)
}

/**
 * Which quorum queues a node has reaches its disk half a second later only (rabbitmq/ra#443, mended in 2024): a node that is
 * killed before has lost the queue with all that is in it.
 */
export async function queuesOnDisk(server: Pick<RabbitService, 'control'>): Promise<void> {
  await server.control('eval', 'dets:sync(ra_directory_reverse).')
}

/** Starts one server; about 5 s. Throws where Debian's package isn't installed. */
export async function startRabbit(options: RabbitOptions = {}): Promise<RabbitService> {
  const { nodes } = await startRabbitCluster(1, options)
  return nodes[0]!
}

/** Starts `size` nodes on this machine, joined as one cluster; about 12 s for three. */
export async function startRabbitCluster(size: number, options: RabbitOptions = {}): Promise<RabbitCluster> {
  if (!existsSync(rabbitServer)) throw new Error('no RabbitMQ is installed on this machine')
  const ground = await Ground.make(size)
  const { settings = [] } = options
  const nodes: Node[] = []
  const stop = async () => {
    await Promise.all(nodes.map((node) => node.stop()))
    // It goes with its last node; there may be none that has started.
    await ground.names.stop()
  }
  try {
    nodes.push(await Node.start(ground, 0, settings))
    // Each of the others joins the first one when it starts for the first time.
    const joins = Array.from({ length: size - 1 }, (_, at) => Node.start(ground, at + 1, settings))
    for (const joined of await Promise.allSettled(joins)) {
      if (joined.status === 'rejected') throw joined.reason
      nodes.push(joined.value)
    }
  } catch (error) {
    await stop()
    throw error
  }
  return { nodes, stop }
}

/** What the nodes of a cluster share: a folder, a cookie, and Erlang's daemon of names, on a port of its own. */
class Ground {
  readonly folder: string
  readonly names: NativeProcess
  readonly namesPort: number
  readonly firstPort: number
  /** As root: Debian's user for the server. */
  readonly owner: { uid: number; gid: number } | undefined
  readonly #nodes = new Set<Node>()

  private constructor(folder: string, firstPort: number, owner: Ground['owner'], names: NativeProcess) {
    this.folder = folder
    this.namesPort = firstPort
    this.firstPort = firstPort + 1
    this.owner = owner
    this.names = names
  }

  static async make(size: number): Promise<Ground> {
    const folder = mkdtempSync(join(tmpdir(), 'escrow-rabbit-'))
    chmodSync(folder, 0o755)
    const port = await freePorts(1 + size * portsOfNode)
    const isRoot = process.getuid?.() === 0
    const { uid, gid } = statSync('/var/lib/rabbitmq')
    const owner = isRoot ? { uid, gid } : undefined
    const cookie = join(folder, '.erlang.cookie')
    writeFileSync(cookie, 'escrow', { mode: 0o400 })
    if (owner !== undefined) {
      chownSync(cookie, uid, gid)
      chownSync(folder, uid, gid)
    }
    const names = await NativeProcess.start({
      name: 'epmd',
      command: [epmd, '-port', String(port), '-address', '127.0.0.1'],
      folder,
      ...owner,
      isReady: () => isListening(port),
    })
    return new Ground(folder, port, owner, names)
  }

  enter(node: Node): void {
    this.#nodes.add(node)
  }

  async leave(node: Node): Promise<void> {
    this.#nodes.delete(node)
    if (this.#nodes.size === 0) await this.names.stop()
  }
}

function isListening(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connectTcp({ host: '127.0.0.1', port })
    const answer = (isThere: boolean) => {
      socket.destroy()
      resolve(isThere)
    }
    socket.once('connect', () => answer(true)).once('error', () => answer(false))
  })
}

const nameOf = (at: number) => `rabbit${at}@localhost`

class Node implements RabbitService {
  readonly backend = 'native'
  readonly host = '127.0.0.1'
  readonly node: string
  readonly directUrl: string
  readonly managementUrl: string
  version = ''
  readonly #env: Readonly<Record<string, string>>
  readonly #ground: Ground
  #process: NativeProcess | undefined
  #proxy: FaultProxy | undefined

  private constructor(ground: Ground, at: number) {
    const port = ground.firstPort + at * portsOfNode
    this.#ground = ground
    this.node = nameOf(at)
    this.directUrl = `amqp://${user}:${password}@127.0.0.1:${port}`
    this.managementUrl = `http://${user}:${password}@127.0.0.1:${port + 2}`
    const folder = join(ground.folder, `node-${at}`)
    this.#env = {
      PATH: process.env.PATH ?? '',
      LANG: 'C.UTF-8',
      HOME: ground.folder,
      ERL_EPMD_PORT: String(ground.namesPort),
      // No shell stays between us and the server: it would not end with it when this process is killed.
      RUNNING_UNDER_SYSTEMD: '1',
      RABBITMQ_NODENAME: this.node,
      RABBITMQ_MNESIA_BASE: join(folder, 'data'),
      RABBITMQ_LOG_BASE: join(folder, 'log'),
      RABBITMQ_LOGS: '-',
      RABBITMQ_CONFIG_FILE: join(folder, 'rabbitmq'),
      RABBITMQ_CONF_ENV_FILE: '/dev/null',
      RABBITMQ_ENABLED_PLUGINS_FILE: join(folder, 'enabled_plugins'),
      RABBITMQ_DIST_PORT: String(port + 1),
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: [
        '+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none',
        '-kernel inet_dist_use_interface {127,0,0,1}',
      ].join(' '),
    }
  }

  static async start(ground: Ground, at: number, settings: readonly string[]): Promise<Node> {
    const node = new Node(ground, at)
    ground.enter(node)
    const folder = join(ground.folder, `node-${at}`)
    const port = ground.firstPort + at * portsOfNode
    mkdirSync(folder)
    const lines = [
      `listeners.tcp.1 = 127.0.0.1:${port}`,
      `management.tcp.ip = 127.0.0.1`,
      `management.tcp.port = ${port + 2}`,
      `default_user = ${user}`,
      `default_pass = ${password}`,
      'cluster_formation.peer_discovery_backend = classic_config',
      `cluster_formation.classic_config.nodes.1 = ${nameOf(0)}`,
      'cluster_formation.randomized_startup_delay_range.min = 0',
      'cluster_formation.randomized_startup_delay_range.max = 1',
      ...settings,
    ]
    writeFileSync(join(folder, 'rabbitmq.conf'), `${lines.join('\n')}\n`)
    writeFileSync(join(folder, 'enabled_plugins'), '[rabbitmq_management].\n')
    if (ground.owner !== undefined) chownSync(folder, ground.owner.uid, ground.owner.gid)
    node.#process = await NativeProcess.start({
      name: node.node,
      command: [rabbitServer],
      env: node.#env,
      folder,
      ...ground.owner,
      startMsMax: 120_000,
      isReady: () => node.#answers(),
    })
    node.#proxy = await startFaultProxy({ target: { host: node.host, port } })
    return node
  }

  async #answers(): Promise<boolean> {
    if (!(await isListening(Number(new URL(this.directUrl).port)))) return false
    const model: ChannelModel = await connect(this.directUrl, { timeout: 5_000 })
    this.version = model.connection.serverProperties.version
    await model.close()
    return true
  }

  get proxy(): FaultProxy {
    if (this.#proxy === undefined) throw new Error(`${this.node} has not been started`)
    return this.#proxy
  }

  get port(): number {
    return this.proxy.port
  }

  get url(): string {
    return this.proxy.through(this.directUrl)
  }

  declareQueue(...queue: Parameters<RabbitService['declareQueue']>): Promise<void> {
    return declareQueue(this, ...queue)
  }

  async control(...args: string[]): Promise<string> {
    const options = { env: this.#env, cwd: this.#ground.folder, timeout: 60_000, ...this.#ground.owner }
    return (await promisify(execFile)(join(bin, 'rabbitmqctl'), args, options)).stdout
  }

  async pause(): Promise<void> {
    await this.#process?.pause()
  }

  async resume(): Promise<void> {
    await this.#process?.resume()
  }

  async kill(): Promise<void> {
    await this.#process?.kill()
  }

  async start(): Promise<void> {
    await this.#process?.start()
  }

  async stop(): Promise<void> {
    await this.#proxy?.close()
    // Its data goes anyway: an orderly end would take six seconds.
    await this.#process?.kill()
    await this.#process?.stop()
    await this.#ground.leave(this)
  }
}
