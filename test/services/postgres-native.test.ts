import { Client } from 'pg'
import { expect, test } from 'vitest'
import { service } from './require.ts'

const postgres = await service('postgres', { backend: 'native' })

test('the native server is driven like the embedded one, SIGKILL included', async () => {
  const url = await postgres.database('native')
  await postgres.kill()
  await postgres.start()
  const client = new Client({ connectionString: url })
  await client.connect()
  const result = await client.query<{ fsync: string }>('show fsync')
  await client.end()
  expect(result.rows[0]?.fsync).toBe('on')
  expect(postgres.backend).toBe('native')
})
