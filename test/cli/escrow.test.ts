import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { ERROR_CODES } from '../../src/core/errors.ts'
import { until } from '../harness/until.ts'
import { type Ended, READY, Running } from './process.ts'

const version: string = JSON.parse(
  readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
).version

let folder: string
const running: Running[] = []

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'escrow-cli-'))
})
afterEach(async () => {
  for (const each of running.splice(0)) {
    each.child.kill('SIGKILL')
    await each.ended
  }
  rmSync(folder, { recursive: true, force: true })
})

function start(args: string[], env?: Record<string, string>): Running {
  const each = new Running(args, { cwd: folder, ...(env && { env }) })
  running.push(each)
  return each
}
const escrow = (args: string[], env?: Record<string, string>): Promise<Ended> => start(args, env).ended

interface Served {
  readonly process: Running
  readonly address: string
  readonly http: string
}

async function serve(args: string[] = [], env?: Record<string, string>): Promise<Served> {
  const process = start(['serve', '--grpc-port', '0', '--http-port', '0', ...args], env)
  const [, grpc, http] = await process.says(READY)
  return { process, address: `127.0.0.1:${grpc}`, http: `127.0.0.1:${http}` }
}

async function post({ http }: Served, method: string, body: unknown): Promise<Record<string, unknown>> {
  const answer = await fetch(`http://${http}/escrow.v1.CoordinatorService/${method}`, {
    method: 'POST',
    body: JSON.stringify(body),
    headers: { 'content-type': 'application/json' },
  })
  const text = await answer.text()
  if (!answer.ok) throw new Error(text)
  return JSON.parse(text)
}

