/** The commands that start sagas, and tell those that run something. */
import { readFileSync } from 'node:fs'
import { EscrowError } from '../core/errors.ts'
import type { Json } from '../core/saga/program.ts'
import type { SagaCompletion, SagaStart } from '../participant/saga-requests.ts'
import type { Session } from '../participant/session.ts'
import { define, type Given, printStatus, timeout } from './client-command.ts'
import type { ClientOptions } from './client-options.ts'
import { numberOf, tagsOf, UsageError } from './command.ts'
import { printTransaction } from './print.ts'

const WAIT_TIMEOUT_MS = 300_000
const SAGA_TIMEOUT_MS_MAX = 366 * 86_400_000

const START_FLAGS = {
  input: { type: 'string' },
  id: { type: 'string' },
  'business-key': { type: 'string' },
  tag: { type: 'string', multiple: true },
  'ordering-key': { type: 'string' },
  'saga-timeout-ms': { type: 'string' },
  wait: { type: 'boolean' },
} as const
const START_HELP = `  --input JSON           what it is started with, default nothing
  --id ID                its id: started again under it, it is the same saga; default: one is minted
  --business-key KEY     what people look it up by
  --tag KEY=VALUE        a search attribute; may be given several times
  --ordering-key KEY     sagas and messages of one key live in the same log
  --saga-timeout-ms N    how long it may take; past it, it is undone
  --wait                 waits until it has ended or is parked, by default for ${WAIT_TIMEOUT_MS} ms, and shows it; ends with
                         1 unless it is completed`

/** `escrow saga start NAME`. */
export const sagaStart = define({
  name: 'saga start',
  summary: "starts a saga of the coordinator's configuration",
  usage: 'NAME [--input JSON] [OPTIONS]',
  help: `  --version N            which version, default the newest
${START_HELP}`,
  flags: { ...START_FLAGS, version: { type: 'string' } },
  takes: ['NAME'],
  run(given) {
    const version = numberOf('--version', given.values.version as string | undefined, 1, 1_000_000)
    return start(given, { ...startOf(given), saga: given.id, version })
  },
})

/** `escrow saga slip FILE`. */
export const sagaSlip = define({
  name: 'saga slip',
  summary: 'starts a routing slip: a saga as JSON in a file, defined nowhere else',
  usage: 'FILE [--input JSON] [OPTIONS]',
  help: `  --diagram              checks it, and prints its diagram instead of starting it; asks no coordinator
${START_HELP}`,
  flags: { ...START_FLAGS, diagram: { type: 'boolean' } },
  takes: ['FILE'],
  async run(given) {
    // Only here: the other commands needn't wait for xstate to load.
    const { compileSlip, parseSlip } = await import('../core/saga/slip.ts')
    const slip = parseSlip(textOf(given.id))
    // Before it is sent, so that what is wrong is told without a coordinator too.
    const definition = compileSlip(slip)
    if (given.values.diagram !== true) return start(given, { ...startOf(given), slip: slip as object })
    process.stdout.write(definition.diagram())
    return 0
  },
})

/** `escrow saga signal ID NAME`. */
export const sagaSignal = define({
  name: 'saga signal',
  summary: 'tells a saga something; where it does not wait for that yet, it keeps it',
  usage: 'ID NAME [--payload JSON] [OPTIONS]',
  help: `  --payload JSON         what the signal carries, default nothing
  --signal-id ID         the same one twice is one signal; default: each is its own`,
  flags: { payload: { type: 'string' }, 'signal-id': { type: 'string' } },
  takes: ['ID', 'NAME'],
  async run({ id, positionals, values, session, options }) {
    const payload = jsonOf('--payload', values.payload)
    const request = {
      id,
      signal: positionals[1] as string,
      payload,
      signalId: textValue(values['signal-id']),
    }
    printStatus(id, await (await session()).signal(request, timeout(options)), options)
    return undefined
  },
})

/** `escrow saga cancel ID`. */
export const sagaCancel = define({
  name: 'saga cancel',
  summary: 'undoes a saga that runs, unless its pivot was sent',
  usage: 'ID [--reason TEXT] [OPTIONS]',
  help: '  --reason TEXT          why, for people',
  flags: { reason: { type: 'string' } },
  takes: ['ID'],
  async run({ id, values, session, options }) {
    const reason = textValue(values.reason)
    printStatus(id, await (await session()).cancel({ id, reason }, timeout(options)), options)
    return undefined
  },
})

