/**
 * Imports run one way. The table says what each part of src may import, types included; a new folder or a new
 * file at the top of src needs a row.
 */
import { builtinModules } from 'node:module'
import { dirname, join } from 'node:path'
import { expect, test } from 'vitest'
import { type Import, imports, type SourceFile, sources } from './source-files.ts'

interface Part {
  readonly files: RegExp
  /** Other parts that it may import; itself always. */
  readonly parts: readonly string[]
  /** Packages that it may import: names, or `node:*` for everything that Node brings. */
  readonly packages: readonly string[]
}

const grpc = ['@grpc/grpc-js', '@bufbuild/protobuf', '@opentelemetry/api', 'node:*']
const everyPort = ['store ports', 'broker port']
const everyAdapter = ['store adapters', 'broker adapters']
const libraries = ['core', 'wire', ...everyPort]

/** The first part whose pattern matches is the file's. */
const table: Readonly<Record<string, Part>> = {
  // Hashing is a pure function; lint keeps the randomness of node:crypto out. xstate: see the test below.
  core: { files: /^core\//, parts: [], packages: ['node:crypto', 'xstate'] },
  'store ports': { files: /^store\/(log|images|directory|store)\.ts$/, parts: ['core'], packages: [] },
  // How segments and images are laid out in bytes: the same for every adapter, and no I/O.
  'store format': {
    files: /^store\/(binary|opening|record|transaction-record|saga-record|saga-execution|segment)\.ts$/,
    parts: ['core', 'store ports'],
    packages: ['node:zlib'],
  },
  'store adapters': {
    files: /^store\//,
    parts: ['core', 'store ports', 'store format'],
    packages: ['lmdb', 'pg', 'node:*'],
  },
  'broker port': { files: /^broker\/broker\.ts$/, parts: ['core'], packages: [] },
  // What every adapter writes and reads alike.
  'broker headers': { files: /^broker\/headers\.ts$/, parts: ['core', 'broker port'], packages: [] },
  // In the service's process: messages that RocketMQ holds, settled by the checkers that participants have.
  'rocketmq native': {
    files: /^broker\/rocketmq-native\.ts$/,
    parts: ['core', 'broker adapters', 'participant', 'runtime'],
    packages: ['rocketmq-client-nodejs', 'node:*'],
  },
  // Each client of a broker is an optional peer of the package, imported by its adapter alone.
  'broker adapters': {
    files: /^broker\//,
    parts: ['core', 'broker port', 'broker headers'],
    packages: [
      'node:*',
      'kafkajs',
      '@platformatic/kafka',
      'rocketmq-client-nodejs',
      // For the channel under RocketMQ's stubs.
      '@grpc/grpc-js',
      'amqplib',
      '@redis/client',
      '@nats-io/transport-node',
      '@nats-io/jetstream',
      'pg',
    ],
  },
  // grpc-js for the session's stream and for the mapping of errors, which both sides of it need.
  wire: { files: /^wire\//, parts: ['core'], packages: ['@bufbuild/protobuf', '@grpc/grpc-js', 'node:*'] },
  // Hashing is a pure function; lint keeps the randomness of node:crypto out.
  engine: { files: /^engine\//, parts: ['core', ...everyPort, 'store format'], packages: ['node:crypto'] },
  rpc: {
    files: /^rpc\//,
    // A node is a client of the others.
    parts: ['core', 'wire', 'engine', 'session client'],
    packages: [...grpc, '@grpc/reflection'],
  },
  // What every client of a session needs, whether it is a service or a node.
  'session client': {
    files: /^participant\/(connection|requests|deadlines)\.ts$/,
    parts: ['core', 'wire'],
    packages: [],
  },
  participant: {
    files: /^participant\//,
    parts: ['core', 'wire', 'runtime', 'session client'],
    packages: grpc,
  },
  consumer: { files: /^consumer\//, parts: ['core', 'wire'], packages: ['@opentelemetry/api', 'node:*'] },
  observability: { files: /^observability\//, parts: ['core'], packages: ['@opentelemetry/api', 'node:*'] },
  config: { files: /^config(-[a-z]+)?\.ts$/, parts: ['core', ...everyPort], packages: ['node:*'] },
  coordinator: {
    files: /^(coordinator|stores)\.ts$/,
    // The participant's session, because a session in this process is the same as one over a network.
    parts: [
      ...libraries,
      ...everyAdapter,
      'engine',
      'rpc',
      'participant',
      'observability',
      'console',
      'config',
      'runtime',
    ],
    packages: ['node:*'],
  },
  // The real clock and randomness, which the others are given.
  runtime: { files: /^runtime\.ts$/, parts: ['core'], packages: ['node:*'] },
  saga: { files: /^saga\.ts$/, parts: ['core'], packages: [] },
  index: {
    files: /^index\.ts$/,
    parts: ['core', ...everyPort, 'participant', 'consumer', 'saga', 'config', 'runtime', 'coordinator'],
    packages: [],
  },
  console: { files: /^console\//, parts: ['core'], packages: ['node:*'] },
  testing: {
    files: /^testing\//,
    parts: [
      ...libraries,
      ...everyAdapter,
      'engine',
      'participant',
      'consumer',
      'config',
      'runtime',
      'coordinator',
    ],
    packages: ['node:*'],
  },
  cli: {
    files: /^cli\//,
    // The wire for what is asked over HTTP, whose JSON is that of the protos.
    parts: ['core', 'config', 'runtime', 'coordinator', 'participant', 'wire'],
    packages: ['@bufbuild/protobuf', 'node:*'],
  },
}

const files = sources('src')

function partOf(path: string): string | undefined {
  const name = path.replace(/^src\//, '')
  return Object.entries(table).find(([, part]) => part.files.test(name))?.[0]
}

function target(file: SourceFile, { specifier }: Import): string {
  return join(dirname(file.path), specifier)
}

function fault(file: SourceFile, each: Import): string | undefined {
  const name = partOf(file.path)
  if (name === undefined) return undefined
  const { parts, packages } = table[name]!
  if (each.specifier.startsWith('.')) {
    const path = target(file, each)
    if (!path.endsWith('.ts')) return 'a relative import ends in .ts'
    if (!path.startsWith('src/')) return 'nothing in src may import from outside of it'
    const to = partOf(path)
    if (to === name || (to !== undefined && parts.includes(to))) return undefined
    return `${name} may import ${[...parts].join(', ') || 'nothing but itself'}; this is ${to ?? 'in no row'}`
  }
  const isBuiltin = each.specifier.startsWith('node:') || builtinModules.includes(each.specifier)
  const allowed = packages.some((one) =>
    one === 'node:*' ? isBuiltin : each.specifier === one || each.specifier.startsWith(`${one}/`),
  )
  return allowed ? undefined : `${name} may import the packages ${packages.join(', ') || '(none)'}`
}

test('every file of src has a row in the import table', () => {
  expect(files.map((file) => file.path).filter((path) => partOf(path) === undefined)).toEqual([])
})

test('every import is allowed by the table', () => {
  const faults = files.flatMap((file) =>
    imports(file).flatMap((each) => {
      const why = fault(file, each)
      return why === undefined ? [] : [`${file.path}:${each.line} imports '${each.specifier}': ${why}`]
    }),
  )
  expect(faults).toEqual([])
})

test('xstate is imported by the one file that wraps it', () => {
  const importers = files.filter((file) =>
    imports(file).some(({ specifier }) => /^xstate(\/|$)/.test(specifier)),
  )
  expect(importers.map((file) => file.path)).toEqual(['src/core/saga/statechart.ts'])
})

test('the table itself has no cycle', () => {
  expect(
    cycle(Object.fromEntries(Object.entries(table).map(([name, { parts }]) => [name, parts]))),
  ).toBeUndefined()
})

test('no file imports itself through others, types aside', () => {
  const graph: Record<string, string[]> = {}
  for (const file of files) {
    const relative = imports(file).filter((each) => !each.isType && each.specifier.startsWith('.'))
    graph[file.path] = relative.map((each) => target(file, each))
  }
  expect(cycle(graph)?.join(' → ')).toBeUndefined()
})

/** The first cycle of a graph, from and to the same node. */
function cycle(graph: Readonly<Record<string, readonly string[]>>): string[] | undefined {
  const done = new Set<string>()
  const visit = (node: string, path: readonly string[]): string[] | undefined => {
    if (path.includes(node)) return [...path.slice(path.indexOf(node)), node]
    if (done.has(node)) return undefined
    for (const next of graph[node] ?? []) {
      const found = visit(next, [...path, node])
      if (found !== undefined) return found
    }
    done.add(node)
    return undefined
  }
  for (const node of Object.keys(graph)) {
    const found = visit(node, [])
    if (found !== undefined) return found
  }
  return undefined
}
