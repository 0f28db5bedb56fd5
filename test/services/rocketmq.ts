import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { RocketmqAdmin, type TopicType } from '../../src/broker/rocketmq/admin.ts'
import type { BrokerService } from './broker-service.ts'
import { startFaultProxy } from './fault-proxy.ts'
import { freePorts, NativeProcess } from './native-process.ts'

/** The newest that the client's protocol was made for, and that runs on Java 17. */
export const rocketmqVersion = '5.3.3'

/** Where `npm run services:setup` puts the jars: ignored by git. */
const folder = join(import.meta.dirname, '../../node_modules/.cache/escrow-rocketmq')
const jars = join(folder, rocketmqVersion)

export interface RocketmqService extends BrokerService {
  /** Of the gRPC proxy itself. */
  readonly directPort: number
  readonly backend: 'native'
  readonly credentials: { readonly accessKey: string; readonly accessSecret: string }
  /** Of the name server, reached directly. */
  readonly nameServers: string
  createTopic(topic: string, type: TopicType): Promise<void>
}

/** Settings of the broker, or of the proxy, beside those of the tests. */
export interface RocketmqServiceOptions {
  readonly broker?: Readonly<Record<string, string | number | boolean>> | undefined
  readonly proxy?: Readonly<Record<string, string | number | boolean>> | undefined
}

/** Whether the setup has put the jars in their place. */
export const hasRocketmq = (): boolean => existsSync(jars)

/** Fetches the jars from Maven Central. Answers why it couldn't. */
export function installRocketmq(): string | undefined {
  if (spawnSync('mvn', ['--version']).status !== 0) return 'Maven (mvn) is not there'
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const artifacts = ['rocketmq-namesrv', 'rocketmq-proxy'].map(
    (name) =>
      `<dependency><groupId>org.apache.rocketmq</groupId><artifactId>${name}</artifactId><version>${rocketmqVersion}</version></dependency>`,
  )
  const pom = `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>escrow.test</groupId><artifactId>rocketmq</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>${artifacts.join('\n')}</dependencies></project>`
  writeFileSync(join(folder, 'pom.xml'), pom)
  const args = ['-q', '-B', 'dependency:copy-dependencies', '-DoutputDirectory=fetched']
  const { status, stdout, error } = spawnSync('mvn', args, {
    cwd: folder,
    encoding: 'utf8',
    timeout: 600_000,
  })
  if (status !== 0) return error?.message ?? stdout.trim().split('\n')[0]
  // Only what is complete has the name that is looked for.
  renameSync(join(folder, 'fetched'), jars)
  return undefined
}

/** The only user whom the servers know; whoever comes without is refused. */
const CREDENTIALS = { accessKey: 'escrow', accessSecret: 'in-tests-only' }
const AUTHENTICATION = 'org.apache.rocketmq.auth.authentication.provider'
const innerCredentials = JSON.stringify({
  accessKey: CREDENTIALS.accessKey,
  secretKey: CREDENTIALS.accessSecret,
})

const OPENED = ['java.nio', 'java.lang', 'java.util', 'jdk.internal.ref']

/** What runs RocketMQ's main classes. Its own scripts ask for 12 GB, and know nothing of Java 17. */
function java(home: string, megabytes: number, main: string): [string, ...string[]] {
  return [
    'java',
    '-XX:+UseSerialGC',
    `-Xmx${megabytes}m`,
    '-XX:MaxDirectMemorySize=512m',
    `-Duser.home=${home}`,
    '--add-exports=java.base/sun.nio.ch=ALL-UNNAMED',
    ...OPENED.map((name) => `--add-opens=java.base/${name}=ALL-UNNAMED`),
    '-cp',
    `${jars}/*`,
    main,
  ]
}

const properties = (all: Readonly<Record<string, string | number | boolean>>) =>
  Object.entries(all)
    .map(([name, value]) => `${name}=${value}\n`)
    .join('')

/**
 * A name server, and a broker with its proxy in one Java process, natively, on free ports of 127.0.0.1. It flushes before it
 * confirms, and asks after half messages every two seconds. Throws with the reason where it can't be had.
 */
export async function startRocketmq(options: RocketmqServiceOptions = {}): Promise<RocketmqService> {
  if (!hasRocketmq()) throw new Error(`RocketMQ ${rocketmqVersion} is not installed`)
  if (spawnSync('java', ['-version']).status !== 0) throw new Error('no Java is installed on this machine')
  const nameServerPort = await freePorts()
  // A broker takes the second port below its own, and the next one above it.
  const first = await freePorts(5)
  const ports = { nameServer: nameServerPort, grpc: first + 1, broker: first + 2, remoting: first + 4 }
  const nameServers = `127.0.0.1:${ports.nameServer}`
  const admin = new RocketmqAdmin({
    nameServers: [nameServers],
    credentials: CREDENTIALS,
    requestTimeoutMs: 10_000,
  })
  const nameServer = await startNameServer(ports)
  try {
    const broker = await startBroker(ports, nameServers, options, async () => {
      return (await answers(ports.grpc)) && (await admin.masters('DefaultCluster')).length > 0
    })
    return await service({ nameServer, broker, nameServers, grpcPort: ports.grpc, admin })
  } catch (error) {
    await nameServer.stop()
    throw error
  }
}

