/**
 * The Docker engine that the tests use: the machine's own where one answers; else, as root and where `dockerd` is
 * installed, a private one with a socket and a data folder of its own, which publishes ports on 127.0.0.1 only and
 * lives as long as a run of the tests uses it (engine-keeper.ts).
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ContainerRuntimeClient } from 'testcontainers'
import { isAlive } from '../../examples/shop/process-tree.ts'
import { runPid } from './ledger.ts'

const START_MS_MAX = 60_000
const STOP_MS_MAX = 30_000
const PING_MS_MAX = 5_000

const systemSocket = '/var/run/docker.sock'
const runFolder = '/run/escrow-test-docker'

/** The private engine's. The images stay from run to run in `data`. */
export const privateEngine = {
  runFolder,
  /** A file for each process that uses it, named by its id. */
  usersFolder: join(runFolder, 'users'),
  socket: join(runFolder, 'docker.sock'),
  /** Where the socket is while the engine ends, which is said by its removal. */
  setAside: join(runFolder, 'docker.sock.closing'),
  pidFile: join(runFolder, 'dockerd.pid'),
  log: join(runFolder, 'dockerd.log'),
  data: '/var/lib/escrow-test-docker',
} as const

const { usersFolder, socket, setAside, pidFile } = privateEngine

/** Containers carry it, with the process id of the run that they belong to. */
export const runLabel = 'dev.escrow.test-run'

/** Finds the engine, or starts it, and removes containers of runs that were killed. Throws with the reason where there is none. */
export async function openEngine(): Promise<ContainerRuntimeClient> {
  if (process.env.DOCKER_HOST === undefined && !(await answers(systemSocket))) await openPrivateEngine()
  // Our own sweep does its work, and needs no image.
  process.env.TESTCONTAINERS_RYUK_DISABLED ??= 'true'
  const { getContainerRuntimeClient } = await import('testcontainers')
  let client: ContainerRuntimeClient
  try {
    client = await getContainerRuntimeClient()
  } catch (error) {
    throw new Error(`no Docker engine answers${whyNotPrivate()}`, { cause: error })
  }
  await sweep(client, (pid) => !isAlive(pid))
  return client
}

/** Ends what this run has left in the engine, and the private engine itself when nobody else uses it. */
export async function closeEngine({ wasUsed }: { wasUsed: boolean }): Promise<void> {
  const pid = runPid()
  try {
    if (wasUsed) await sweep(await openEngine(), (owner) => owner === pid)
  } catch (error) {
    // It is gone, and what ran in it with it, or the next run sweeps.
    console.log(`The Docker engine was not swept: ${error instanceof Error ? error.message : error}`)
  }
  rmSync(join(usersFolder, String(pid)), { force: true })
  const deadline = performance.now() + STOP_MS_MAX
  while ([pidFile, setAside].some(existsSync) && engineUsers().length === 0 && performance.now() < deadline)
    await sleep(50)
}

/** The living processes that use the private engine. */
export function engineUsers(): number[] {
  if (!existsSync(usersFolder)) return []
  return readdirSync(usersFolder).map(Number).filter(isAlive)
}

/** Whether an engine answers at this socket. */
export function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const asked = request({ socketPath, path: '/_ping', timeout: PING_MS_MAX }, (response) => {
      response.resume()
      resolve(response.statusCode === 200)
    })
    asked.on('timeout', () => asked.destroy()).on('error', () => resolve(false))
    asked.end()
  })
}

/** The engine's program, where it is installed. */
export function dockerd(): string | undefined {
  return ['/usr/sbin/dockerd', '/usr/bin/dockerd', '/usr/local/bin/dockerd'].find(existsSync)
}

function whyNotPrivate(): string {
  if (process.env.DOCKER_HOST !== undefined) return ` at DOCKER_HOST, ${process.env.DOCKER_HOST}`
  if (dockerd() === undefined) return ', and none is installed'
  return ', and only root can start the one that is installed'
}

async function openPrivateEngine(): Promise<void> {
  const program = dockerd()
  if (process.getuid?.() !== 0 || program === undefined) return
  // Said before we look: from here on the keeper knows that somebody needs the engine.
  mkdirSync(usersFolder, { recursive: true })
  writeFileSync(join(usersFolder, String(runPid())), '')
  let keeper: ChildProcess | undefined
  const deadline = performance.now() + START_MS_MAX
  while (!(await answers(socket))) {
    if (performance.now() > deadline) throw new Error(`dockerd: no answer in ${START_MS_MAX} ms`)
    // A keeper ends at once where another one has an engine; one that was just ending makes way for ours.
    if (keeper === undefined || keeper.exitCode !== null) keeper = startKeeper(program)
    await sleep(100)
  }
  process.env.DOCKER_HOST = `unix://${socket}`
}

function startKeeper(program: string): ChildProcess {
  const keeper = spawn(process.execPath, [join(import.meta.dirname, 'engine-keeper.ts'), program], {
    detached: true,
    stdio: 'ignore',
    cwd: '/',
    env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  })
  keeper.unref()
  return keeper
}

async function sweep(client: ContainerRuntimeClient, isOver: (pid: number) => boolean): Promise<void> {
  const { dockerode } = client.container
  const ours = await dockerode.listContainers({ all: true, filters: { label: [runLabel] } })
  for (const { Id, Labels } of ours) {
    if (!isOver(Number(Labels[runLabel]))) continue
    // Another run may be removing it as well.
    await dockerode
      .getContainer(Id)
      .remove({ force: true, v: true })
      .catch(() => {})
  }
}
