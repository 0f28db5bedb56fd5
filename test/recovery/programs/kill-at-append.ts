/**
 * Loaded into a coordinator before it starts: tells each append that changes the transaction KILL_ID, as `appended N`, and
 * kills the process at one of them. KILL_AT=`before N`: nothing of it has reached the store. `after N`: it is durable, and
 * nothing that waits for it has left. Empty: it only counts.
 */
import { writeSync } from 'node:fs'
import { EmbeddedHandle } from '../../../src/store/embedded/logs.ts'
import { readSegment } from '../../../src/store/segment.ts'

const { KILL_ID = '', KILL_AT = '' } = process.env
const key = `default/${KILL_ID}`
let appends = 0

const { append } = EmbeddedHandle.prototype
EmbeddedHandle.prototype.append = async function (segment) {
  const isCounted = [...readSegment(segment.bytes).records()].some((record) => record.key === key)
  if (!isCounted) return await append.call(this, segment)
  appends += 1
  const at = appends
  reach(`before ${at}`)
  const outcome = await append.call(this, segment)
  reach(`after ${at}`)
  writeSync(1, `appended ${at}\n`)
  return outcome
}

function reach(here: string): void {
  if (here !== KILL_AT) return
  writeSync(1, `killed ${here}\n`)
  process.kill(process.pid, 'SIGKILL')
}
