import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { Admin } from '@platformatic/kafka'
import { until } from '../harness/until.ts'
import type { BrokerService } from './broker-service.ts'
import { type FaultProxy, startFaultProxy } from './fault-proxy.ts'
import { freePorts, NativeProcess } from './native-process.ts'

/** Of the broker, not of its protocol. */
export const kafkaVersion = '4.4.0'

/** Where `npm run services:setup` puts the jars: ignored by git. */
export const kafkaFolder: string = join(import.meta.dirname, '../../node_modules/.cache/escrow-kafka')

/** What Maven resolves into that folder's `lib`. */
export const kafkaJars: readonly string[] = [
  `org.apache.kafka:kafka_2.13:${kafkaVersion}`,
  // Kafka's own code speaks slf4j 1; without a binding it says nothing, not even why it doesn't start.
  'org.apache.logging.log4j:log4j-slf4j-impl:2.26.1',
]

/** The class path of the Kafka that the setup installed. Throws when it, or Java, isn't there. */
export function findKafka(): string {
  const lib = join(kafkaFolder, 'lib')
  const found = existsSync(lib) && readdirSync(lib).includes(`kafka_2.13-${kafkaVersion}.jar`)
  if (!found) throw new Error(`Kafka ${kafkaVersion} is not installed`)
  if (spawnSync('java', ['-version']).status !== 0) throw new Error('Java is not installed')
  return join(lib, '*')
}

export interface KafkaOptions {
  /** By SASL PLAIN; default: clients need none. */
  readonly credentials?: { readonly username: string; readonly password: string } | undefined
  /** Clients are sent to the server itself, not to its proxy: for measuring. Default false. */
  readonly isDirect?: boolean | undefined
}

export interface KafkaTopicSettings {
  /** Default 1. */
  readonly partitions?: number
  /** Default 1. */
  readonly replicas?: number
  readonly configs?: Readonly<Record<string, string>>
}

export interface KafkaCluster {
  readonly version: string
  /** Addresses for clients, `host:port`. */
  readonly brokers: readonly string[]
  readonly nodes: readonly KafkaNode[]
  createTopic(topic: string, settings?: KafkaTopicSettings): Promise<void>
  /** The node that leads a partition now. */
  leader(topic: string, partition: number): Promise<KafkaNode>
  stop(): Promise<void>
}

/** One node: broker and controller in one process. Its clients reach it through its proxy alone. */
export interface KafkaNode {
  readonly id: number
  readonly proxy: FaultProxy
  readonly server: NativeProcess
}

export interface KafkaService extends BrokerService {
  readonly brokers: readonly string[]
  createTopic(topic: string, settings?: KafkaTopicSettings): Promise<void>
}

/** Starts one node. Kafka flushes nothing by itself, by its own default: a killed process loses nothing, a machine may. */
export async function startKafka(options: KafkaOptions = {}): Promise<KafkaService> {
  const { nodes, ...cluster } = await startKafkaCluster(1, options)
  const { proxy, server } = nodes[0] as KafkaNode
  return {
    ...cluster,
    backend: 'native',
    host: proxy.host,
    port: proxy.port,
    proxy,
    pause: () => server.pause(),
    resume: () => server.resume(),
    kill: () => server.kill(),
    start: () => server.start(),
  }
}

