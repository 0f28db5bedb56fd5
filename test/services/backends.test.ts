import { afterEach, expect, test, vi } from 'vitest'
import { type Backend, startOn, type Ways } from './backends.ts'
import type { ServiceUse } from './ledger.ts'
import { serviceRows, tableLines } from './table.ts'

afterEach(() => {
  vi.unstubAllEnvs()
})

type Options = { readonly backend?: Backend }
interface Service {
  readonly backend: Backend
  readonly version: string
  stop(): Promise<void>
}

/** Ways of which some work and the others say why they don't. */
function ways(working: readonly Backend[], known: readonly Backend[]): Ways<Service, Options> {
  const way = (backend: Backend) => async () => {
    if (!working.includes(backend)) throw new Error(`no ${backend} here\nand more`)
    return { backend, version: '1', stop: async () => {} }
  }
  return Object.fromEntries(known.map((backend) => [backend, way(backend)]))
}

const everywhere: readonly Backend[] = ['docker', 'native', 'embedded']

test.each<[string, readonly Backend[], Backend, string]>([
  ['auto', ['docker', 'native', 'embedded'], 'docker', ''],
  ['auto', ['native', 'embedded'], 'native', 'docker: no docker here'],
  ['auto', ['embedded'], 'embedded', 'docker: no docker here; native: no native here'],
  ['', ['native', 'docker'], 'native', 'embedded: no embedded here'],
  ['docker', everywhere, 'docker', ''],
  ['native', everywhere, 'native', ''],
  ['embedded', everywhere, 'embedded', ''],
])('TEST_SERVICES="%s" where %j work takes %s', async (asked, working, backend, insteadOf) => {
  vi.stubEnv('TEST_SERVICES', asked)
  const usual = ['embedded', 'native'] as const
  expect(await startOn(ways(working, everywhere), {}, usual)).toMatchObject({ backend, insteadOf })
})

test('what is asked for by name runs there or not at all', async () => {
  vi.stubEnv('TEST_SERVICES', 'native')
  expect(await startOn(ways(everywhere, everywhere), { backend: 'docker' })).toMatchObject({
    backend: 'docker',
  })
  await expect(startOn(ways(['native'], everywhere), { backend: 'docker' })).rejects.toThrow(
    /^no docker here$/,
  )
  await expect(startOn(ways([], ['docker']), {})).rejects.toThrow(/^this service does not run native$/)
  vi.stubEnv('TEST_SERVICES', 'podman')
  await expect(startOn(ways(everywhere, everywhere), {})).rejects.toThrow(
    /"podman"; it may be auto, docker, native/,
  )
})

test('a service that ran on two backends has a line for each, and one that fell back says why', () => {
  const use = { service: 'redis', file: '/a', version: '7', startMs: 1 }
  const uses: ServiceUse[] = [
    { ...use, backend: 'native', insteadOf: 'docker: no engine answers' },
    { ...use, backend: 'docker', file: '/b' },
    {
      ...use,
      backend: 'embedded',
      file: '/c',
      missing: 'this service does not run embedded',
      install: 'setup',
    },
  ]
  const totals = { passed: 7, failed: 0, skipped: [], ranByFile: { '/a': 3, '/b': 4 } }
  const rows = serviceRows(uses, totals)
  expect(rows).toMatchObject([
    { backend: 'docker', status: 'ran', tests: 4, reason: '' },
    { backend: 'embedded', status: 'NOT RUN', tests: 0, reason: 'this service does not run embedded' },
    { backend: 'native', status: 'ran', tests: 3, reason: 'docker: no engine answers' },
  ])
  expect(tableLines(rows).filter((line) => line.startsWith('redis'))).toHaveLength(3)
})