/** `escrow saga complete ID EXECUTION`. */
export const sagaComplete = define({
  name: 'saga complete',
  summary: 'says how a step ended that was answered `later`',
  usage: 'ID EXECUTION [--result JSON | --refused REASON | --failed REASON] [OPTIONS]',
  help: `  --result JSON          it is done, and gave this; without any of the three: it is done, and gave nothing
  --refused REASON       it did nothing, and never will
  --failed REASON        not now: it is tried again
  --code CODE            what went wrong, for programs
  --attempt N            which attempt it is said of, default the one under way`,
  flags: {
    result: { type: 'string' },
    refused: { type: 'string' },
    failed: { type: 'string' },
    code: { type: 'string' },
    attempt: { type: 'string' },
  },
  takes: ['ID', 'EXECUTION'],
  async run({ id, positionals, values, session, options }) {
    const executionId = positionals[1] as string
    const response = responseOf(values)
    const given = numberOf('--attempt', textValue(values.attempt), 1, 1_000_000)
    // What happened, happened, in whichever attempt.
    const isNeeded = given === undefined && response.outcome !== 'done'
    const attempt = isNeeded ? await attemptOf(await session(), id, executionId, options) : given
    const request = { id, executionId, attempt, response }
    printStatus(id, await (await session()).complete(request, timeout(options)), options)
    return undefined
  },
})

/** The attempt of an execution that is under way; undefined for an execution that isn't there. */
async function attemptOf(
  session: Session,
  id: string,
  executionId: string,
  options: ClientOptions,
): Promise<number | undefined> {
  const { saga } = await session.get({ id }, timeout(options))
  const execution = saga?.executions.find((each) => each.executionId === executionId)
  return execution && execution.attempts + 1
}

function responseOf(values: Given['values']): SagaCompletion['response'] {
  const given = (['result', 'refused', 'failed'] as const).filter((each) => values[each] !== undefined)
  if (given.length > 1) throw new UsageError(`--${given.join(' and --')} exclude each other`)
  const [outcome = 'result'] = given
  if (outcome === 'result') return { outcome: 'done', result: jsonOf('--result', values.result) }
  return { outcome, error: textValue(values[outcome]), code: textValue(values.code) }
}

function startOf({ values }: Given): SagaStart {
  return {
    id: textValue(values.id),
    input: jsonOf('--input', values.input),
    businessKey: textValue(values['business-key']),
    orderingKey: textValue(values['ordering-key']),
    tags: tagsOf((values.tag ?? []) as readonly string[]),
    timeoutMs: numberOf('--saga-timeout-ms', textValue(values['saga-timeout-ms']), 1, SAGA_TIMEOUT_MS_MAX),
  }
}

async function start({ values, session, options }: Given, request: SagaStart): Promise<number> {
  const open = await session()
  const started = await open.startSaga(request, timeout(options))
  const tell = (): void =>
    console.log(options.json ? JSON.stringify(started) : `${started.id} ${started.status}`)
  if (values.wait !== true) {
    tell()
    return 0
  }
  const timeoutMs = values['timeout-ms'] === undefined ? WAIT_TIMEOUT_MS : options.timeoutMs
  const view = await open.wait({ id: started.id }, { timeoutMs }).catch((thrown) => {
    // It goes on: who waited for it needs its id to ask again.
    tell()
    throw thrown
  })
  printTransaction(view, options.json)
  return view.status === 'completed' ? 0 : 1
}

const textValue = (value: unknown): string | undefined => value as string | undefined

function jsonOf(name: string, value: unknown): Json | undefined {
  if (value === undefined) return undefined
  try {
    return JSON.parse(value as string)
  } catch (thrown) {
    throw new UsageError(`${name} is not JSON: ${(thrown as Error).message}`)
  }
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (cause) {
    throw new EscrowError(
      'invalidArgument',
      `the routing slip ${file} can't be read: ${(cause as Error).message}`,
      {
        cause,
      },
    )
  }
}
