/** The commands for sagas: on the definitions of a configuration, and on a coordinator that runs them. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ERROR_CODES } from '../../src/core/errors.ts'
import { type ActionCall, participant, refuse, type Session } from '../../src/participant/index.ts'
import { until } from '../harness/until.ts'
import { type Ended, READY, Running } from './process.ts'

const index = pathToFileURL(join(import.meta.dirname, '../../src/index.ts')).href
const config = `
import { defineSaga } from '${index}'
const order = (version, more) => defineSaga({
  name: 'order', version,
  attributes: (input) => ({ tags: { sku: input.sku } }),
  output: ({ results }) => results('ship'),
  flow: ({ step, pivot }) => [
    step('reserve', { action: 'shop/reserve', compensation: true }),
    pivot('confirm', { action: 'shop/confirm' }), ...more(step)
  ],
})
export default { sagas: [
  order(2, (step) => [step('ship', { action: 'shop/ship' })]),
  order(1, () => []),
  defineSaga({ name: 'ask', version: 1, signals: { answer: undefined }, flow: ({ step, waitFor }) => [
    step('hold', { action: 'shop/hold', compensation: true }),
    waitFor('answer', { timeoutMs: 86_400_000, onTimeout: 'fail' }),
  ] }),
  defineSaga({ name: 'throws', version: 1, flow: ({ step, choice }) => [
    step('hold', { action: 'shop/hold', compensation: true }),
    choice([{ when: () => { throw new Error('no such branch') }, flow: [] }]),
  ] }),
] }
`
const slip = {
  steps: [
    { name: 'reserve', action: 'shop/reserve', compensation: true },
    {
      parallel: [
        { name: 'one', action: 'shop/hold', compensation: true },
        { name: 'two', action: 'shop/ship', readOnly: true },
      ],
    },
  ],
}

let home: string
let coordinator: Running
let address: string
let shop: Session
let mood: 'well' | 'later' = 'well'
let undoing: 'well' | 'broken' = 'well'
let calledLater = 0

beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), 'escrow-cli-'))
  writeFileSync(join(home, 'escrow.config.mjs'), config)
  writeFileSync(join(home, 'slip.json'), JSON.stringify(slip))
  coordinator = new Running(['serve', '--grpc-port', '0', '--http-port', '0'], { cwd: home })
  const [, grpc] = await coordinator.says(READY)
  address = `127.0.0.1:${grpc}`
  shop = await participant('shop', {
    reserve: {
      action: ({ sku }: { sku: string }, call: ActionCall) => {
        if (sku === 'none') throw refuse('sold \u001b[31mout', 'soldOut')
        if (mood === 'well') return `a ${sku}`
        calledLater += 1
        return call.later()
      },
      compensation: () => {},
    },
    hold: {
      action: () => 'held',
      compensation: () => {
        if (undoing === 'broken') throw refuse('it is glued')
      },
    },
    confirm: { action: () => undefined },
    ship: { action: () => ({ parcel: 7 }) },
  }).connect(address)
})
afterAll(async () => {
  await shop?.close()
  coordinator.child.kill('SIGKILL')
  await coordinator.ended
  rmSync(home, { recursive: true, force: true })
})

const escrow = (...args: string[]): Promise<Ended> => new Running(args, { cwd: home }).ended
const ask = (...args: string[]): Promise<Ended> => escrow(...args, '--address', address)
const start = (id: string, saga: string, ...args: string[]): Promise<Ended> =>
  ask('saga', 'start', saga, '--id', id, '--input', '{"sku":"book"}', ...args)
const status = (id: string, wanted: string): Promise<unknown> =>
  until(`${id} is ${wanted}`, async () => (await shop.get({ id })).status === wanted)

describe('without a coordinator', () => {
  test('escrow saga names its commands', async () => {
    const help = await escrow('saga', '--help')
    expect(help).toMatchObject({ code: 0, out: expect.stringContaining('Usage: escrow saga COMMAND') })
    expect(help.out).toMatch(/^ {2}saga diagram +prints/m)
    expect(await escrow('saga')).toMatchObject({ code: 2, out: help.out })
  })

  test('saga list shows definitions by name and version', async () => {
    const { code, out } = await escrow('saga', 'list')
    expect(code).toBe(0)
    const [header, ...rows] = out.trim().split('\n')
    expect(header).toMatch(/^NAME +VERSION +HASH +STEPS +SIGNALS$/)
    expect(rows[0]).toMatch(/^ask +1 +[0-9a-f]{12} +hold +answer$/)
    expect(rows[1]).toMatch(/^order +1 +[0-9a-f]{12} +reserve, confirm$/)
    expect(rows[2]).toMatch(/^order +2 +[0-9a-f]{12} +reserve, confirm, ship$/)
    const json = JSON.parse((await escrow('saga', 'list', '--json')).out)
    expect(json[2]).toMatchObject({ name: 'order', version: 2, steps: ['reserve', 'confirm', 'ship'] })
  })

  test('saga diagram prints Mermaid and xstate JSON, of the newest version or of the one that is named', async () => {
    const newest = await escrow('saga', 'diagram', 'order')
    expect(newest).toMatchObject({ code: 0, out: expect.stringMatching(/^stateDiagram-v2\n/) })
    expect(newest.out).toContain('ship (shop/ship')
    const first = await escrow('saga', 'diagram', 'order', '--version', '1')
    expect(first.out).toContain('confirm (shop/confirm, pivot)')
    expect(first.out).not.toContain('ship (shop/ship')
    const machine = JSON.parse((await escrow('saga', 'diagram', 'ask', '--format', 'xstate')).out)
    expect(Object.keys(machine.states)).toContain('hold')
  })

  test.each([
    [['diagram', 'frob'], 'unknownSaga', 'defines no saga "frob": it has ask, order, throws'],
    [['diagram', 'order', '--version', '3'], 'unknownVersion', 'no version 3: it has 1, 2'],
    [['list', '--config', 'gone.ts'], 'invalidArgument', 'there is no configuration file'],
  ] as const)('saga %j ends with 1, the code and the remedy', async (args, code, message) => {
    const ended = await escrow('saga', ...args)
    expect(ended).toMatchObject({ code: 1, out: '', err: expect.stringContaining(`${code}: `) })
    expect(ended.err).toContain(message)
    expect(ended.err).toContain(ERROR_CODES[code].remedy)
    expect(ended.err).not.toMatch(/^\s+at /m)
  })

  test('a folder without a configuration is told apart from one without sagas', async () => {
    const empty = mkdtempSync(join(tmpdir(), 'escrow-cli-'))
    const none = await new Running(['saga', 'list'], { cwd: empty }).ended
    expect(none).toMatchObject({ code: 1, err: expect.stringContaining('there is none of escrow.config.ts') })
    rmSync(empty, { recursive: true })
  })

  test('a definition that breaks a rule is told with its path', async () => {
    writeFileSync(
      join(home, 'bad.mjs'),
      `import { defineSaga } from '${index}'
       defineSaga({ name: 'bad', version: 1, flow: ({ step }) => [step('a', { action: 'x/y' })] })`,
    )
    const bad = await escrow('saga', 'list', '--config', 'bad.mjs')
    expect(bad).toMatchObject({ code: 1, err: expect.stringMatching(/invalidSaga: .*bad\.mjs.*"bad"/) })
    expect(bad.err).not.toMatch(/^\s+at /m)
  })

  test('a routing slip is checked, and drawn', async () => {
    const drawn = await escrow('saga', 'slip', 'slip.json', '--diagram')
    expect(drawn).toMatchObject({ code: 0, out: expect.stringMatching(/^stateDiagram-v2\n/) })
    writeFileSync(join(home, 'bad.json'), '{"steps":[{"name":"a","action":"x/y","colour":1}]}')
    const bad = await escrow('saga', 'slip', 'bad.json')
    expect(bad).toMatchObject({ code: 1, err: expect.stringContaining('steps[0].colour is unknown') })
    const gone = await escrow('saga', 'slip', 'gone.json')
    expect(gone).toMatchObject({ code: 1, err: expect.stringContaining("gone.json can't be read") })
  })
})

describe('on a coordinator', () => {
  test('sagas are listed by business key, tags, definition and kind', async () => {
    await start('l1', 'ask', '--business-key', 'list-1', '--tag', 'colour=red', '--tag', 'size=xl')
    await start('l2', 'ask', '--business-key', 'list-2', '--tag', 'colour=red')
    const idsBy = async (...filters: string[]): Promise<string[]> => {
      const { transactions } = JSON.parse((await ask('list', '--json', ...filters)).out)
      return transactions.map(({ id }: { id: string }) => id)
    }
    await until('both are in the list', async () => (await idsBy('--tag', 'colour=red')).length === 2)
    expect(await idsBy('--business-key', 'list-2', '--status', 'running')).toEqual(['l2'])
    expect(await idsBy('--tag', 'colour=red', '--tag', 'size=xl', '--kind', 'saga')).toEqual(['l1'])
    expect(await idsBy('--tag', 'colour=red', '--saga', 'order')).toEqual([])
    expect(await idsBy('--tag', 'colour=red', '--kind', 'message')).toEqual([])
  })

  test('a saga is started, waited for and shown', async () => {
    const started = await start('a', 'order', '--business-key', 'order-7', '--wait')
    expect(started).toMatchObject({ code: 0, err: '' })
    expect(started.out).toMatch(/^id +a\nnamespace +default\nstatus +completed\nsaga +order version 2\n/)
    expect(started.out).toMatch(/^business key +order-7$/m)
    expect(started.out).toMatch(/^tags +sku=book$/m)
    expect(started.out).toMatch(/^output +\{"parcel":7\}$/m)
    expect(started.out).toMatch(/^step +reserve done\n {2}execution +\S+\nstep +confirm done\n/m)
    const { saga } = JSON.parse((await ask('get', 'a', '--json')).out)
    expect(saga).toMatchObject({ name: 'order', version: 2, output: { parcel: 7 } })
    expect(await start('a', 'order', '--version', '1')).toMatchObject({
      code: 1,
      err: expect.stringContaining('idReused'),
    })
    expect(await start('b', 'order', '--version', '1', '--wait')).toMatchObject({
      code: 0,
      out: expect.stringContaining('order version 1'),
    })
  })

  test('one that is undone ends with 1, and no control character of a service reaches the terminal', async () => {
    const undone = await ask('saga', 'start', 'order', '--id', 'c', '--input', '{"sku":"none"}', '--wait')
    expect(undone).toMatchObject({ code: 1, err: '' })
    expect(undone.out).toMatch(/^status +compensated$/m)
    expect(undone.out).toMatch(/^step +reserve failed/m)
    expect(undone.out).toContain('sold ?[31mout')
  })

  test.each([
    [['start', 'frob'], 'unknownSaga'],
    [['start', 'order', '--version', '9'], 'unknownVersion'],
    [['signal', 'nobody', 'answer'], 'notFound'],
    [['cancel', 'nobody'], 'notFound'],
    [['complete', 'nobody', 'x'], 'notFound'],
  ] as const)('saga %j ends with 1, the code and the remedy', async (args, code) => {
    const ended = await ask('saga', ...args)
    expect(ended).toMatchObject({ code: 1, out: '', err: expect.stringContaining(`${code}: `) })
    expect(ended.err).toContain(ERROR_CODES[code].remedy)
  })

  test('signal lets a saga go on that waits, once for each signal id; a name that it has not is refused', async () => {
    expect(await start('d', 'ask', '--tag', 'region=eu')).toMatchObject({ code: 0, out: 'd running\n' })
    expect((await ask('get', 'd')).out).toMatch(/^tags +region=eu$/m)
    const unknown = await ask('saga', 'signal', 'd', 'frob')
    expect(unknown).toMatchObject({ code: 1, err: expect.stringContaining('unknownSignal') })
    expect(await ask('saga', 'signal', 'd', 'answer', '--payload', '42', '--signal-id', 'one')).toMatchObject(
      {
        code: 0,
      },
    )
    await status('d', 'completed')
    const late = await ask('saga', 'signal', 'd', 'answer')
    expect(late).toMatchObject({ code: 1, err: expect.stringContaining('alreadyEnded') })
  })

  test('cancel undoes what was done', async () => {
    await start('e', 'ask')
    await until('it holds', async () => (await shop.get({ id: 'e' })).saga?.executions[0]?.status === 'done')
    expect(await ask('saga', 'cancel', 'e', '--reason', 'a test')).toMatchObject({ code: 0 })
    await status('e', 'compensated')
    const { out } = await ask('get', 'e')
    expect(out).toMatch(/^reason +.*a test/m)
    expect(out).toMatch(/^step +hold done, compensation done$/m)
  })

  test('complete says how a step ended that was answered later', async () => {
    mood = 'later'
    await start('f', 'order')
    // The execution is there before its call is.
    await until('it was called', () => calledLater === 1)
    mood = 'well'
    const execution = (await shop.get({ id: 'f' })).saga?.executions[0]?.executionId as string
    const completed = await ask('saga', 'complete', 'f', execution, '--result', '"a book"')
    expect(completed).toMatchObject({ code: 0, err: '' })
    await status('f', 'completed')

    mood = 'later'
    await start('j', 'order')
    const own = async () => (await shop.get({ id: 'j' })).saga?.executions[0]
    const other = (await until('it was called', own))?.executionId as string
    // Of another attempt than the one under way, then of that one, which needn't be named.
    await ask('saga', 'complete', 'j', other, '--failed', 'no', '--attempt', '2')
    expect(await own()).toMatchObject({ attempts: 0 })
    expect(await ask('saga', 'complete', 'j', other, '--refused', 'no')).toMatchObject({ code: 0, err: '' })
    mood = 'well'
    await status('j', 'compensated')
  })

  test('a compensation that is parked is listed, retried and skipped', async () => {
    undoing = 'broken'
    for (const id of ['g', 'h']) {
      await start(id, 'ask')
      await until(`${id} holds`, async () => (await shop.get({ id })).saga?.executions[0]?.status === 'done')
      await ask('saga', 'cancel', id)
      await status(id, 'parked')
    }
    const shown = await ask('get', 'g')
    expect(shown.out).toMatch(/^step +hold done, compensation parked/m)
    expect(shown.out).toMatch(/^ {2}error +.*it is glued$/m)
    await until('the list knows them', async () =>
      /^g +parked +ask version 1 +\S+ +1 compensation parked/m.test(
        (await ask('list', '--status', 'parked')).out,
      ),
    )
    undoing = 'well'
    expect(await ask('retry', 'g')).toMatchObject({ code: 0, err: '' })
    await status('g', 'compensated')
    const execution = /execution +(\S+\.1)$/m.exec(shown.out)?.[1] as string
    expect(await ask('skip', 'h', '--execution', execution)).toMatchObject({
      code: 1,
      err: expect.stringContaining('unknownExecution'),
    })
    const own = /execution +(\S+\.1)$/m.exec((await ask('get', 'h')).out)?.[1] as string
    expect(await ask('skip', 'h', '--execution', own)).toMatchObject({ code: 0 })
    await status('h', 'compensated')
  })

  test('a saga whose own function throws is parked, and compensated by one command', async () => {
    await start('i', 'throws')
    await status('i', 'parked')
    expect((await ask('get', 'i')).out).toMatch(/^reason +.*no such branch/m)
    expect(await ask('compensate', 'i')).toMatchObject({ code: 0, err: '' })
    await status('i', 'compensated')
    const again = await ask('compensate', 'i')
    expect(again).toMatchObject({ code: 1, err: expect.stringContaining('notParked') })
  })

  test('a routing slip runs without a definition', async () => {
    const ran = await ask('saga', 'slip', 'slip.json', '--id', 's', '--input', '{"sku":"pen"}', '--wait')
    expect(ran).toMatchObject({ code: 0, err: '' })
    expect(ran.out).toMatch(/^saga +routing slip$/m)
    expect(ran.out).toMatch(/^step +one done$/m)
  })
})
