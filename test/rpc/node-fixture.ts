/** Nodes that are linked on real sockets; their engines are only pretended. */
import type { OperationRequest, StepRequest } from '../../src/core/api.ts'
import { NO_TRACE } from '../../src/core/envelope.ts'
import type { EscrowError } from '../../src/core/errors.ts'
import type { NodeInfo } from '../../src/engine/peers.ts'
import type { StepOutcome } from '../../src/engine/step-outlet.ts'
import type { Participants } from '../../src/rpc/participants.ts'
import { PeerLinks } from '../../src/rpc/peer-links.ts'
import type { SessionHostsOptions } from '../../src/rpc/session-hosts.ts'
import { systemRuntime } from '../../src/runtime.ts'
import { openGrpcStream } from '../../src/wire/grpc-stream.ts'
import type { HelloItem } from '../../src/wire/items.ts'
import { type SessionServer, startSessions } from './session-fixture.ts'

/** A coordinator's network side, with its links. */
export interface Node extends SessionServer {
  readonly info: NodeInfo
  readonly links: PeerLinks
  readonly log: string[]
}

/** The end of a request that was forwarded. */
export interface Answer {
  error: EscrowError | undefined
  response: unknown
  count: number
}

let started = 0

/** Starts a node that knows nobody yet. */
export async function startNode(options: Partial<SessionHostsOptions> = {}): Promise<Node> {
  const server = await startSessions(options)
  started++
  const info = { node: server.target, incarnation: `incarnation-${started}` }
  const log: string[] = []
  const links = new PeerLinks({
    self: info,
    participants: server.participants,
    runtime: systemRuntime,
    open: openGrpcStream,
    left: (node) => server.hosts.leftBy(node),
    log: (level, message) => log.push(`${level} ${message}`),
  })
  const stop = async (): Promise<void> => {
    links.close()
    await server.stop()
  }
  return { ...server, info, links, log, stop }
}

/** Writes nodes into each other's directory, and has each follow the others. */
export function introduce(...nodes: readonly Node[]): void {
  for (const node of nodes) {
    node.coordination.known.push(...nodes.map(({ info }) => info))
    node.links.follow(nodes.filter((each) => each !== node).map(({ info }) => info))
  }
}

/** Has a node forward a request, and writes down how it ended. */
export function forward(from: Node, to: Node, operation: OperationRequest, timeoutMs = 5000): Answer {
  const answer: Answer = { error: undefined, response: undefined, count: 0 }
  from.links.forward(
    to.info.node,
    operation,
    (error, response) => {
      answer.error = error
      answer.response = response
      answer.count++
    },
    { deadlineMs: Date.now() + timeoutMs, fresh: false },
  )
  return answer
}

/** The hello of a node. */
export const nodeHello = (node: NodeInfo, previousSession = ''): Partial<HelloItem> => ({
  node: { node: node.node, incarnation: node.incarnation },
  namespace: '',
  service: '',
  previousSession,
  registration: { checkers: [], handlers: [], databaseId: '' },
})

/** Calls the step `inventory/reserve` and writes the outcome down. */
export function callStep(participants: Participants, databaseId = '', timeoutMs = 5000): StepOutcome[] {
  const outcomes: StepOutcome[] = []
  const request: StepRequest = {
    namespace: 'default',
    transactionId: 't',
    executionId: 'x',
    attempt: 1,
    service: 'inventory',
    step: 'reserve',
    operation: 'action',
    input: '{"n":1}',
    result: '',
    isActionDone: false,
    saga: 'place-order',
    trace: NO_TRACE,
    timeoutMs,
  }
  participants.step(request, databaseId, (outcome) => outcomes.push(outcome))
  return outcomes
}
