/**
 * `npm run proto:generate`: makes the protobuf-es code of protos/ in src/wire/gen/, which is committed.
 * `npm run proto:check`: holds the protos to buf's rules and comments, the generated code to the protos, and both to
 * what was landed last: nothing that speaks the landed protos may break.
 * `node src/wire/generate.ts --land`: all of `--check`, then takes the protos as they are for the landed ones. To be
 * run by whoever lands a change of protos/, never to silence the check.
 *
 * The landed protos are kept as a buf image in protos/landed.binpb, and not as "the last commit": a check against git
 * would pass as soon as a breaking change is committed, and would not work in an export without history.
 */
import { spawnSync } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(import.meta.dirname, '..', '..')
const protos = join(root, 'protos')
const gen = join(import.meta.dirname, 'gen')
const landed = join(protos, 'landed.binpb')

/** The file behind a command of a package, to be run on this very Node: the one on the path may be too old for it. */
function packageFile(name: string, path: string): string {
  let folder = import.meta.dirname
  while (!existsSync(join(folder, 'node_modules', name))) {
    if (folder === dirname(folder)) throw new Error(`${name} is not installed: run \`npm ci\``)
    folder = dirname(folder)
  }
  return join(folder, 'node_modules', name, path)
}

function buf(...args: readonly string[]): void {
  const command = [packageFile('@bufbuild/buf', 'bin/buf'), ...args]
  const { status, error } = spawnSync(process.execPath, command, { cwd: root, stdio: 'inherit' })
  // What is wrong, buf has printed.
  if (status !== 0) throw new Error(`buf ${args[0]} failed`, { cause: error })
}

function generateInto(out: string): void {
  const plugin = {
    local: [process.execPath, packageFile('@bufbuild/protoc-gen-es', 'bin/protoc-gen-es')],
    out,
    opt: ['target=ts', 'import_extension=ts', 'erasable_syntax=true'],
  }
  buf('generate', protos, '--template', JSON.stringify({ version: 'v2', plugins: [plugin] }))
}

const filesBelow = (folder: string): readonly string[] =>
  existsSync(folder)
    ? readdirSync(folder, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
        .sort()
    : []

/** The files that differ between two folders, or stand in one of them only. */
function differences(left: string, right: string): readonly string[] {
  const files = new Set([...filesBelow(left), ...filesBelow(right)])
  return [...files].filter((file) => {
    const [a, b] = [join(left, file), join(right, file)]
    return !existsSync(a) || !existsSync(b) || !readFileSync(a).equals(readFileSync(b))
  })
}

/** Replaces the generated code, once there is something to replace it with. */
function generate(): void {
  withFolder((folder) => {
    const fresh = join(folder, 'gen')
    generateInto(fresh)
    rmSync(gen, { recursive: true, force: true })
    cpSync(fresh, gen, { recursive: true })
  })
}

function withFolder(work: (folder: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'escrow-protos-'))
  try {
    work(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function check(): void {
  buf('lint', protos)
  withFolder((folder) => {
    const fresh = join(folder, 'gen')
    generateInto(fresh)
    const stale = differences(fresh, gen)
    if (stale.length > 0) {
      throw new Error(`src/wire/gen is stale (${stale.join(', ')}): run \`npm run proto:generate\``)
    }
  })
  if (!existsSync(landed)) throw new Error('protos/landed.binpb is missing: restore it from the repository')
  buf('breaking', protos, '--against', landed)
}

function land(): void {
  withFolder((folder) => {
    // Without source information: a comment is no part of the promise, and the image stays small.
    const image = join(folder, 'landed.binpb')
    buf('build', protos, '--exclude-source-info', '--output', image)
    if (existsSync(landed)) check()
    copyFileSync(image, landed)
  })
}

function main(args: readonly string[]): void {
  const [verb = '--generate', ...rest] = args
  if (rest.length > 0) throw new Error(`one flag at most, not ${args.join(' ')}`)
  switch (verb) {
    case '--generate':
      return generate()
    case '--check':
      return check()
    case '--land':
      return land()
    default:
      throw new Error(`unknown flag ${verb}: --check, --land or none`)
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    main(process.argv.slice(2))
  } catch (error) {
    console.error(`proto: ${(error as Error).message}`)
    process.exitCode = 1
  }
}
