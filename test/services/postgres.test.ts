import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Client } from 'pg'
import { expect, test } from 'vitest'
import { sweepPostgres } from '../../examples/shop/embedded-postgres.ts'
import { startFaultProxy } from './fault-proxy.ts'
import { startPostgres } from './postgres.ts'
import { service } from './require.ts'

const postgres = await service('postgres')

async function connected(url: string): Promise<Client> {
  const client = new Client({ connectionString: url })
  client.on('error', () => {})
  await client.connect()
  return client
}

async function value(client: Client, sql: string): Promise<unknown> {
  const result = await client.query<unknown[]>({ text: sql, rowMode: 'array' })
  return result.rows[0]?.[0]
}

test('flushes and commits synchronously', async () => {
  const client = await connected(postgres.url)
  expect(await value(client, 'show fsync')).toBe('on')
  expect(await value(client, 'show synchronous_commit')).toBe('on')
  expect(await value(client, 'show listen_addresses')).toBe('127.0.0.1')
  await client.end()
})

test('a paused server answers nothing and goes on where it was', async () => {
  const client = await connected(await postgres.database('pausing'))
  await postgres.pause()
  let answered = false
  const answer = value(client, 'select 1').then(() => (answered = true))
  await new Promise((resolve) => setTimeout(resolve, 200))
  expect(answered).toBe(false)
  await postgres.resume()
  await answer
  await client.end()
})

test('what was committed is there after SIGKILL, at the same address', async () => {
  const url = await postgres.database('killing')
  const client = await connected(url)
  await client.query('create table kept (value int)')
  await client.query('insert into kept values (42)')
  await postgres.kill()
  await expect(connected(url)).rejects.toThrow(/ECONNREFUSED/)
  await postgres.start()
  const again = await connected(url)
  expect(await value(again, 'select value from kept')).toBe(42)
  await again.end()
})

test('the proxy loses the answer to a COMMIT that has happened', async () => {
  const url = await postgres.database('proxied')
  const direct = await connected(url)
  await direct.query('create table lost (value int)')
  const target = new URL(url)
  const proxy = await startFaultProxy({ target: { host: target.hostname, port: Number(target.port) } })
  const client = await connected(proxy.through(url))
  await client.query('begin')
  await client.query('insert into lost values (1)')
  const cut = proxy.cutAfter(1)
  await expect(client.query('commit')).rejects.toThrow()
  await cut
  expect(await value(direct, 'select count(*)::int from lost')).toBe(1)
  await direct.end()
  await proxy.close()
})

test('a server whose owner was killed is ended, and the next start removes what it left', async () => {
  const launcher = join(import.meta.dirname, '../../examples/shop/embedded-postgres.ts')
  const code = `const { startEmbeddedPostgres } = await import(${JSON.stringify(launcher)})
    const server = await startEmbeddedPostgres()
    console.log(JSON.stringify({ url: server.url, dataDir: server.dataDir }))
    process.kill(process.pid, 'SIGKILL')`
  const child = spawn(process.execPath, ['--input-type=module', '--eval', code])
  let output = ''
  child.stdout.on('data', (chunk) => (output += chunk))
  const [, signal] = await once(child, 'close')
  expect(signal).toBe('SIGKILL')
  const { url, dataDir } = JSON.parse(output) as { url: string; dataDir: string }
  expect(existsSync(dataDir)).toBe(true)
  sweepPostgres()
  expect(existsSync(dataDir)).toBe(false)
  await expect(connected(url)).rejects.toThrow(/ECONNREFUSED/)
})

test('a folder of the caller is kept by stop and started again', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'escrow-kept-'))
  // As root the server is somebody else, who passes through here.
  chmodSync(folder, 0o755)
  const dataDir = join(folder, 'data')
  const first = await startPostgres('embedded', { dataDir })
  await first.database('kept')
  await first.stop()
  const second = await startPostgres('embedded', { dataDir, port: first.port })
  const client = await connected(await second.database('kept'))
  await client.end()
  await second.stop()
  expect(second.url).toBe(first.url)
  rmSync(folder, { recursive: true })
})