describe('the command line', () => {
  test('shows who has which log, and what to do where nobody answers', async () => {
    const served = await serve()
    const where = ['--http-address', served.http]
    const { code, out } = await escrow(['nodes', ...where])
    expect(code).toBe(0)
    expect(out).toMatch(/^NODE +STATE +STARTED +SILENT FOR +LOGS\n\(alone\) +here +\S+Z +0\.0 s +1 of 1\n$/)
    const logs = await escrow(['logs', ...where])
    expect(logs.out).toMatch(/^LOG .*\n0 +\(alone\) +\S+Z +1 +0 +0 \(0 behind\)/)
    const json = JSON.parse((await escrow(['logs', ...where, '--json'])).out)
    expect(json).toMatchObject({ logs: 1, nodes: [{ state: 'NODE_STATE_HERE', logs: [{ epoch: '1' }] }] })
    served.process.child.kill('SIGKILL')
    await served.process.ended
    const nobody = await escrow(['logs', ...where])
    expect(nobody).toMatchObject({ code: 3 })
    expect(nobody.err).toContain(`no coordinator answers at http://${served.http}`)
  })

  test('tells its version and its help', async () => {
    expect(await escrow(['--version'])).toMatchObject({ code: 0, out: `${version}\n`, err: '' })
    const { code, out } = await escrow(['--help'])
    expect(code).toBe(0)
    expect(out).toContain('Usage: escrow COMMAND')
    const names = ['serve', 'get', 'list', 'commit', 'rollback', 'retry', 'skip', 'compensate']
    names.push(
      ...['start', 'slip', 'signal', 'cancel', 'complete', 'migrate', 'list', 'diagram'].map(
        (name) => `saga ${name}`,
      ),
    )
    names.push('explain', 'health')
    const helps = await Promise.all(names.map((name) => escrow([...name.split(' '), '--help'])))
    names.forEach((name, at) => {
      expect(out).toMatch(new RegExp(`^  ${name} +\\w`, 'm'))
      expect(helps[at]).toMatchObject({ code: 0, out: expect.stringContaining(`Usage: escrow ${name}`) })
    })
    expect(await escrow([])).toMatchObject({ code: 2 })
  })

  test.each([
    [['frob'], 'there is no command "frob"'],
    [['get'], 'usage: escrow get ID'],
    [['get', 'a', 'b'], 'usage: escrow get ID'],
    [['get', 'a', '--frob'], "Unknown option '--frob'"],
    [['get', 'a', '--address', 'x'], '--address "x" is not HOST:PORT'],
    [['get', 'a', '--address', 'x:1,'], '--address "x:1," is not HOST:PORT, or several with commas'],
    [['get', 'a', '--timeout-ms', '0'], '--timeout-ms "0" is not a whole number, 1-3600000'],
    [['list', '--status', 'gone'], '--status "gone" is none of prepared'],
    [['list', '--kind', 'both'], '--kind "both" is none of message, saga'],
    [['list', '--tag', 'x'], '--tag "x" is not KEY=VALUE'],
    [['list', '--tag', 'x=1', '--tag', 'x=2'], '--tag gives "x" twice'],
    [['skip', 'a'], 'skip needs --execution'],
    [['saga', 'frob'], 'there is no command "saga frob": one of saga start, saga slip'],
    [['saga', 'start'], 'usage: escrow saga start NAME'],
    [['saga', 'start', 'a', '--input', '{'], '--input is not JSON'],
    [['saga', 'start', 'a', '--tag', 'x'], '--tag "x" is not KEY=VALUE'],
    [['saga', 'start', 'a', '--version', '0'], '--version "0" is not a whole number, 1-1000000'],
    [['saga', 'signal', 'a'], 'usage: escrow saga signal ID NAME'],
    [
      ['saga', 'complete', 'a', 'b', '--result', '1', '--failed', 'x'],
      '--result and --failed exclude each other',
    ],
    [['saga', 'migrate', 'a'], 'saga migrate needs --to VERSION'],
    [['saga', 'migrate', '--to', '2'], 'needs either an ID, or --name NAME'],
    [['saga', 'migrate', 'a', '--name', 'b', '--to', '2'], 'needs either an ID, or --name NAME'],
    [['saga', 'migrate', 'a', '--from', '1', '--to', '2'], '--from goes with --name'],
    [['saga', 'migrate', '--name', 'b', '--to', '2'], '--name needs --from VERSION'],
    [['saga', 'diagram', 'a', '--format', 'png'], '--format "png" is none of mermaid, xstate'],
    [['explain', 'frob'], 'there is no code "frob"'],
    [['serve', '--log', 'xml'], '--log "xml" is not text or json'],
    [['health', '--http-address', 'x'], '--http-address "x" is not HOST:PORT'],
  ])('wrong usage %j ends with 2 and says what is wrong', async (args, message) => {
    const { code, out, err } = await escrow(args)
    expect([code, out]).toEqual([2, ''])
    expect(err).toContain(message)
    expect(err).not.toMatch(/^\s+at /m)
  })

  test('explains every code', async () => {
    const all = await escrow(['explain'])
    for (const code of Object.keys(ERROR_CODES)) expect(all.out).toContain(code)
    expect(await escrow(['explain', 'uncertain'])).toMatchObject({
      code: 0,
      out: `uncertain\n  uncertain: the outcome is unknown; ask, never assume\n  ${ERROR_CODES.uncertain.remedy}\n`,
    })
  })

  test('where nobody answers, says so and ends with 3', async () => {
    expect(await escrow(['get', 'a', '--address', '127.0.0.1:1'])).toMatchObject({
      code: 3,
      err: expect.stringContaining('disconnected: no coordinator answers at 127.0.0.1:1'),
    })
    expect(await escrow(['health', '--http-address', '127.0.0.1:1'])).toMatchObject({ code: 3 })
  })

  test('shows a stack only when asked to', async () => {
    const quiet = await escrow(['get', 'a', '--address', '127.0.0.1:1'])
    expect(quiet.err).not.toMatch(/^\s+at /m)
    const loud = await escrow(['get', 'a', '--address', '127.0.0.1:1'], { ESCROW_DEBUG: '1' })
    expect(loud.err).toMatch(/^\s+at /m)
  })
})

