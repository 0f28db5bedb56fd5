import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { root } from './source-files.ts'

interface Manifest {
  readonly name: string
  readonly version: string
  readonly dependencies: Readonly<Record<string, string>>
  readonly devDependencies: Readonly<Record<string, string>>
  readonly overrides: Readonly<Record<string, string>>
}

interface Lock {
  readonly packages: Readonly<
    Record<string, { version?: string; resolved?: string; integrity?: string } & Partial<Manifest>>
  >
}

const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest
const lockText = readFileSync(join(root, 'package-lock.json'), 'utf8')
const lock = JSON.parse(lockText) as Lock
const pins = { ...manifest.dependencies, ...manifest.devDependencies }

test('every version in package.json is one version, not a range', () => {
  const exact = /^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$/
  const faults = Object.entries({ ...pins, ...manifest.overrides }).filter(
    ([, version]) => !exact.test(version),
  )
  expect(faults).toEqual([])
})

test('the lock says nothing about where packages were fetched', () => {
  const faults = Object.entries(lock.packages).filter(([, entry]) => entry.resolved !== undefined)
  expect(faults.map(([path]) => path)).toEqual([])
  expect(lockText).not.toMatch(/https?:\/\/[^"]*\.tgz/)
})

test('the lock has a checksum for every package', () => {
  const faults = Object.entries(lock.packages).filter(([path, entry]) => path !== '' && !entry.integrity)
  expect(faults.map(([path]) => path)).toEqual([])
})

test('the lock is the one of this package.json', () => {
  const locked = lock.packages['']
  expect({ ...locked?.dependencies, ...locked?.devDependencies }).toEqual(pins)
  for (const [name, version] of Object.entries(pins))
    expect([name, lock.packages[`node_modules/${name}`]?.version]).toEqual([name, version])
})
