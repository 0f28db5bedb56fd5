/** The commands that tell who shares the store, and how far each log is. */
import { fromJson, type JsonValue } from '@bufbuild/protobuf'
import { EscrowError } from '../core/errors.ts'
import { errorFromHttp } from '../wire/errors.ts'
import {
  type ListNodesResponse,
  ListNodesResponseSchema,
  type LogProgress,
  NodeState,
} from '../wire/gen/escrow/v1/coordinator_pb.ts'
import { type Command, parse } from './command.ts'
import { HTTP_HELP, httpAddress } from './health.ts'
import { printTable, time } from './print.ts'

const TIMEOUT_MS = 5_000
const STATES = ['unknown', 'here', 'leaving', 'silent'] as const satisfies Record<NodeState, string>

/** `escrow nodes`. */
export const nodes = command(
  'nodes',
  'shows the coordinators that share the store, as the one that is asked sees them',
  ({ nodes: all, logs }) => {
    const rows = all.map(({ node, state, startedAtMs, silentMs, logs: had }) => [
      nameOf(node),
      STATES[state] ?? 'unknown',
      time(Number(startedAtMs)),
      `${(Number(silentMs) / 1000).toFixed(1)} s`,
      `${had.length} of ${logs}`,
    ])
    printTable(['NODE', 'STATE', 'STARTED', 'SILENT FOR', 'LOGS'], rows)
  },
)

/** `escrow logs`. */
export const logs = command(
  'logs',
  'shows which coordinator has which log of the store, since when, and how far its checkpoints are',
  ({ nodes: all, logs: count }) => {
    const owners = new Map<number, { readonly node: string; readonly progress: LogProgress }>()
    for (const { node, state, logs: had } of all) {
      if (state === NodeState.SILENT) continue
      for (const progress of had) owners.set(progress.log, { node, progress })
    }
    const rows = Array.from({ length: count }, (_, log) => {
      const { node, progress } = owners.get(log) ?? {}
      if (node === undefined || progress === undefined)
        return [String(log), 'nobody: being taken over', '', '', '', '', '']
      const { epoch, sinceMs, head, checkpointed, asOfMs } = progress
      const behind = head - checkpointed
      return [
        String(log),
        nameOf(node),
        time(Number(sinceMs)),
        String(epoch),
        String(head),
        `${checkpointed} (${behind} behind)`,
        time(Number(asOfMs)),
      ]
    })
    printTable(['LOG', 'NODE', 'SINCE', 'EPOCH', 'HEAD', 'CHECKPOINTED', 'LIST IS TRUE FOR'], rows)
  },
)

const nameOf = (node: string): string => (node === '' ? '(alone)' : node)

function command(name: string, summary: string, print: (response: ListNodesResponse) => void): Command {
  return {
    name,
    summary,
    help: `Usage: escrow ${name} [OPTIONS]

${summary[0]?.toUpperCase()}${summary.slice(1)}.

${HTTP_HELP}
  --json                    prints the answer as JSON`,
    async run(args) {
      const { values } = parse(args, {
        options: { 'http-address': { type: 'string' }, json: { type: 'boolean' } },
      })
      const answer = await ask(httpAddress(values['http-address']))
      if (values.json === true) console.log(JSON.stringify(answer, undefined, 2))
      else print(fromJson(ListNodesResponseSchema, answer))
      return 0
    },
  }
}

async function ask(address: string): Promise<JsonValue> {
  let status: number
  let body: string
  try {
    const response = await fetch(`http://${address}/escrow.v1.CoordinatorService/ListNodes`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{}',
      signal: AbortSignal.timeout(TIMEOUT_MS),
    })
    status = response.status
    body = await response.text()
  } catch (cause) {
    throw new EscrowError('disconnected', `no coordinator answers at http://${address}`, { cause })
  }
  if (status !== 200) throw errorFromHttp(status, body)
  return JSON.parse(body) as JsonValue
}
