import { expect, test } from 'vitest'
import { LIVE_SHAPE } from '../../src/store/postgres/rows.ts'
import { rowOf } from './contract-fixtures.ts'

/** Where the keys of a statement stand, and what stands there. */
const lend = (name: string, until: Promise<void>) =>
  LIVE_SHAPE.lend([rowOf(name, 1)], async ([keys]) => {
    const before = keys?.toString('latin1')
    await until
    return { place: keys?.buffer, at: keys?.byteOffset, before, after: keys?.toString('latin1') }
  })

test('the arrays of a statement are its own until it was answered, and are used again then', async () => {
  const { promise, resolve } = Promise.withResolvers<void>()
  const slow = lend('one', promise)
  const quick = await lend('two', Promise.resolve())
  const next = await lend('three', Promise.resolve())
  resolve()
  const { before, after, ...first } = await slow
  expect(before).toContain('one')
  expect(after).toBe(before)
  expect([next.place, next.at]).toEqual([quick.place, quick.at])
  expect([first.place, first.at]).not.toEqual([quick.place, quick.at])
  expect(next.before).toContain('three')
})

test('the arrays of a statement that failed are not used again: a connection may still be sending them', async () => {
  let lost: Buffer | undefined
  const failed = LIVE_SHAPE.lend([rowOf('four', 1)], async ([keys]) => {
    lost = keys
    throw new Error('the connection was cut')
  })
  await expect(failed).rejects.toThrow('the connection was cut')
  const before = lost?.toString('latin1')
  for (const name of ['five', 'six', 'seven']) await lend(name, Promise.resolve())
  expect(lost?.toString('latin1')).toBe(before)
})
