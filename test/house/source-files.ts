import { readdirSync, readFileSync } from 'node:fs'
import { join, relative, sep } from 'node:path'
import { parseAst } from 'vitest/node'

/** The repository's top folder. */
export const root: string = join(import.meta.dirname, '../..')

/** A node of the syntax tree (ESTree with TypeScript): its kind, its place, and whatever else its kind has. */
export interface SyntaxNode {
  readonly type: string
  readonly start: number
  readonly end: number
  readonly [key: string]: unknown
}

/** One TypeScript file that people write. */
export interface SourceFile {
  /** From the repository's top, with slashes. */
  readonly path: string
  readonly text: string
  readonly tree: SyntaxNode
  /** The line, counted from 1, of a place in the text. */
  line(offset: number): number
}

/** Every entry below a top folder, as paths from the repository's top; generated and produced ones are left out. */
export function paths(folder: string): string[] {
  const left = ['src/wire/gen', 'test/results']
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join('/'))
    .filter((path) => !left.some((each) => path.startsWith(`${each}/`)) && !path.includes('node_modules/'))
    .sort()
}

/** The TypeScript files below some top folders, parsed. */
export function sources(...folders: readonly string[]): SourceFile[] {
  return folders
    .flatMap(paths)
    .filter((path) => path.endsWith('.ts'))
    .map(parse)
}

function parse(path: string): SourceFile {
  const text = readFileSync(join(root, path), 'utf8')
  const tree = parseAst(text, { lang: 'ts' }, path) as unknown as SyntaxNode
  return { path, text, tree, line: (offset) => text.slice(0, offset).split('\n').length }
}

/** Visits a node and all below it, parents first. */
export function walk(node: SyntaxNode, visit: (node: SyntaxNode) => void): void {
  visit(node)
  for (const value of Object.values(node)) {
    for (const each of Array.isArray(value) ? value : [value]) if (isNode(each)) walk(each, visit)
  }
}

function isNode(value: unknown): value is SyntaxNode {
  return typeof value === 'object' && value !== null && typeof (value as SyntaxNode).type === 'string'
}

/** One import or re-export, static or dynamic. */
export interface Import {
  readonly specifier: string
  readonly line: number
  /** Erased before the program runs. */
  readonly isType: boolean
}

/** What a file imports, in order. A dynamic import of something computed is left out. */
export function imports(file: SourceFile): Import[] {
  const found: Import[] = []
  walk(file.tree, (node) => {
    const source = node.source
    if (!importing.has(node.type) || !isNode(source) || typeof source.value !== 'string') return
    const isType = node.importKind === 'type' || node.exportKind === 'type' || node.type === 'TSImportType'
    found.push({ specifier: source.value, line: file.line(node.start), isType })
  })
  return found
}

const importing = new Set([
  'ImportDeclaration',
  'ExportNamedDeclaration',
  'ExportAllDeclaration',
  'ImportExpression',
  'TSImportType',
])
