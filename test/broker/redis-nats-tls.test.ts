/** Certificates of Redis and NATS: one that is trusted, and one that isn't. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import type { Broker } from '../../src/broker/broker.ts'
import { nats } from '../../src/broker/nats.ts'
import { redis } from '../../src/broker/redis.ts'
import { freePorts } from '../services/native-process.ts'
import { service } from '../services/require.ts'
import { message, publish, rejected } from './contract-world.ts'

const folder = mkdtempSync(join(tmpdir(), 'escrow-tls-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
const [cert, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')]
const request =
  'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost'
const names = ['-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1']
execFileSync('openssl', [...request.split(' '), '-keyout', key, '-out', cert, ...names], { stdio: 'ignore' })
const trusted = { tls: { ca: readFileSync(cert, 'utf8') } }

/** The one publishes, the other refuses to speak to the server. */
async function trustsOnly(one: Broker, other: Broker): Promise<void> {
  try {
    await one.register('t', AbortSignal.timeout(20_000))
    expect(await publish(one, [message('t', 'a', 'k')])).toEqual(['published'])
    const error = await rejected(other.register('t', AbortSignal.timeout(20_000)))
    expect(error).toMatchObject({ code: 'brokerRefused' })
    expect(error.message).toContain('certificate')
    expect(await publish(other, [message('t', 'b', 'k')])).toEqual(['unreachable'])
  } finally {
    await Promise.all([one.close(), other.close()])
  }
}

test('redis: only a certificate that is trusted is spoken to', async (context) => {
  const port = await freePorts()
  const files = { 'tls-cert-file': cert, 'tls-key-file': key, 'tls-auth-clients': 'no' }
  const { password } = await service('redis', { settings: { 'tls-port': String(port), ...files } }, context)
  const options = { url: `rediss://:${password}@127.0.0.1:${port}`, missingTopics: 'create' } as const
  await trustsOnly(redis({ ...options, ...trusted }), redis(options))
})

test('nats: only a certificate that is trusted is spoken to', async (context) => {
  const configuration = `tls { cert_file: "${cert}", key_file: "${key}" }`
  const { user, password, host, port } = await service('nats', { configuration }, context)
  const options = { servers: `${host}:${port}`, user, password, missingTopics: 'create' } as const
  await trustsOnly(nats({ ...options, ...trusted }), nats(options))
})