describe('escrow serve', () => {
  test('says one line when it is ready, and ends with 0 on SIGTERM', async () => {
    const { process } = await serve()
    expect(process.out).toBe(`escrow ${version}${process.out.slice(process.out.indexOf(' is ready'))}`)
    expect(READY.exec(process.out)).toMatchObject({
      3: join(folder, '.escrow'),
      4: String(process.child.pid),
    })
    process.child.kill('SIGTERM')
    expect(await process.ended).toMatchObject({ code: 0, signal: null, err: '' })
  })

  test('keeps what it answered, whether it is stopped or killed', async () => {
    const one = await serve()
    await post(one, 'Register', { service: 'audit', handlers: ['log'], checkers: ['orders'] })
    await post(one, 'Prepare', { id: 'a', checker: 'orders', messages: [{ destination: 'audit/log' }] })
    one.process.child.kill('SIGINT')
    expect(await one.process.ended).toMatchObject({ code: 0 })
    const two = await serve()
    await post(two, 'Commit', { id: 'a' })
    two.process.child.kill('SIGKILL')
    await two.process.ended
    const three = await serve()
    expect(await post(three, 'Get', { id: 'a' })).toMatchObject({
      transaction: { status: 'TRANSACTION_STATUS_COMMITTED' },
    })
  })

  test('a second one on the same store ends with 1 and the remedy', async () => {
    const { process } = await serve(['--store', 'embedded:./here'])
    const second = await escrow([
      'serve',
      '--grpc-port',
      '0',
      '--http-port',
      '0',
      '--store',
      'embedded:./here',
    ])
    expect(second).toMatchObject({ code: 1, out: '' })
    expect(second.err).toContain('storeInUse')
    expect(second.err).toContain(ERROR_CODES.storeInUse.remedy)
    expect(process.child.exitCode).toBeNull()
  })

  test('a port that is taken is named', async () => {
    const { http } = await serve()
    const second = await escrow([
      'serve',
      '--store',
      'embedded:b',
      '--grpc-port',
      '0',
      '--http-port',
      http.split(':')[1]!,
    ])
    expect(second).toMatchObject({
      code: 1,
      err: expect.stringContaining(`can't listen on ${http}: the port is taken`),
    })
  })

  test('a second signal ends it at once', async () => {
    writeFileSync(join(folder, 'escrow.config.mjs'), 'export default { drainMsMax: 60000, callsMax: 1 }')
    const served = await serve()
    await post(served, 'Register', { service: 'audit', handlers: ['log'], checkers: ['orders'] })
    await post(served, 'Prepare', { id: 'a', checker: 'orders', messages: [{ destination: 'audit/log' }] })
    // A look at whether its place is taken may take that place.
    const wait = (): Promise<unknown> =>
      post(served, 'Wait', { id: 'a' }).catch((error) =>
        /overloaded/.test(String(error)) ? wait() : 'cut off',
      )
    const waiting = wait()
    // There is one place for calls, and the wait has it.
    const isTaken = () => post(served, 'Get', { id: 'a' }).then(() => false, String)
    await until('the wait is under way', async () => /overloaded/.test(String(await isTaken())))
    served.process.child.kill('SIGTERM')
    const gone = async () =>
      fetch(`http://${served.http}/healthz`).then(
        () => false,
        () => true,
      )
    await until('it takes nothing new', gone)
    expect(served.process.child.exitCode).toBeNull()
    served.process.child.kill('SIGINT')
    expect(await served.process.ended).toMatchObject({ code: 130 })
    expect(await waiting).toBe('cut off')
  })

  test('flags go before the environment, that before the file', async () => {
    writeFileSync(
      join(folder, 'escrow.config.ts'),
      "const path: string = 'of-file'\nexport default { store: { path } }\n",
    )
    expect((await serve()).process.out).toContain(`store embedded:${join(folder, 'of-file')},`)
    const environment = { ESCROW_STORE: 'embedded:of-environment' }
    expect((await serve([], environment)).process.out).toContain(
      `store embedded:${join(folder, 'of-environment')},`,
    )
    const flagged = await serve(['--store', 'embedded:of-flag'], environment)
    expect(flagged.process.out).toContain(`store embedded:${join(folder, 'of-flag')},`)
  })

  test.each([
    ['export default { frob: 1 }', 'option options: "frob" is not an option'],
    ['export default { grpc: { port: 70000 } }', 'option grpc.port: 70000 is not a whole number, 0-65535'],
    ['export const options = {}', "doesn't export its options"],
    ['export default {', "can't be loaded"],
    ["import 'no-such-package'", "can't be loaded"],
  ])('the configuration %j is refused', async (text, message) => {
    writeFileSync(join(folder, 'c.mjs'), text)
    const { code, out, err } = await escrow(['serve', '--config', 'c.mjs'])
    expect([code, out]).toEqual([1, ''])
    expect(err).toContain(message)
    expect(err).not.toMatch(/^\s+at /m)
  })

  test('a configuration that was named must exist', async () => {
    expect(await escrow(['serve', '--config', 'c.ts'])).toMatchObject({
      code: 1,
      err: expect.stringContaining('there is no configuration file'),
    })
  })

  test('logs are lines of JSON where that is asked for', async () => {
    const { process } = await serve(['--log', 'json'])
    process.child.kill('SIGTERM')
    const { err } = await process.ended
    for (const line of err.trim().split('\n').filter(Boolean)) {
      expect(JSON.parse(line)).toMatchObject({
        time: expect.any(String),
        level: expect.any(String),
        message: expect.any(String),
      })
    }
  })
})

