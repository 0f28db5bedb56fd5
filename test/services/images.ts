/**
 * The images that tests run: those of docker-compose.yml where a registry is reachable; else stand-ins built on this
 * machine from Debian's packages (the Dockerfiles in images/), under the public name of the version that they hold.
 */
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import type { ContainerRuntimeClient } from 'testcontainers'
import { composeService } from './compose.ts'

/** The stand-in of each service of docker-compose.yml that has one. */
const standIns = {
  postgres: 'postgres:15',
  rabbitmq: 'rabbitmq:3.10-management',
  redis: 'redis:7.0',
  nats: 'nats:2.9',
} as const

/** A service that tests can run in a container. */
export type ImageName = keyof typeof standIns

export const imageNames = Object.keys(standIns) as ImageName[]

const folder = join(import.meta.dirname, 'images')
const hashLabel = 'dev.escrow.dockerfile'
const suite = 'bookworm'
const base = { repo: 'debian', tag: `${suite}-slim` } as const
const PULL_MS_MAX = 300_000
const BUILD_MS_MAX = 300_000

/** The image to run: the one of docker-compose.yml, else its stand-in. Throws where neither is there. */
export async function imageOf(client: ContainerRuntimeClient, name: ImageName): Promise<string> {
  const { image } = composeService(name)
  for (const each of [image, standIns[name]]) if ((await labelsOf(client, each)) !== undefined) return each
  throw new Error(`neither the image ${image} nor ${standIns[name]} is there`)
}

/** Whether nothing is to be done: the image of docker-compose.yml is there, or its stand-in as its Dockerfile says. */
export async function hasImage(client: ContainerRuntimeClient, name: ImageName): Promise<boolean> {
  if ((await labelsOf(client, composeService(name).image)) !== undefined) return true
  return (await labelsOf(client, standIns[name]))?.[hashLabel] === hashOf(name)
}

/** Pulls the image of docker-compose.yml. */
export async function pullImage(client: ContainerRuntimeClient, name: ImageName): Promise<void> {
  const { dockerode } = client.container
  const abortSignal = AbortSignal.timeout(PULL_MS_MAX)
  await done(client, await dockerode.pull(composeService(name).image, { abortSignal }))
}

/** Builds the stand-in, and what it is based on; the packages come from where this machine's apt takes them. */
export async function buildImage(client: ContainerRuntimeClient, name: ImageName): Promise<void> {
  if ((await labelsOf(client, `${base.repo}:${base.tag}`)) === undefined) await buildBase(client)
  const context = { context: folder, src: filesOf(name) }
  const stream = await client.container.dockerode.buildImage(context, {
    dockerfile: `${name}.dockerfile`,
    t: standIns[name],
    labels: { [hashLabel]: hashOf(name) },
    // A proxy or a resolver on this machine's loopback serves the build as well.
    networkmode: 'host',
    buildargs: proxies(),
    forcerm: true,
    abortSignal: AbortSignal.timeout(BUILD_MS_MAX),
  })
  await done(client, stream)
  // What this one replaces, and nobody else's.
  await client.container.dockerode.pruneImages({ filters: { dangling: ['true'], label: [hashLabel] } })
}

async function labelsOf(
  client: ContainerRuntimeClient,
  image: string,
): Promise<Readonly<Record<string, string>> | undefined> {
  try {
    const { Config } = await client.container.dockerode.getImage(image).inspect()
    return Config.Labels ?? {}
  } catch (error) {
    if ((error as { statusCode?: number }).statusCode === 404) return undefined
    throw error
  }
}

function filesOf(name: ImageName): string[] {
  return readdirSync(folder).filter((file) => file.startsWith(`${name}.`) || file.startsWith(`${name}-`))
}

function hashOf(name: ImageName): string {
  const hash = createHash('sha256').update(suite)
  for (const file of filesOf(name).sort()) hash.update(file).update(readFileSync(join(folder, file)))
  return hash.digest('hex')
}

