/**
 * `npm run services:setup`: installs what the tests can use and isn't there yet, and says what it can't install.
 * What it starts for that, a Docker engine, is ended. Exits 0 as well when something is left out: the tests then name
 * what did not run.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import type { ContainerRuntimeClient } from 'testcontainers'
import { composeCommand } from './compose.ts'
import { closeEngine, dockerd, openEngine } from './engine.ts'
import { buildImage, hasImage, type ImageName, imageNames, pullImage } from './images.ts'
import { findKafka, kafkaFolder, kafkaJars, kafkaVersion } from './kafka.ts'
import { natsVersion } from './nats.ts'
import { findNode22, node22Folder, node22Version } from './node22.ts'
import { nativePostgresBin } from './postgres.ts'
import { rabbitServer } from './rabbitmq.ts'
import { redisVersion } from './redis.ts'
import { hasRocketmq, installRocketmq, rocketmqVersion } from './rocketmq.ts'

interface Installable {
  readonly name: string
  /** Whether it is there already. */
  present(): boolean | Promise<boolean>
  /** Debian packages, or a function that installs it and returns why it couldn't. */
  readonly from: readonly string[] | (() => string | undefined | Promise<string | undefined>)
}

/** One line each. */
const installables: readonly Installable[] = [
  { name: 'PostgreSQL (native)', present: () => nativePostgresBin() !== undefined, from: ['postgresql'] },
  { name: 'Redis', present: () => redisVersion() !== undefined, from: ['redis-server'] },
  { name: 'NATS', present: () => natsVersion() !== undefined, from: ['nats-server'] },
  { name: 'RabbitMQ', present: () => existsSync(rabbitServer), from: ['rabbitmq-server'] },
  { name: 'Java and Maven', present: hasJava, from: ['openjdk-17-jre-headless', 'maven'] },
  { name: `Kafka ${kafkaVersion}`, present: hasKafka, from: () => installJars(kafkaFolder, kafkaJars) },
  { name: `RocketMQ ${rocketmqVersion}`, present: hasRocketmq, from: installRocketmq },
  { name: `Node ${node22Version}`, present: hasNode22, from: installNode22 },
  {
    name: 'Docker',
    present: hasDocker,
    // What the packages only recommend, and an engine may need on a machine that has little else.
    from: ['docker.io', 'iptables', 'iproute2', 'apparmor', 'cgroupfs-mount', 'debootstrap'],
  },
  { name: 'Docker Compose', present: () => composeCommand() !== undefined, from: ['docker-compose'] },
  ...imageNames.map((name) => ({
    name: `image of ${name}`,
    present: async () => hasImage(await engine(), name),
    from: () => installImage(name),
  })),
]

let found: ContainerRuntimeClient | undefined

async function engine(): Promise<ContainerRuntimeClient> {
  found ??= await openEngine()
  return found
}

async function hasDocker(): Promise<boolean> {
  return (
    dockerd() !== undefined ||
    (await openEngine().then(
      () => true,
      () => false,
    ))
  )
}

/** Why nothing is pulled any more; one try tells that no registry is reachable. */
let noRegistry: string | undefined

async function installImage(name: ImageName): Promise<string | undefined> {
  const client = await engine()
  if (noRegistry === undefined) {
    try {
      await pullImage(client, name)
      return undefined
    } catch (error) {
      noRegistry = firstLine(error)
    }
  }
  try {
    await buildImage(client, name)
    return undefined
  } catch (error) {
    return `${firstLine(error)}; and it can't be pulled: ${noRegistry}`
  }
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0]!
}

const policyFile = '/usr/sbin/policy-rc.d'

function hasKafka(): boolean {
  try {
    return findKafka() !== ''
  } catch {
    return false
  }
}

/** Puts the jars, `group:artifact:version`, and all that they need into `lib` below the folder. */
function installJars(folder: string, jars: readonly string[]): string | undefined {
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const dependencies = jars.map((jar) => {
    const [group, artifact, version] = jar.split(':')
    return `<dependency><groupId>${group}</groupId><artifactId>${artifact}</artifactId><version>${version}</version></dependency>`
  })
  writeFileSync(
    `${folder}/pom.xml`,
    `<project><modelVersion>4.0.0</modelVersion><groupId>escrow</groupId><artifactId>jars</artifactId><version>1</version><dependencies>${dependencies.join('')}</dependencies></project>`,
  )
  return run('mvn', ['-q', '-B', 'dependency:copy-dependencies', '-DoutputDirectory=lib'], folder)
}

function hasJava(): boolean {
  return run('java', ['-version']) === undefined && run('mvn', ['--version']) === undefined
}

function hasNode22(): boolean {
  try {
    return findNode22().version === node22Version
  } catch {
    return false
  }
}

function installNode22(): string | undefined {
  rmSync(node22Folder, { recursive: true, force: true })
  mkdirSync(node22Folder, { recursive: true })
  // A package of its own: the repository's lock stays as it is, and npm may run the one script that fetches Node.
  const manifest = { private: true, dependencies: { node: node22Version }, allowScripts: { node: true } }
  writeFileSync(`${node22Folder}/package.json`, JSON.stringify(manifest))
  const failure = run('npm', ['install', '--no-package-lock', '--no-audit', '--no-fund'], node22Folder)
  return failure ?? (hasNode22() ? undefined : 'npm installed it, but it does not run')
}

function installDebian(packages: readonly string[]): string | undefined {
  // Another apt may be at work, as on a machine that has just been started.
  const command = `apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends ${packages.join(' ')}`
  if (process.getuid?.() !== 0) return `only root can; run as root: ${command}`
  if (!existsSync('/usr/bin/apt-get')) return 'this machine has no apt-get'
  const [program, ...args] = command.split(' ')
  return withoutAutoStart(() => {
    if (run(program!, args) === undefined) return undefined
    // The usual reason is a package list that is empty or old.
    return run(program!, ['-o', 'Acquire::Retries=3', 'update']) ?? run(program!, args)
  })
}

/** Debian starts a service as soon as it is installed, on its default port; the tests start their own. */
function withoutAutoStart<T>(install: () => T): T {
  if (existsSync(policyFile)) return install()
  writeFileSync(policyFile, '#!/bin/sh\nexit 101\n', { mode: 0o755 })
  try {
    return install()
  } finally {
    rmSync(policyFile)
  }
}

/** Runs a command and returns the last line of its complaint, or undefined when it succeeded. */
function run(program: string, args: readonly string[], cwd = '/'): string | undefined {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  const result = spawnSync(program, args, { cwd, env, encoding: 'utf8', timeout: 600_000 })
  if (result.status === 0) return undefined
  return (
    result.error?.message ??
    (result.stderr.trim().split('\n').at(-1) || `${program} ended with ${result.status}`)
  )
}

async function install({ present, from }: Installable): Promise<string> {
  try {
    if (await present()) return 'there'
    const failure = typeof from === 'function' ? await from() : installDebian(from)
    return failure === undefined ? 'installed' : `NOT installed: ${failure}`
  } catch (error) {
    return `NOT installed: ${firstLine(error)}`
  }
}

for (const each of installables) {
  const from = performance.now()
  const result = await install(each)
  console.log(`${each.name}: ${result} (${((performance.now() - from) / 1000).toFixed(1)} s)`)
}
await closeEngine({ wasUsed: false })