describe('operating a coordinator', () => {
  let served: Served
  let home: string
  let coordinator: Running

  beforeAll(async () => {
    home = mkdtempSync(join(tmpdir(), 'escrow-cli-'))
    writeFileSync(
      join(home, 'escrow.config.mjs'),
      'export default { checkBack: { checksMax: 1 }, retry: { attemptsMax: 1 } }',
    )
    coordinator = new Running(['serve', '--grpc-port', '0', '--http-port', '0'], { cwd: home })
    const [, grpc, http] = await coordinator.says(READY)
    served = { process: coordinator, address: `127.0.0.1:${grpc}`, http: `127.0.0.1:${http}` }
    // Listens as anything but a participant: whatever is delivered there fails, and parks.
    await post(served, 'Register', {
      service: 'audit',
      handlers: ['log', 'log2'],
      checkers: ['orders'],
      url: `http://${served.http}`,
    })
  })
  afterAll(async () => {
    coordinator.child.kill('SIGKILL')
    await coordinator.ended
    rmSync(home, { recursive: true, force: true })
  })

  const operate = (...args: string[]) => escrow([...args, '--address', served.address])
  test('finds the node that answers among several', async () => {
    for (const address of [`127.0.0.1:1,${served.address}`, `${served.address},127.0.0.1:1`])
      expect(await escrow(['list', '--address', address])).toMatchObject({ code: 0 })
  })

  const prepare = (id: string, ...handlers: string[]) =>
    post(served, 'Prepare', {
      id,
      checker: 'orders',
      messages: handlers.map((handler) => ({ destination: `audit/${handler}` })),
    })

  async function parked(id: string, ...handlers: string[]): Promise<string[]> {
    await prepare(id, ...handlers)
    await post(served, 'Commit', { id })
    for (;;) {
      const { deliveries } = JSON.parse((await operate('get', id, '--json')).out) as {
        deliveries: { status: string; executionId: string }[]
      }
      if (deliveries.every(({ status }) => status === 'parked'))
        return deliveries.map(({ executionId }) => executionId)
    }
  }

  test('get, commit and rollback', async () => {
    await prepare('a', 'log')
    const { code, out } = await operate('get', 'a')
    expect(code).toBe(0)
    expect(out).toMatch(/^id +a\nnamespace +default\nstatus +prepared\n/)
    expect(await operate('rollback', 'a', '--reason', 'a test')).toMatchObject({
      code: 0,
      out: 'a rolledBack\n',
    })
    expect((await operate('get', 'a')).out).toMatch(/^reason +a test$/m)
    const conflict = await operate('commit', 'a')
    expect(conflict).toMatchObject({ code: 1, out: '', err: expect.stringContaining('resolutionConflict: ') })
    expect(conflict.err).toContain(ERROR_CODES.resolutionConflict.remedy)
    expect(await operate('get', 'nobody')).toMatchObject({
      code: 1,
      err: expect.stringContaining('notFound'),
    })
    expect(await operate('get', 'a', '--namespace', 'eu')).toMatchObject({
      code: 1,
      err: expect.stringContaining('unknownNamespace'),
    })
  })

  test('retry needs no name where one thing is parked, and one where several are', async () => {
    const [execution] = await parked('b', 'log')
    expect((await operate('get', 'b')).out).toContain(`execution   ${execution}`)
    expect(await operate('retry', 'b')).toMatchObject({ code: 0, out: 'b committed\n' })
    const [one, two] = await parked('c', 'log', 'log2')
    const several = await operate('retry', 'c')
    expect(several).toMatchObject({ code: 2, err: expect.stringContaining(`${one}, ${two}`) })
    expect(await operate('retry', 'c', '--execution', one!)).toMatchObject({ code: 0 })
    await prepare('d', 'log')
    expect(await operate('retry', 'd')).toMatchObject({ code: 1, err: expect.stringContaining('notParked') })
  })

  test('skip gives up what it names', async () => {
    const [execution] = await parked('e', 'log')
    expect(await operate('skip', 'e', '--execution', execution!)).toMatchObject({
      code: 0,
      out: 'e delivered\n',
    })
    expect(await operate('skip', 'e', '--execution', 'x')).toMatchObject({
      code: 1,
      err: expect.stringContaining('unknownExecution'),
    })
  })

  test('list shows what has not ended, by page', async () => {
    await prepare('f1', 'log')
    await prepare('f2', 'log')
    for (;;) {
      const { out } = await operate('list', '--status', 'prepared')
      if (/^f1 .*\n(.*\n)?f2 /m.test(out)) {
        expect(out).toMatch(/^ID +STATUS +CHECKER OR SAGA +BEGUN +STEPS +REASON$/m)
        break
      }
    }
    const first = JSON.parse((await operate('list', '--status', 'prepared', '--limit', '1', '--json')).out)
    expect(first.transactions.length).toBe(1)
    const next = JSON.parse(
      (
        await operate(
          'list',
          '--status',
          'prepared',
          '--limit',
          '1',
          '--json',
          '--page-token',
          first.nextPageToken,
        )
      ).out,
    )
    expect(next.transactions[0].id > first.transactions[0].id).toBe(true)
  })

  test('health says ready and ends with 0', async () => {
    expect(await escrow(['health', '--http-address', served.http])).toMatchObject({ code: 0, out: 'ready\n' })
  })
})