function proxies(): Record<string, string> {
  const names = ['http_proxy', 'https_proxy', 'no_proxy']
  return Object.fromEntries(names.map((each) => [each, process.env[each] ?? '']).filter(([, value]) => value))
}

/** Waits for the end of what the engine does, and throws what it complains of. */
async function done(client: ContainerRuntimeClient, stream: NodeJS.ReadableStream): Promise<void> {
  await new Promise<void>((resolve, reject) =>
    client.container.dockerode.modem.followProgress(
      stream,
      (error, said: { error?: string }[] | undefined) => {
        const complaint = error?.message ?? said?.find((each) => each.error !== undefined)?.error
        if (complaint === undefined) resolve()
        else reject(new Error(complaint))
      },
    ),
  )
}

/** A minimal Debian. */
async function buildBase(client: ContainerRuntimeClient): Promise<void> {
  const sources = aptSources()
  const mirror = sources.find(({ release, component }) => release === suite && component === 'main')?.uri
  if (mirror === undefined) throw new Error(`apt is not configured for Debian's ${suite}`)
  // Not in /tmp, which may be mounted without devices or programs.
  const root = mkdtempSync('/var/tmp/escrow-debian-')
  try {
    const args = ['--variant=minbase', '--include=ca-certificates', suite, root, mirror]
    await succeeded('debootstrap', args)
    const lines = sources.map(({ uri, release, component }) => `deb ${uri} ${release} ${component}\n`)
    writeFileSync(join(root, 'etc/apt/sources.list'), lines.join(''))
    writeFileSync(join(root, 'etc/apt/apt.conf.d/99-escrow'), aptProxies())
    // Installing a server must not start it.
    writeFileSync(join(root, 'usr/sbin/policy-rc.d'), '#!/bin/sh\nexit 101\n', { mode: 0o755 })
    await importFolder(client, root)
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
}

async function importFolder(client: ContainerRuntimeClient, root: string): Promise<void> {
  const left = [
    'proc/*',
    'sys/*',
    'usr/share/doc/*',
    'usr/share/man/*',
    'var/cache/apt/*',
    'var/lib/apt/lists/*',
  ]
  const tar = spawn('tar', ['-C', root, ...left.map((each) => `--exclude=./${each}`), '-c', '.'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const stream = (await client.container.dockerode.importImage(tar.stdout, base)) as Readable
  await done(client, stream)
}

interface AptSource {
  readonly uri: string
  readonly release: string
  readonly component: string
}

/** Debian's own archives as this machine's apt is configured, for the suite of the base. */
function aptSources(): AptSource[] {
  const codename = /^VERSION_CODENAME=(\S+)/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? suite
  const suites = [codename, `${codename}-updates`, `${codename}-security`]
  const format = '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)'
  const { stdout } = spawnSync('apt-get', ['indextargets', '--format', format, 'Created-By: Packages'], {
    encoding: 'utf8',
  })
  return (
    stdout
      .trim()
      .split('\n')
      .map((line) => line.split(' '))
      // The origin is known where apt has fetched its lists.
      .filter(([, , component, origin]) => component === 'main' && (origin ?? 'Debian') === 'Debian')
      .filter(([, release]) => suites.includes(release!))
      .map(([uri, release, component]) => ({
        uri: uri!,
        release: release!.replace(codename, suite),
        component: component!,
      }))
  )
}

/** Through which proxies this machine's apt goes, in apt's own words. */
function aptProxies(): string {
  const { stdout } = spawnSync('apt-config', ['dump'], { encoding: 'utf8' })
  return stdout
    .split('\n')
    .filter((line) => /^Acquire::https?::Proxy /i.test(line))
    .map((line) => `${line}\n`)
    .join('')
}

async function succeeded(program: string, args: readonly string[]): Promise<void> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], timeout: BUILD_MS_MAX })
  let last = ''
  const said = (text: Buffer): void => {
    last = String(text).trim().split('\n').at(-1) || last
  }
  child.stdout.on('data', said)
  child.stderr.on('data', said)
  const status = await new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message)).once('close', resolve)
  })
  if (status !== 0) throw new Error(`${program} ended with ${status}: ${last}`)
}
