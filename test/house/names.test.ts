import { readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { expect, test } from 'vitest'
import { paths, root, sources, walk } from './source-files.ts'

const top = [
  'docker-compose.yml',
  'examples',
  'LICENSE',
  'package-lock.json',
  'package.json',
  'protos',
  'README.md',
  'src',
  'test',
  'tsconfig.json',
]
/** Made by npm and by the build; ignored by git. */
const produced = ['dist', 'node_modules']
const emptyWords = /(^|[-.])(utils?|helpers?|managers?|common|misc|v\d+)([-.]|$)/

const all = ['src', 'test', 'examples'].flatMap(paths)

test('the top of the repository holds what belongs there', () => {
  const entries = readdirSync(root).filter((name) => !name.startsWith('.') && !name.endsWith('.tgz'))
  expect(entries.filter((name) => !top.includes(name) && !produced.includes(name))).toEqual([])
})

test('files and folders are in kebab case', () => {
  const kebab = /^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+)*$/
  const faults = all.filter((path) => !path.split('/').every((part) => kebab.test(part)))
  expect(faults).toEqual([])
})

test('no file or folder has a name that says nothing', () => {
  expect(all.filter((path) => path.split('/').some((part) => emptyWords.test(part)))).toEqual([])
})

test('no test is skipped, focused or promised', () => {
  const faults = sources('test').flatMap((file) => {
    const found: string[] = []
    walk(file.tree, (node) => {
      if (node.type !== 'MemberExpression') return
      const text = file.text.slice(node.start, node.end)
      if (/^(it|test|describe|suite)\b.*\.(skip|only|todo|skipIf|runIf|fails)$/s.test(text))
        found.push(`${file.path}:${file.line(node.start)}: ${text}`)
    })
    return found
  })
  expect(faults).toEqual([])
})

test('what is left to do names who does it', () => {
  const words = ['TO', 'FIX', 'XX', 'HA'].map((word, index) => word + ['DO', 'ME', 'X', 'CK'][index])
  const unowned = new RegExp(`\\b(${words.join('|')})\\b(?!\\([a-z][\\w-]*\\))`)
  const faults = [...all, ...paths('protos')].flatMap((path) =>
    readFileSync(join(root, path), 'utf8')
      .split('\n')
      .flatMap((line, index) => (unowned.test(line) ? [`${path}:${index + 1}: ${line.trim()}`] : [])),
  )
  expect(faults).toEqual([])
})

test('every test file is one that the runner finds', () => {
  const faults = paths('test').filter(
    (path) => /(test|spec)\.[cm]?[jt]sx?$/.test(basename(path)) && !path.endsWith('.test.ts'),
  )
  expect(faults).toEqual([])
})
