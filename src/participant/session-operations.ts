import type {
  CommitRequest,
  ExecutionRef,
  ListRequest,
  ListResponse,
  MigrateRequest,
  Operation,
  Operations,
  PrepareRequest,
  PrepareResponse,
  RetryRequest,
  RollbackRequest,
  StartResponse,
  StatusResponse,
  TransactionRef,
  TransactionView,
} from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import type { RequestOptions } from './requests.ts'
import {
  type SagaCompletion,
  type SagaOutcome,
  type SagaSignal,
  type SagaStart,
  type SagaType,
  sagaOutcome,
  toComplete,
  toSignal,
  toStart,
} from './saga-requests.ts'
import { activeTrace } from './tracing.ts'

/** What a session may ask of its coordinator, but for what needs its local transactions. */
export abstract class SessionOperations {
  protected abstract submit<Op extends Operation>(
    op: Op,
    request: Operations[Op]['request'],
    options: RequestOptions,
  ): Promise<Operations[Op]['response']>

  /** The next id of this session. Throws `invalidArgument` for an ordering key that is none. */
  protected abstract mintId(orderingKey: string | undefined): string

  /** Holds messages. Durable once it resolves; repeated under the same id, it answers the same. */
  prepare(request: PrepareRequest, options: RequestOptions = {}): Promise<PrepareResponse> {
    return this.#submitNew('prepare', request, options)
  }

  /**
   * Begins a saga. Durable once it resolves; repeated under the same id, it answers the same. Rejects with `unknownSaga`,
   * `unknownVersion`, `invalidArgument` for an input that doesn't fit, `tooLarge`, `idReused`, or as every request.
   */
  startSaga<Input, Output>(
    request: SagaStart<Input, Output>,
    options: RequestOptions = {},
  ): Promise<StartResponse> {
    return attempt(() => this.#submitNew('startSaga', toStart(request), options))
  }

  // Minted when the request is made and sent in that order: the coordinator knows this session's next id without a look-up.
  #submitNew<Op extends 'prepare' | 'startSaga'>(
    op: Op,
    request: Operations[Op]['request'],
    options: RequestOptions,
  ): Promise<Operations[Op]['response']> {
    return attempt(() => {
      const id = request.id || this.mintId(request.orderingKey)
      return this.submit(op, { ...request, id, trace: request.trace ?? activeTrace() }, options)
    })
  }

  /**
   * Tells a saga something; one that doesn't wait for it yet keeps it. Durable once it resolves. Sent again it counts
   * once; so does what is called again with the same `signalId`. Rejects with `unknownSignal`, `alreadyEnded`,
   * `invalidArgument` for a payload that doesn't fit, `definitionMissing`, or as every request.
   */
  signal(request: SagaSignal, options: RequestOptions = {}): Promise<StatusResponse> {
    return attempt(() => {
      const signalId = request.signalId || this.mintId(undefined)
      return this.submit('signal', toSignal({ ...request, signalId }), options)
    })
  }

  /** Undoes a saga that is running. Rejects with `pastPivot` from its pivot's first dispatch on, until that is refused, and with `alreadyEnded`. */
  cancel(
    request: TransactionRef & { readonly reason?: string | undefined },
    options: RequestOptions = {},
  ): Promise<StatusResponse> {
    return this.submit('cancel', request, options)
  }

  /**
   * Says how a step ended that was answered `later`: of a call, `{ id: call.transactionId, executionId: call.executionId,
   * attempt: call.attempt, response }`. Without a barrier a `failed` or `refused` counts only of the attempt that is under
   * way, and is refused with `invalidArgument` where it names none and there were several. Durable once it resolves; harmless
   * to repeat. Rejects with `unknownExecution`.
   */
  complete(request: SagaCompletion, options: RequestOptions = {}): Promise<StatusResponse> {
    return attempt(() => this.submit('complete', toComplete(request), options))
  }

  /**
   * Has a saga that has not ended go on with another version of its definition, by the migration that this version declares;
   * what is under way goes on. Durable once it resolves; harmless to repeat. A refusal changes nothing: `unknownVersion`,
   * `noMigration`, `migrationFailed` (the migration threw, or what runs couldn't run on), `alreadyEnded`, `notFound`.
   */
  migrateSaga(request: MigrateRequest, options: RequestOptions = {}): Promise<StatusResponse> {
    return this.submit('migrateSaga', request, options)
  }

  /** Resolves when a saga has ended or is parked, with what it gave. Default time-out 300,000 ms. */
  async waitForSaga<Input, Output>(
    request: TransactionRef & { readonly saga?: SagaType<Input, Output> | string | undefined },
    options: RequestOptions = {},
  ): Promise<SagaOutcome<Output>> {
    const { namespace, id } = request
    return sagaOutcome<Output>(await this.wait({ namespace, id }, options))
  }

  /**
   * Says that the local transaction committed. Durable and irrevocable once it resolves; harmless to repeat. Rejects with
   * `tooLarge` for a body that its destination would not take, and with `bodiesMissing`: it is held as before.
   */
  commit(request: CommitRequest, options: RequestOptions = {}): Promise<StatusResponse> {
    return this.submit('commit', request, options)
  }

  /** Says that the local transaction rolled back. Durable and irrevocable once it resolves; harmless to repeat. */
  rollback(request: RollbackRequest, options: RequestOptions = {}): Promise<StatusResponse> {
    return this.submit('rollback', request, options)
  }

  /** Says that nobody knows how the local transaction ended: its checker is asked at once. */
  requestCheckBack(request: TransactionRef, options: RequestOptions = {}): Promise<StatusResponse> {
    return this.submit('requestCheckBack', request, options)
  }

  /** Reads one transaction, exactly. */
  get(request: TransactionRef, options: RequestOptions = {}): Promise<TransactionView> {
    return this.submit('get', request, options)
  }

  /** Lists transactions as they were at the time that the answer names. */
  list(request: ListRequest = {}, options: RequestOptions = {}): Promise<ListResponse> {
    return this.submit('list', request, options)
  }

  /** Resolves when the transaction has ended or is parked. Default time-out 300,000 ms. */
  wait(request: TransactionRef, options: RequestOptions = {}): Promise<TransactionView> {
    return this.submit('wait', request, options)
  }

  /** Tries again what is parked. */
  retry(request: RetryRequest, options: RequestOptions = {}): Promise<StatusResponse> {
    return this.submit('retry', request, options)
  }

  /** Gives up one parked execution. */
  skip(request: ExecutionRef, options: RequestOptions = {}): Promise<StatusResponse> {
    return this.submit('skip', request, options)
  }

  /** Undoes a parked saga. */
  compensate(request: ExecutionRef, options: RequestOptions = {}): Promise<StatusResponse> {
    return this.submit('compensate', request, options)
  }
}

/** What is thrown before a request is made is its rejection; it is made in this very turn, so that the order of calls is kept. */
function attempt<T>(make: () => Promise<T>): Promise<T> {
  try {
    return make()
  } catch (error) {
    return Promise.reject(EscrowError.from(error))
  }
}
