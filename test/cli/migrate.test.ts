import { tmpdir } from 'node:os'
import { Pool } from 'pg'
import { afterEach, expect, test } from 'vitest'
import { service } from '../services/require.ts'
import { type Ended, Running } from './process.ts'

const postgres = await service('postgres')
const READY = /is ready: gRPC 127\.0\.0\.1:(\d+), HTTP http:\/\/127\.0\.0\.1:(\d+), store postgres:/
const running: Running[] = []

afterEach(async () => {
  for (const each of running.splice(0)) {
    each.child.kill('SIGKILL')
    await each.ended
  }
})

function start(args: readonly string[], env: Record<string, string> = {}): Running {
  const each = new Running([...args], { cwd: tmpdir(), env })
  running.push(each)
  return each
}
const escrow = (args: readonly string[], env?: Record<string, string>): Promise<Ended> =>
  start(args, env).ended

test('makes the schema, once however many ask, and says what it is', async () => {
  const url = await postgres.database('cli_migrate')
  const all = await Promise.all([1, 2, 3].map(() => escrow(['migrate', '--store', url])))
  for (const { code, out, err } of all) {
    expect(err).toBe('')
    expect(code).toBe(0)
    expect(out).toBe(`postgres://127.0.0.1:${postgres.port}/cli_migrate: schema escrow has format 1\n`)
  }
  const pool = new Pool({ connectionString: url, max: 1 })
  const { rows } = await pool.query('select count(*)::int as logs from escrow.logs')
  await pool.end()
  expect(rows).toEqual([{ logs: 16 }])
})

test('refuses a schema that a newer version wrote, and so does a coordinator', async () => {
  const url = await postgres.database('cli_newer')
  await escrow(['migrate', '--store', url])
  const pool = new Pool({ connectionString: url, max: 1 })
  await pool.query('update escrow.store set format = 99')
  await pool.end()
  for (const command of [['migrate'], ['serve', '--grpc-port', '0', '--http-port', '0']]) {
    const { code, err } = await escrow([...command, '--store', url])
    expect(code).toBe(1)
    expect(err).toContain('storeFormat')
    expect(err).toContain('99')
  }
})

test('says what to do where there is nothing to migrate, or nobody to ask', async () => {
  const embedded = await escrow(['migrate'])
  expect(embedded).toMatchObject({ code: 1 })
  expect(embedded.err).toContain('name a PostgreSQL by --store')
  const nobody = await escrow(['migrate', '--store', 'postgres://me:secret@127.0.0.1:9/db'])
  expect(nobody).toMatchObject({ code: 3 })
  expect(nobody.err).not.toContain('secret')
  const stranger = await escrow(['migrate'], { ESCROW_STORE: postgres.url.replace(/:[^:@]+@/, ':wrong@') })
  expect(stranger.code).toBe(1)
  expect(stranger.err).toMatch(/invalidArgument.*password/s)
})

test('two coordinators on one PostgreSQL see each other, and both answer for what either has taken', async () => {
  const url = await postgres.database('cli_two')
  const args = ['serve', '--store', url, '--grpc-port', '0', '--http-port', '0']
  const nodes = [start(args), start(args)]
  const ports = await Promise.all(
    nodes.map(async (node) => (await node.says(READY)).slice(1, 3) as [string, string]),
  )
  const http = ports.map(([, port]) => `127.0.0.1:${port}`)
  await expect
    .poll(async () => (await escrow(['nodes', '--http-address', http[0]!])).out)
    .toMatch(/(127\.0\.0\.1:\d+ +here +.* 8 of 16\n?){2}/)
  const post = async (at: number, method: string, body: object): Promise<Record<string, unknown>> => {
    const answer = await fetch(`http://${http[at]}/escrow.v1.CoordinatorService/${method}`, {
      method: 'POST',
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/json' },
    })
    const text = await answer.text()
    if (!answer.ok) throw new Error(text)
    return JSON.parse(text)
  }
  await post(0, 'Register', { service: 'orders', checkers: ['orders'], handlers: ['take'] })
  for (let i = 0; i < 20; i++) {
    const id = `order-${i}`
    const messages = [{ destination: 'orders/take', body: 'e30=' }]
    await post(i % 2, 'Prepare', { id, checker: 'orders', messages })
    await post(1 - (i % 2), 'Rollback', { id, reason: 'changed its mind' })
    expect(await post(i % 2, 'Get', { id })).toMatchObject({
      transaction: { status: 'TRANSACTION_STATUS_ROLLED_BACK' },
    })
  }
  // Each tells of its own in its heartbeat.
  const logs = async (): Promise<string> => (await escrow(['logs', '--http-address', http[1]!])).out
  await expect.poll(logs).not.toContain('nobody')
  expect((await logs()).trim().split('\n')).toHaveLength(17)
})
