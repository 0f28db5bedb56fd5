/**
 * `npm run services:setup`: installs what the tests can use and isn't there yet, and says what it can't install.
 * Nothing is started. Exits 0 as well when something is left out: the tests then name what did not run.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { findNode22, node22Folder, node22Version } from './node22.ts'
import { nativePostgresBin } from './postgres.ts'
import { hasRocketmq, installRocketmq, rocketmqVersion } from './rocketmq.ts'

interface Installable {
  readonly name: string
  /** Whether it is there already. */
  present(): boolean
  /** Debian packages, or a function that installs it and returns why it couldn't. */
  readonly from: readonly string[] | (() => string | undefined)
}

/** One line each. */
const installables: readonly Installable[] = [
  { name: 'PostgreSQL (native)', present: () => nativePostgresBin() !== undefined, from: ['postgresql'] },
  { name: `Node ${node22Version}`, present: hasNode22, from: installNode22 },
  { name: 'Java and Maven', present: hasJava, from: ['openjdk-17-jre-headless', 'maven'] },
  { name: `RocketMQ ${rocketmqVersion}`, present: hasRocketmq, from: installRocketmq },
]

const policyFile = '/usr/sbin/policy-rc.d'

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

for (const { name, present, from } of installables) {
  if (present()) {
    console.log(`${name}: there`)
    continue
  }
  const failure = typeof from === 'function' ? from() : installDebian(from)
  console.log(failure === undefined ? `${name}: installed` : `${name}: NOT installed: ${failure}`)
}
