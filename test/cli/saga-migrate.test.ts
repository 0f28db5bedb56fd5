/** `escrow saga migrate`: one saga, or all of a version, with what was refused and why. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ERROR_CODES } from '../../src/core/errors.ts'
import { participant, type Session } from '../../src/participant/index.ts'
import { until } from '../harness/until.ts'
import { type Ended, READY, Running } from './process.ts'

const index = pathToFileURL(join(import.meta.dirname, '../../src/index.ts')).href
const config = `
import { defineSaga } from '${index}'
const ask = (version, migrations) => defineSaga({
  name: 'ask', version, migrations, signals: { answer: undefined, more: undefined },
  flow: ({ step, waitFor }) => [
    step('hold', { action: 'shop/hold', compensation: true }),
    waitFor('answer', { timeoutMs: 86_400_000, onTimeout: 'fail' }),
    waitFor('more', { timeoutMs: 86_400_000, onTimeout: 'fail' }),
  ],
})
const notBehindTheAnswer = (state) => {
  if (state.value === 'wait-more-1') throw new Error('it was answered \\u001b[31malready')
  return state
}
export default { sagas: [ask(1), ask(2, { 1: notBehindTheAnswer }), ask(3)] }
`

let home: string
let coordinator: Running
let address: string
let shop: Session

beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), 'escrow-cli-'))
  writeFileSync(join(home, 'escrow.config.mjs'), config)
  coordinator = new Running(['serve', '--grpc-port', '0', '--http-port', '0'], { cwd: home })
  const [, grpc] = await coordinator.says(READY)
  address = `127.0.0.1:${grpc}`
  const hold = { action: () => undefined, compensation: () => {} }
  shop = await participant('shop', { hold }).connect(address)
})
afterAll(async () => {
  await shop?.close()
  coordinator.child.kill('SIGKILL')
  await coordinator.ended
  rmSync(home, { recursive: true, force: true })
})

const migrate = (...args: string[]): Promise<Ended> =>
  new Running(['saga', 'migrate', ...args, '--address', address], { cwd: home }).ended
const versionOf = async (id: string) => (await shop.get({ id })).saga?.version

/** Starts sagas of version 1 that wait for their answer. */
async function start(...ids: string[]): Promise<void> {
  await Promise.all(ids.map((id) => shop.startSaga({ id, saga: 'ask', version: 1 })))
  for (const id of ids)
    await until(`${id} holds`, async () => (await shop.get({ id })).saga?.executions[0]?.status === 'done')
}

test('one saga goes on with another version; asked again it is the same', async () => {
  await start('one')
  for (let time = 1; time <= 2; time++)
    expect(await migrate('one', '--to', '2')).toMatchObject({ code: 0, out: 'one running\n', err: '' })
  expect(await versionOf('one')).toBe(2)
})

test.each([
  [['nobody', '--to', '2'], 'notFound'],
  [['refused', '--to', '9'], 'unknownVersion'],
  [['refused', '--to', '3'], 'noMigration'],
] as const)('saga migrate %j ends with 1, the code and the remedy', async (args, code) => {
  if (args[0] === 'refused' && args[2] === '9') await start('refused')
  const ended = await migrate(...args)
  expect(ended).toMatchObject({ code: 1, out: '', err: expect.stringContaining(`${code}: `) })
  expect(ended.err).toContain(ERROR_CODES[code].remedy)
})

test('all of a version: those that fit are migrated, the others shown with why, and the end is 1', async () => {
  const fit = Array.from({ length: 230 }, (_, n) => `fit-${n}`)
  await start(...fit, 'unfit', 'gone')
  await shop.signal({ id: 'unfit', signal: 'answer' })
  await shop.cancel({ id: 'gone' })
  await until('all are listed', async () => {
    const { transactions } = await shop.list({ statuses: ['running'], limit: 1_000 })
    const listed = new Set(transactions.map(({ id }) => id))
    return fit.every((id) => listed.has(id)) && listed.has('unfit') && !listed.has('gone')
  })
  const { code, out } = await migrate('--name', 'ask', '--from', '1', '--to', '2')
  expect(code).toBe(1)
  expect(out).toMatch(/^ID +CODE +REASON\nunfit +migrationFailed +.*it was answered \?\[31malready$/m)
  // Those of the tests before as well.
  expect(out).toMatch(/^23\d migrated, 1 refused, 0 ended meanwhile; of those listed as of \d{4}-/m)
  expect(await Promise.all(fit.map(versionOf))).toEqual(fit.map(() => 2))
  expect(await versionOf('unfit')).toBe(1)

  await shop.cancel({ id: 'unfit' })
  await until('the list knows', async () => {
    const { transactions } = await shop.list({ limit: 1_000 })
    return transactions.every(({ saga }) => saga?.version !== 1)
  })
  const again = await migrate('--name', 'ask', '--from', '1', '--to', '2', '--json')
  expect(again.code).toBe(0)
  expect(JSON.parse(again.out)).toMatchObject({ migrated: 0, ended: 0, refused: [], refusedCount: 0 })
})
