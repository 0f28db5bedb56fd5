import type { Operation, OperationRequest, Operations, Registration } from '../../src/core/api.ts'
import { DEFAULT_LIMITS, NO_TRACE } from '../../src/core/envelope.ts'
import { EscrowError } from '../../src/core/errors.ts'
import type { ClusterView, Coordination, Reply, RequestOptions } from '../../src/engine/coordination.ts'

type Responses = { readonly [Op in Operation]: Operations[Op]['response'] }

const VIEW: Operations['get']['response'] = {
  namespace: 'default',
  id: 'order-17',
  kind: 'message',
  status: 'committed',
  executionId: 'x1',
  checker: 'orders',
  orderingKey: '',
  preparedAtMs: 1_700_000_000_000,
  settledAtMs: 0,
  settledBy: '',
  checks: 0,
  reason: '',
  deliveries: [],
  trace: NO_TRACE,
}

const RESPONSES: Responses = {
  prepare: { id: 'order-17', executionId: 'x1', status: 'prepared' },
  commit: { status: 'committed' },
  rollback: { status: 'rolledBack' },
  requestCheckBack: { status: 'prepared' },
  get: VIEW,
  list: { transactions: [VIEW], asOfMs: 7, nextPageToken: '' },
  wait: VIEW,
  retry: { status: 'committed' },
  skip: { status: 'delivered' },
  compensate: { status: 'parked' },
  startSaga: { id: 'order-17', executionId: 'x1', status: 'running', version: 2 },
  signal: { status: 'running' },
  cancel: { status: 'compensating' },
  complete: { status: 'running' },
  migrateSaga: { status: 'running' },
}

/** A coordination that records what reaches it, and answers what it is told to. */
export class FakeCoordination implements Coordination {
  readonly limits = DEFAULT_LIMITS
  readonly requests: (OperationRequest & { readonly options: RequestOptions })[] = []
  readonly registered: { service: string; url: string; registration: Registration }[] = []
  state: ReturnType<Coordination['health']> = { state: 'ready', reason: '' }
  /** What the next requests end in, instead of a sample response. */
  failure: EscrowError | undefined
  /** While set, requests stay unanswered; `release` answers them. */
  holding = false
  readonly #held: (() => void)[] = []

  request(request: OperationRequest, reply: Reply, options: RequestOptions): void {
    this.requests.push({ ...request, options })
    const answer = () => (this.failure ? reply(this.failure) : reply(undefined, RESPONSES[request.op]))
    if (this.holding) this.#held.push(answer)
    else queueMicrotask(answer)
  }

  release(): void {
    this.holding = false
    for (const answer of this.#held.splice(0)) answer()
  }

  async register(_: string, service: string, registration: Registration): Promise<void> {
    return this.registerUrl(_, service, '', registration)
  }

  async registerUrl(_: string, service: string, url: string, registration: Registration): Promise<void> {
    if (this.failure) throw this.failure
    this.registered.push({ service, url, registration })
  }

  onRoutings(): void {}

  nodes(): ClusterView {
    return { nodes: [], logs: 1 }
  }

  async isNode(): Promise<boolean> {
    return true
  }

  openSession(): never {
    throw new EscrowError('internal', 'no sessions here')
  }

  health(): ReturnType<Coordination['health']> {
    return this.state
  }
}

/** Waits until a condition holds; fails after twenty seconds. */
export async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const end = performance.now() + 20_000
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`never came true: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