/** Starts `count` nodes that replicate to each other, each of which can be killed by itself. */
export async function startKafkaCluster(count: number, options: KafkaOptions = {}): Promise<KafkaCluster> {
  const classPath = findKafka()
  // For each node: clients, other nodes, controllers.
  const firstPort = await freePorts(count * 3)
  const starting = Array.from({ length: count }, (_, at) => prepare(at + 1, count, firstPort, options))
  const layouts = await Promise.all(starting)
  const servers = await Promise.allSettled(layouts.map((layout) => run(layout, classPath)))
  const started = servers.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []))
  async function stop(): Promise<void> {
    await Promise.all(started.map((server) => server.stop()))
    await Promise.all(layouts.map(({ proxy }) => proxy.close()))
  }
  const failed = servers.find((each) => each.status === 'rejected')
  if (failed !== undefined) {
    await stop()
    throw failed.reason
  }
  const brokers = layouts.map((layout) => layout.address)
  const nodes = layouts.map(({ id, proxy }, at) => ({ id, proxy, server: started[at] as NativeProcess }))
  return {
    version: kafkaVersion,
    brokers,
    nodes,
    leader: async (topic, partition) =>
      nodes[(await leaderId(brokers, options, topic, partition)) - 1] as KafkaNode,
    createTopic: (topic, settings) => createTopic(brokers, options, topic, settings),
    stop,
  }
}

interface Layout {
  readonly id: number
  readonly folder: string
  /** Of the server itself. */
  readonly port: number
  /** Where clients are sent to. */
  readonly address: string
  readonly proxy: FaultProxy
}

async function prepare(id: number, count: number, firstPort: number, options: KafkaOptions): Promise<Layout> {
  const folder = mkdtempSync(join(tmpdir(), 'escrow-kafka-'))
  const ports = (node: number) => {
    const first = firstPort + (node - 1) * 3
    return { clients: first, nodes: first + 1, controllers: first + 2 }
  }
  const own = ports(id)
  const proxy = await startFaultProxy({ target: { host: '127.0.0.1', port: own.clients } })
  const address = `127.0.0.1:${options.isDirect === true ? own.clients : proxy.port}`
  const voters = Array.from({ length: count }, (_, at) => `${at + 1}@127.0.0.1:${ports(at + 1).controllers}`)
  const copies = Math.min(count, 3)
  const minInsync = Math.min(count, 2)
  const settings: Record<string, string | number> = {
    'process.roles': 'broker,controller',
    'node.id': id,
    'controller.quorum.voters': voters.join(','),
    listeners: `CLIENTS://127.0.0.1:${own.clients},NODES://127.0.0.1:${own.nodes},CONTROLLERS://127.0.0.1:${own.controllers}`,
    'advertised.listeners': `CLIENTS://${address},NODES://127.0.0.1:${own.nodes}`,
    'listener.security.protocol.map': `CLIENTS:${options.credentials ? 'SASL_PLAINTEXT' : 'PLAINTEXT'},NODES:PLAINTEXT,CONTROLLERS:PLAINTEXT`,
    'inter.broker.listener.name': 'NODES',
    'controller.listener.names': 'CONTROLLERS',
    'log.dirs': join(folder, 'data'),
    'offsets.topic.replication.factor': copies,
    'offsets.topic.num.partitions': 3,
    'transaction.state.log.replication.factor': copies,
    'transaction.state.log.min.isr': minInsync,
    'transaction.state.log.num.partitions': 3,
    'share.coordinator.state.topic.replication.factor': copies,
    'share.coordinator.state.topic.min.isr': minInsync,
    'group.initial.rebalance.delay.ms': 0,
    // A node that was killed may come back once its session has ended, 9 s by default: alone, it need not wait for that.
    ...(count === 1 && { 'broker.session.timeout.ms': 1_000, 'broker.heartbeat.interval.ms': 250 }),
    ...(options.credentials && saslSettings(options.credentials)),
  }
  const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}\n`)
  writeFileSync(join(folder, 'server.properties'), lines.join(''))
  writeFileSync(join(folder, 'log4j2.properties'), logging)
  mkdirSync(join(folder, 'data'))
  return { id, folder, port: own.clients, address, proxy }
}

function saslSettings({
  username,
  password,
}: {
  username: string
  password: string
}): Record<string, string> {
  const login = 'org.apache.kafka.common.security.plain.PlainLoginModule'
  return {
    'sasl.enabled.mechanisms': 'PLAIN',
    'listener.name.clients.plain.sasl.jaas.config': `${login} required user_${username}="${password}";`,
  }
}

const logging = `rootLogger.level=warn
rootLogger.appenderRef.stdout.ref=stdout
appender.stdout.type=Console
appender.stdout.name=stdout
appender.stdout.layout.type=PatternLayout
appender.stdout.layout.pattern=[%d] %p %m (%c)%n
logger.server.name=kafka.server.KafkaRaftServer
logger.server.level=info
logger.begun.name=org.apache.kafka.common.utils.LoggingSignalHandler
logger.begun.level=info
`

async function run({ id, folder, port }: Layout, classPath: string): Promise<NativeProcess> {
  const java = ['-XX:+UseSerialGC', '-Dlog4j2.configurationFile=log4j2.properties', '-cp', classPath]
  // All nodes of a cluster have the same id for it.
  const format = [
    'kafka.tools.StorageTool',
    'format',
    '-t',
    'escrowtestsAAAAAAAAAAA',
    '-c',
    'server.properties',
  ]
  const formatted = spawnSync('java', [...java, ...format], { cwd: folder, encoding: 'utf8' })
  if (formatted.status !== 0) throw new Error(`Kafka's storage: ${formatted.stderr || formatted.stdout}`)
  return await NativeProcess.start({
    name: `Kafka node ${id}`,
    command: ['java', '-Xmx512m', ...java, 'kafka.Kafka', 'server.properties'],
    folder,
    // The log still has what an earlier start said; a port that is open belongs to this one.
    isReady: async (log) =>
      (await isOpen(port)) && log.lastIndexOf('Kafka Server started') > log.lastIndexOf('signal handlers'),
  })
}

