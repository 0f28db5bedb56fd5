import { expect, test } from 'vitest'
import { type SourceFile, type SyntaxNode, sources, walk } from './source-files.ts'

const fileLinesMax = 400
/** A test file is a list; nobody reads it as one chapter. */
const testFileLinesMax = 600
const functionLinesMax = 100
/** Where to stop and think: printed, not failed. */
const functionLinesWarned = 60

/** Files that are longer, each with the reason. */
const longer: Readonly<Record<string, string>> = {}

const files = sources('src', 'examples', 'test')
const isTest = (path: string) => path.endsWith('.test.ts')

test('no file is longer than one chapter', () => {
  const faults = files
    .filter((file) => !(file.path in longer))
    .map((file) => ({ path: file.path, lines: file.text.trimEnd().split('\n').length }))
    .filter(({ path, lines }) => lines > (isTest(path) ? testFileLinesMax : fileLinesMax))
  expect(faults).toEqual([])
})

test('an exception to the length is still needed and has a reason', () => {
  const paths = files.map((file) => file.path)
  expect(Object.entries(longer).filter(([path, reason]) => !paths.includes(path) || reason === '')).toEqual(
    [],
  )
})

test('no function is longer than a page', () => {
  const all = files.filter((file) => !isTest(file.path)).flatMap(functions)
  for (const { at, lines } of all) if (lines > functionLinesWarned) console.warn(`${at}: ${lines} lines`)
  expect(all.filter(({ lines }) => lines > functionLinesMax)).toEqual([])
})

function functions(file: SourceFile): { at: string; lines: number }[] {
  const found: { at: string; lines: number }[] = []
  walk(file.tree, (node: SyntaxNode) => {
    if (!/^(FunctionDeclaration|FunctionExpression|ArrowFunctionExpression)$/.test(node.type)) return
    const line = file.line(node.start)
    found.push({ at: `${file.path}:${line}`, lines: file.line(node.end) - line + 1 })
  })
  return found
}