type Ports = Readonly<Record<'nameServer' | 'grpc' | 'broker' | 'remoting', number>>

async function startNameServer(ports: Ports): Promise<NativeProcess> {
  const home = mkdtempSync(join(tmpdir(), 'escrow-rocketmq-ns-'))
  const settings = { listenPort: ports.nameServer, bindAddress: '127.0.0.1' }
  writeFileSync(join(home, 'namesrv.conf'), properties(settings))
  const main = 'org.apache.rocketmq.namesrv.NamesrvStartup'
  return await NativeProcess.start({
    name: 'RocketMQ name server',
    command: [...java(home, 128, main), '-c', 'namesrv.conf'],
    env: { PATH: process.env.PATH ?? '', ROCKETMQ_HOME: home },
    folder: home,
    isReady: (log) => log.includes('boot success'),
  })
}

async function startBroker(
  ports: Ports,
  nameServers: string,
  options: RocketmqServiceOptions,
  isReady: () => Promise<boolean>,
): Promise<NativeProcess> {
  const home = mkdtempSync(join(tmpdir(), 'escrow-rocketmq-'))
  const ofBroker = { ...brokerSettings(home, ports.broker), ...options.broker }
  writeFileSync(join(home, 'broker.conf'), properties(ofBroker))
  writeFileSync(join(home, 'rmq-proxy.json'), JSON.stringify({ ...proxySettings(ports), ...options.proxy }))
  const args = ['-pm', 'local', '-n', nameServers, '-bc', 'broker.conf', '-pc', 'rmq-proxy.json']
  return await NativeProcess.start({
    name: 'RocketMQ broker',
    command: [...java(home, 768, 'org.apache.rocketmq.proxy.ProxyStartup'), ...args],
    env: { PATH: process.env.PATH ?? '', ROCKETMQ_HOME: home },
    folder: home,
    isReady,
    startMsMax: 120_000,
  })
}

const proxySettings = (ports: Ports) => ({
  rocketMQClusterName: 'DefaultCluster',
  grpcServerPort: ports.grpc,
  remotingListenPort: ports.remoting,
  authenticationEnabled: true,
  authenticationProvider: `${AUTHENTICATION}.DefaultAuthenticationProvider`,
  authenticationMetadataProvider: 'org.apache.rocketmq.proxy.auth.ProxyAuthenticationMetadataProvider',
  innerClientAuthenticationCredentials: innerCredentials,
})

async function answers(port: number): Promise<boolean> {
  const socket = connect({ port, host: '127.0.0.1' })
  try {
    await once(socket, 'connect')
    return true
  } finally {
    socket.destroy()
  }
}

function brokerSettings(home: string, port: number) {
  return {
    brokerClusterName: 'DefaultCluster',
    brokerName: 'broker-a',
    brokerId: 0,
    brokerIP1: '127.0.0.1',
    listenPort: port,
    storePathRootDir: join(home, 'store'),
    mappedFileSizeCommitLog: 16 << 20,
    diskMaxUsedSpaceRatio: 95,
    flushDiskType: 'SYNC_FLUSH',
    autoCreateTopicEnable: false,
    enableMixedMessageType: true,
    authenticationEnabled: true,
    authenticationProvider: `${AUTHENTICATION}.DefaultAuthenticationProvider`,
    authenticationMetadataProvider: `${AUTHENTICATION}.LocalAuthenticationMetadataProvider`,
    initAuthenticationUser: JSON.stringify({
      username: CREDENTIALS.accessKey,
      password: CREDENTIALS.accessSecret,
    }),
    innerClientAuthenticationCredentials: innerCredentials,
    transactionTimeOut: 2_000,
    transactionCheckInterval: 2_000,
    // Above the time-out it would ask after what has been settled.
    transactionOpBatchInterval: 200,
  }
}

interface Parts {
  readonly nameServer: NativeProcess
  readonly broker: NativeProcess
  readonly nameServers: string
  readonly grpcPort: number
  readonly admin: RocketmqAdmin
}

async function service(parts: Parts): Promise<RocketmqService> {
  const { nameServer, broker, nameServers, grpcPort, admin } = parts
  const proxy = await startFaultProxy({ target: { host: '127.0.0.1', port: grpcPort } })
  return {
    backend: 'native',
    version: rocketmqVersion,
    host: proxy.host,
    port: proxy.port,
    directPort: grpcPort,
    proxy,
    credentials: CREDENTIALS,
    nameServers,
    createTopic: (topic, type) => admin.createTopic(topic, type),
    pause: () => broker.pause(),
    resume: () => broker.resume(),
    kill: () => broker.kill(),
    start: () => broker.start(),
    async stop() {
      await proxy.close()
      await broker.kill()
      await Promise.all([broker.stop(), nameServer.stop()])
    },
  }
}
