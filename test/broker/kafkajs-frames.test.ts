import { EventEmitter } from 'node:events'
import type { Socket } from 'node:net'
import { expect, test } from 'vitest'
import { withWholeAnswers } from '../../src/broker/kafka/kafkajs-frames.ts'

const answer = (text: string) => {
  const bytes = Buffer.alloc(4 + text.length, text)
  bytes.writeInt32BE(text.length)
  bytes.write(text, 4)
  return bytes
}

test('however the bytes come, only whole answers are handed on, and all of them', () => {
  const answers = ['a', 'bcd', '', 'efghijk', 'l'].map(answer)
  const bytes = Buffer.concat(answers)
  for (let size = 1; size <= bytes.length; size++) {
    const socket = withWholeAnswers(new EventEmitter() as Socket)
    const seen: Buffer[] = []
    socket.on('data', (chunk: Buffer) => {
      seen.push(chunk)
      // A chunk ends where an answer does.
      const ends = answers.map((_, at) => Buffer.concat(answers.slice(0, at + 1)).length)
      expect(ends).toContain(Buffer.concat(seen).length)
    })
    for (let at = 0; at < bytes.length; at += size) socket.emit('data', bytes.subarray(at, at + size))
    expect(Buffer.concat(seen)).toEqual(bytes)
  }
})

test('the beginning of an answer is kept back, and other events are not', () => {
  const socket = withWholeAnswers(new EventEmitter() as Socket)
  let ended = false
  socket.on('data', () => expect.unreachable())
  socket.on('end', () => {
    ended = true
  })
  socket.emit('data', answer('never whole').subarray(0, 9))
  socket.emit('end')
  expect(ended).toBe(true)
})
