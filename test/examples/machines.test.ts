import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { bookTrip } from '../../examples/machines/trip.ts'
import { CoordinatorProcess } from '../harness/coordinator-process.ts'
import { Program } from '../harness/program.ts'

const config = join(import.meta.dirname, '../../examples/machines/escrow.config.ts')

test('the example with a hand-written machine books one trip and undoes the other', async () => {
  await using coordinator = await CoordinatorProcess.start({ config })
  const main = new Program({ file: 'examples/machines/main.ts', args: [coordinator.grpc] })
  onTestFinished(() => void main.kill())
  expect(await main.end()).toEqual({ code: 0, signal: null })
  const [booked, undone] = main.output.split(/^(?=lisbon, declined)/m)
  expect(booked).toMatch(/^lisbon, good card: completed \{ room: 'room 7'/)
  expect(booked).toMatch(/done {3}pay\n {2}done {3}issue-tickets\n$/)
  expect(undone).toMatch(/^lisbon, declined card: compensated step "pay": declined/)
  expect(undone?.match(/undone/g)).toHaveLength(4)
  expect(undone).toMatch(/ {2}done {3}book-hotel\n {2}undone book-hotel\n/)
})

test('its diagram shows every state', () => {
  const diagram = bookTrip.diagram()
  for (const state of ['planning', 'booking', 'asBefore', 'onHold', 'ticketing'])
    expect(diagram).toContain(state)
})
