/**
 * The package as a user gets it: built, packed, installed from the tarball in an empty folder, every subpath
 * imported and the binary run, on the oldest Node that `engines` promises and on the one that develops it.
 */
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, type TestContext, test } from 'vitest'
import { service } from '../services/require.ts'

await service('npm-registry')

const run = promisify(execFile)
const root = join(import.meta.dirname, '../..')

interface Manifest {
  readonly name: string
  readonly version: string
  readonly bin: Readonly<Record<string, string>>
  readonly exports: Readonly<Record<string, string | Readonly<Record<string, string>>>>
  readonly peerDependencies: Readonly<Record<string, string>>
  readonly devDependencies: Readonly<Record<string, string>>
}

const manifest = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as Manifest
const subpaths = Object.keys(manifest.exports)
const modules = subpaths.filter((subpath) => !subpath.endsWith('.json'))
/** Those that need nothing but the package itself. */
const own: readonly string[] = ['.', './participant', './saga', './postgres-queue']

/** What `escrow` must answer, whatever else it prints. */
const commands = [
  { args: ['--version'], prints: manifest.version },
  { args: ['--help'], prints: 'serve' },
  { args: ['explain', 'overloaded'], prints: 'overloaded' },
]

let folder: string
let packed: readonly string[]
let user: string
let userOfBrokers: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'escrow-pack-'))
  // Packing builds first (prepack), so this is the order of a real release.
  const { stdout } = await npm(['pack', '--json', '--pack-destination', folder], root)
  const [entry] = JSON.parse(stdout.slice(stdout.search(/^\[/m))) as [
    { filename: string; files: { path: string }[] },
  ]
  const tarball = join(folder, entry.filename)
  packed = entry.files.map((file) => file.path)
  user = await install('user', [tarball])
  // The clients of brokers are for those who use them.
  const clients = Object.keys(manifest.peerDependencies)
  const pinned = clients.map((name) => `${name}@${manifest.devDependencies[name]}`)
  userOfBrokers = await install('user-of-brokers', [tarball, ...pinned])
})

async function install(name: string, packages: readonly string[]): Promise<string> {
  const place = join(folder, name)
  await mkdir(place)
  await writeFile(join(place, 'package.json'), JSON.stringify({ private: true, type: 'module' }))
  // What this machine has fetched once isn't asked for again: the network isn't what is tested.
  await npm(['install', '--prefer-offline', '--no-audit', '--no-fund', ...packages], place)
  return place
}

afterAll(() => rm(folder, { recursive: true, force: true }))

function npm(args: readonly string[], cwd: string): Promise<{ stdout: string; stderr: string }> {
  // What the `npm test` around us has set would point this npm at the repository.
  const inherited = /^npm_(package|lifecycle|command|config_local_prefix)|^INIT_CWD$/
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !inherited.test(name)))
  return run('npm', args, { cwd, env, maxBuffer: 64 * 1_048_576 })
}

test('the tarball holds what a user needs and nothing else', () => {
  const wanted = /^(dist\/.+\.(js|d\.ts)|protos\/.+|LICENSE|README\.md|package\.json)$/
  expect(packed.filter((path) => !wanted.test(path))).toEqual([])
  expect(packed).toContain('LICENSE')
  expect(packed).toContain('README.md')
})

test('every file that package.json names is in the tarball', () => {
  const named = [
    ...Object.values(manifest.bin),
    ...Object.values(manifest.exports).flatMap((each) => targets(each)),
  ]
  expect(named.map((path) => path.replace(/^\.\//, '')).filter((path) => !packed.includes(path))).toEqual([])
})

function targets(entry: string | Readonly<Record<string, string>>): string[] {
  return typeof entry === 'string' ? [entry] : Object.values(entry)
}

interface Runtime {
  readonly major: number
  path(context: TestContext): Promise<string>
}

const runtimes: readonly Runtime[] = [
  { major: 22, path: async (context) => (await service('node22', {}, context)).path },
  { major: 24, path: async () => process.execPath },
]

describe.for(runtimes)('Node $major', ({ major, path }) => {
  test('is the version that it is called', async (context) => {
    const { stdout } = await run(await path(context), ['--version'])
    expect(stdout).toMatch(new RegExp(`^v${major}\\.`))
  })

  test.for(modules)('imports %s', async (subpath, context) => {
    const specifier = subpath.replace('.', manifest.name)
    const code = `console.log(Object.keys(await import(${JSON.stringify(specifier)})).length)`
    const cwd = own.includes(subpath) ? user : userOfBrokers
    const { stdout } = await run(await path(context), ['--input-type=module', '--eval', code], { cwd })
    expect(Number(stdout)).toBeGreaterThan(0)
  })

  test.for(commands)('escrow $args', async ({ args, prints }, context) => {
    const node = dirname(await path(context))
    const env = { ...process.env, PATH: `${node}${delimiter}${process.env.PATH}` }
    const { stdout } = await run(join(user, 'node_modules/.bin/escrow'), args, { cwd: user, env })
    expect(stdout).toContain(prints)
  })
})