async function isOpen(port: number): Promise<boolean> {
  const socket = connect({ host: '127.0.0.1', port })
  return await new Promise<boolean>((resolve) => {
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
  }).finally(() => socket.destroy())
}

function admin(brokers: readonly string[], { credentials }: KafkaOptions): Admin {
  return new Admin({
    clientId: 'escrow-tests',
    bootstrapBrokers: [...brokers],
    ...(credentials && { sasl: { mechanism: 'PLAIN', ...credentials } }),
  })
}

async function createTopic(
  brokers: readonly string[],
  options: KafkaOptions,
  topic: string,
  { partitions = 1, replicas = 1, configs = {} }: KafkaTopicSettings = {},
): Promise<void> {
  const creator = admin(brokers, options)
  try {
    const settings = Object.entries(configs).map(([name, value]) => ({ name, value }))
    // A node that was paused or has just been started is fenced for a moment: until it isn't, no topic can be placed.
    await until(`${topic} is created`, async () => {
      try {
        await creator.createTopics({ topics: [topic], partitions, replicas, configs: settings })
      } catch (error) {
        if (!inspect(error, { depth: 5 }).includes('TOPIC_ALREADY_EXISTS')) throw error
      }
      return true
    })
  } finally {
    await creator.close()
  }
  // Its creator knows it first; each node learns of it by itself.
  for (const broker of brokers) await isKnown(broker, options, topic)
}

async function isKnown(broker: string, options: KafkaOptions, topic: string): Promise<void> {
  const asker = admin([broker], options)
  try {
    await until(`${broker} knows ${topic}`, async () => {
      const { topics } = await asker.metadata({ topics: [topic], forceUpdate: true })
      return topics.get(topic)?.partitions.every(({ leader }) => leader > 0)
    })
  } finally {
    await asker.close()
  }
}

async function leaderId(
  brokers: readonly string[],
  options: KafkaOptions,
  topic: string,
  partition: number,
): Promise<number> {
  const asker = admin(brokers, options)
  try {
    const { topics } = await asker.metadata({ topics: [topic], forceUpdate: true })
    return topics.get(topic)?.partitions[partition]?.leader ?? -1
  } finally {
    await asker.close()
  }
}
