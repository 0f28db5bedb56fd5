/** Begins transactions that wait, messages that nobody settles or sagas that nobody signals, and acts for the one that is due. */
import { once } from 'node:events'
import { connect } from '../../src/participant/connect.ts'
import type { Session } from '../../src/participant/session.ts'
import { dueSoon, orderOf, waitingForADay } from './saga-definitions.ts'

/** What waits. */
export type WaitingOf = 'messages' | 'sagas'

/** What a waiting process is asked, one after the other. */
export type WaitingQuestion =
  | { readonly type: 'connect'; readonly port: number }
  | { readonly type: 'fill'; readonly count: number; readonly inFlight: number; readonly bodyBytes: number }
  /** Begins one that is due soon, and takes away whoever would act. */
  | { readonly type: 'due'; readonly port: number }
  /** Brings whoever acts back, and answers with the time at which it is called: `process.hrtime` in milliseconds. */
  | { readonly type: 'await'; readonly port: number }

/** What those who wait are, and the one that is due soon. */
interface Waiters {
  /** Has all names registered that those who wait need. */
  register(session: Session, port: number): Promise<void>
  begin(session: Session, bodyBytes: number): () => Promise<unknown>
  /** Serves what is called when the wait is over. */
  act(late: Session, called: () => void): Promise<void>
  beginDue(late: Session): Promise<unknown>
}

const A_DAY_MS = 86_400_000
const DUE_AFTER_MS = 1_000
const messagesOf = (bytes: number) => [{ destination: 'waiting/take', body: Buffer.alloc(bytes, 'x') }]

const openLate = (port: number): Promise<Session> => connect(`127.0.0.1:${port}`, { service: 'late' })

const WAITERS: Readonly<Record<WaitingOf, Waiters>> = {
  messages: {
    async register(session) {
      await session.registerChecker('waiting', () => 'unknown')
      await session.registerHandlers({ take() {} })
    },
    begin(session, bodyBytes) {
      const checkBack = { delayMs: A_DAY_MS, delayMsMax: A_DAY_MS, unresolvedMsMax: 2 * A_DAY_MS }
      const request = { checker: 'waiting', messages: messagesOf(bodyBytes), checkBack }
      return () => session.prepare(request)
    },
    async act(late, called) {
      await late.registerChecker('late', () => {
        called()
        return 'unknown'
      })
    },
    beginDue: (late) =>
      late.prepare({ checker: 'late', messages: messagesOf(0), checkBack: { delayMs: DUE_AFTER_MS } }),
  },
  sagas: {
    async register(_, port) {
      const late = await openLate(port)
      await late.registerHandlers({ act: { action() {} } })
      await late.close()
    },
    begin(session, bodyBytes) {
      const request = { saga: waitingForADay, input: orderOf(0, bodyBytes) }
      return () => session.startSaga(request)
    },
    act: (late, called) => late.registerHandlers({ act: { action: () => called() } }),
    beginDue: (late) => late.startSaga({ saga: dueSoon, input: orderOf(0, 0) }),
  },
}

const waiters = WAITERS[process.argv[2] as WaitingOf]
let session: Session | undefined

/** Keeps so many in flight until all are held. */
function fill({ count, inFlight, bodyBytes }: Extract<WaitingQuestion, { type: 'fill' }>): Promise<void> {
  const beginOne = waiters.begin(session!, bodyBytes)
  let begun = 0
  let ended = 0
  return new Promise((resolve, reject) => {
    const begin = (): void => {
      begun += 1
      beginOne().then(end, reject)
    }
    const end = (): void => {
      ended += 1
      if (begun < count) begin()
      else if (ended === count) resolve()
    }
    while (begun < Math.min(inFlight, count)) begin()
  })
}

async function beginDue(port: number): Promise<void> {
  const late = await openLate(port)
  await waiters.act(late, () => {})
  await waiters.beginDue(late)
  await late.close()
}

async function awaitCall(port: number): Promise<number> {
  const late = await openLate(port)
  return await new Promise<number>((resolve, reject) => {
    waiters.act(late, () => resolve(Number(process.hrtime.bigint()) / 1e6)).catch(reject)
  })
}

async function answer(question: WaitingQuestion): Promise<number> {
  switch (question.type) {
    case 'connect':
      session = await connect(`127.0.0.1:${question.port}`, { service: 'waiting' })
      await waiters.register(session, question.port)
      return 0
    case 'fill':
      await fill(question)
      return question.count
    case 'due':
      await beginDue(question.port)
      return 0
    case 'await':
      return await awaitCall(question.port)
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
