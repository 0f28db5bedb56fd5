/** Prepares messages that nobody settles, and answers the question about one of them. */
import { once } from 'node:events'
import { connect } from '../../src/participant/connect.ts'
import type { Session } from '../../src/participant/session.ts'

/** What a waiting process is asked, one after the other. */
export type WaitingQuestion =
  | { readonly type: 'connect'; readonly port: number }
  | { readonly type: 'fill'; readonly count: number; readonly inFlight: number; readonly bodyBytes: number }
  /** Prepares one whose check-back is due after `delayMs`, and takes its checker away. */
  | { readonly type: 'due'; readonly port: number; readonly delayMs: number }
  /** Brings the checker back, and answers with the time at which it is asked: `process.hrtime` in milliseconds. */
  | { readonly type: 'await'; readonly port: number }

const A_DAY_MS = 86_400_000
const MESSAGES = [{ destination: 'waiting/take', body: Buffer.alloc(0) }]
let session: Session | undefined

async function open(port: number): Promise<void> {
  session = await connect(`127.0.0.1:${port}`, { service: 'waiting' })
  await session.registerChecker('waiting', () => 'unknown')
  await session.registerHandlers({ take() {} })
}

/** Keeps so many prepares in flight until all are held. */
function fill({ count, inFlight, bodyBytes }: Extract<WaitingQuestion, { type: 'fill' }>): Promise<void> {
  const messages = [{ ...MESSAGES[0]!, body: Buffer.alloc(bodyBytes, 'x') }]
  const checkBack = { delayMs: A_DAY_MS, delayMsMax: A_DAY_MS, unresolvedMsMax: 2 * A_DAY_MS }
  let begun = 0
  let ended = 0
  return new Promise((resolve, reject) => {
    const begin = (): void => {
      begun += 1
      session?.prepare({ checker: 'waiting', messages, checkBack }).then(end, reject)
    }
    const end = (): void => {
      ended += 1
      if (begun < count) begin()
      else if (ended === count) resolve()
    }
    while (begun < Math.min(inFlight, count)) begin()
  })
}

async function prepareDue(port: number, delayMs: number): Promise<void> {
  const late = await connect(`127.0.0.1:${port}`, { service: 'late' })
  await late.registerChecker('late', () => 'unknown')
  await late.prepare({ checker: 'late', messages: MESSAGES, checkBack: { delayMs } })
  await late.close()
}

async function awaitQuestion(port: number): Promise<number> {
  const late = await connect(`127.0.0.1:${port}`, { service: 'late' })
  const asked = new Promise<number>((resolve) => {
    void late.registerChecker('late', () => {
      resolve(Number(process.hrtime.bigint()) / 1e6)
      return 'unknown'
    })
  })
  return await asked
}

async function answer(question: WaitingQuestion): Promise<number> {
  switch (question.type) {
    case 'connect':
      await open(question.port)
      return 0
    case 'fill':
      await fill(question)
      return question.count
    case 'due':
      await prepareDue(question.port, question.delayMs)
      return 0
    case 'await':
      return await awaitQuestion(question.port)
  }
}

process.on('message', (question: WaitingQuestion) => {
  answer(question).then(
    (said) => process.send?.(said),
    (error) => {
      console.error(error)
      process.exit(1)
    },
  )
})
await once(process, 'disconnect')
process.exit()
