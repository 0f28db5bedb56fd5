/**
 * Runs the private Docker engine for as long as a process of the tests uses it; started by engine.ts, in the
 * background, with the path of `dockerd`.
 *
 * | state   | socket      | users     | leaves by                                                     |
 * |---------|-------------|-----------|---------------------------------------------------------------|
 * | running | at its path | some      | the last one leaves or dies: closing                          |
 * | closing | set aside   | none      | somebody came meanwhile: running; else `dockerd` is told to end |
 * | ended   | none        | they wait for the next keeper                                             |
 *
 * When the keeper is killed, Linux ends `dockerd` with it, which ends its containers.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { isAlive } from '../../examples/shop/process-tree.ts'
import { engineUsers, privateEngine } from './engine.ts'

const LOOK_MS = 200
/** How long a run may be between two uses, or a setup before the tests: starting again would cost a second. */
const GRACE_LOOKS = 3

const { runFolder, usersFolder, socket, setAside, pidFile, log, data } = privateEngine
const [program] = process.argv.slice(2)

mkdirSync(runFolder, { recursive: true, mode: 0o700 })
const configuration = join(runFolder, 'daemon.json')
// Of its own, so that the machine's configuration doesn't mix in.
writeFileSync(
  configuration,
  JSON.stringify({
    hosts: [`unix://${socket}`],
    'data-root': data,
    'exec-root': join(runFolder, 'exec'),
    pidfile: pidFile,
    ip: '127.0.0.1',
    'log-level': 'warn',
  }),
)

const output = openSync(log, 'a')
const engine = spawn(
  '/usr/bin/setpriv',
  ['--pdeathsig', 'TERM', '--', program!, '--config-file', configuration],
  {
    stdio: ['ignore', output, output],
    cwd: '/',
  },
)
closeSync(output)
const ended = once(engine, 'exit')

for (let unused = 0; engine.exitCode === null && engine.signalCode === null; ) {
  await Promise.race([sleep(LOOK_MS), ended])
  unused = engineUsers().length > 0 ? 0 : unused + 1
  if (unused < GRACE_LOOKS || !existsSync(socket)) continue
  // Who asks now finds no engine and waits; who asked before has said so, and is seen here.
  renameSync(socket, setAside)
  if (engineUsers().length > 0) renameSync(setAside, socket)
  else engine.kill('SIGTERM')
}
await ended
// A process id may be given again: what a killed run has left must not count then.
for (const pid of readdirSync(usersFolder)) if (!isAlive(Number(pid))) rmSync(join(usersFolder, pid))
rmSync(setAside, { force: true })
// A last look may still be waited for.
process.exit()
