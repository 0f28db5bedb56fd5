/** What a caller must do about an error: change the request, try again, or ask for the outcome. */
export type ErrorFamily = 'refused' | 'unavailable' | 'uncertain'

interface CodeFacts {
  readonly family: ErrorFamily
  readonly retryable: boolean
  readonly remedy: string
}

const refused = (remedy: string): CodeFacts => ({ family: 'refused', retryable: false, remedy })
const unavailable = (remedy: string): CodeFacts => ({ family: 'unavailable', retryable: true, remedy })
const uncertain = (remedy: string): CodeFacts => ({ family: 'uncertain', retryable: true, remedy })

/** The closed set of error codes, each with its family, whether the same request may succeed later, and its remedy. */
export const ERROR_CODES = {
  invalidArgument: refused('Correct the field that the message names.'),
  malformed: refused('Send what protos/escrow/v1 describes: the bytes could not be read as such.'),
  tooLarge: refused('Stay below the limit that the message names, or pass large data by reference.'),
  unknownNamespace: refused('Add the namespace to `namespaces` in escrow.config.ts, or correct its name.'),
  unknownChecker: refused('Start a service that registers the checker once, or correct its name.'),
  unknownDestination: refused(
    'Start the participant that registers the handler once, configure the broker, or correct the name.',
  ),
  notFound: refused('Check the id and the namespace; a transaction that was never prepared is not known.'),
  expired: refused('The transaction ended, and its retention time has passed: nothing more is known of it.'),
  idReused: refused('The id belongs to a transaction with other content: use a new id.'),
  orderingKeyMismatch: refused('Leave the key out, or give the same ordering key everywhere.'),
  bodiesMissing: refused('Give a body for each message that was prepared with `bodyAtCommit`.'),
  resolutionConflict: refused('The transaction was settled the other way, for good: see who did with `get`.'),
  notParked: refused(
    'Only what is parked can be retried, skipped or compensated: see the status with `get`.',
  ),
  unknownExecution: refused('Name an execution id of this transaction, as `get` shows it.'),
  possibleDuplicate: refused(
    'The last-dispatch deadline has passed, so the destination may have forgotten: repeat with `acceptPossibleDuplicate`.',
  ),
  invalidSaga: refused('Change the definition at the path in `details.path`, as `details.remedy` says.'),
  unknownSaga: refused('Name a saga that escrow.config.ts defines, or correct its name.'),
  unknownVersion: refused('Name a version that escrow.config.ts defines, or leave it out for the newest.'),
  unknownStep: refused('Start the participant that registers the step once, or correct its name.'),
  unknownSignal: refused("Name a signal that the saga's definition has: see them in its diagram."),
  definitionChanged: refused(
    'Give the changed definition a new version: sagas that run keep the one that they began with.',
  ),
  noMigration: refused(
    'Declare `migrations`, with a function by the number of the version that runs, in the version that the saga is to go on with.',
  ),
  migrationFailed: refused(
    'Nothing has changed: correct the migration, or the steps of the new version, as the message says, and repeat.',
  ),
  pastPivot: refused(
    'The pivot was sent, so that the saga only goes forward: wait for its end, and undo it by another transaction.',
  ),
  alreadyEnded: refused('The saga has ended, so that nothing reaches it any more: see how with `get`.'),
  notDurable: refused(
    'Change the setting of the topic that the message names, or ask for less `durability` of its broker in escrow.config.ts.',
  ),
  brokerRefused: refused(
    'Correct the credentials, the permissions or the TLS options of the broker in escrow.config.ts.',
  ),
  unsupported: refused('This kind of transaction has no such operation: see the table in the README.'),
  unauthorized: refused('Give credentials that allow this operation.'),
  wouldNotShareTransaction: refused(
    'Run the work on the connection that the callback is given, and neither begin nor end a transaction on it.',
  ),
  barrierRefused: refused(
    'It was already settled as rolled back, or compensated before it came: start it anew under a new id.',
  ),
  localTransactionFailed: refused(
    'A statement of the work failed and the work went on: let its error through, or undo to a savepoint of its own.',
  ),
  overloaded: unavailable('Try again with backoff: a bound that the message names was reached.'),
  noSession: unavailable('Nobody who can answer is connected: start the service, or wait for it.'),
  definitionMissing: unavailable(
    'This coordinator has no such definition: add its version to escrow.config.ts, or migrate the saga to one that is there.',
  ),
  notOwner: unavailable('Try again: another node owns this transaction now.'),
  storeUnavailable: unavailable('Try again with backoff; see that the store is up and has room.'),
  brokerUnavailable: unavailable(
    'Try again with backoff: see that the broker is up, and that its address in escrow.config.ts is right.',
  ),
  shuttingDown: unavailable('Connect again: this coordinator is stopping.'),
  disconnected: unavailable('The connection was lost before the request left: try again.'),
  deadlineExceeded: unavailable(
    'Nothing was done: allow more time, or find out why the coordinator is slow.',
  ),
  uncertain: uncertain(
    'The outcome is not known: ask with `get`, or repeat the same request under the same id, which is harmless.',
  ),
  storeCorrupt: refused(
    'The store does not hold together: restore it from a backup, and keep what is there for study.',
  ),
  storeInUse: refused('Another process has this store open: stop it, or give this one a folder of its own.'),
  storeFormat: refused('The store was written by a newer version: run that version.'),
  internal: refused('This is a defect in Escrow: please report it with the message and the stack.'),
} as const satisfies Record<string, CodeFacts>

/** One of the closed set of error codes. */
export type ErrorCode = keyof typeof ERROR_CODES

/** Whether a word that came from outside is a code of ours. */
export const isErrorCode = (code: string): code is ErrorCode => Object.hasOwn(ERROR_CODES, code)

/** What is known of an error beside its code and message: short values by name, safe to show to the caller. */
export type ErrorDetails = Readonly<Record<string, string>>

/**
 * The one error that Escrow's API ends in. Match on `code`; the message is for people and may change. `retryable` says
 * whether the same request may succeed later.
 */
export class EscrowError extends Error {
  override readonly name = 'EscrowError'
  readonly code: ErrorCode
  readonly retryable: boolean
  readonly details: ErrorDetails

  constructor(code: ErrorCode, message: string, options: { details?: ErrorDetails; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.retryable = ERROR_CODES[code].retryable
    this.details = options.details ?? {}
  }

  get family(): ErrorFamily {
    return ERROR_CODES[this.code].family
  }

  /** What to do about it. */
  get remedy(): string {
    return ERROR_CODES[this.code].remedy
  }

  /** Makes an `EscrowError` of anything that was thrown; total. What isn't one already becomes `internal`. */
  static from(thrown: unknown): EscrowError {
    try {
      if (thrown instanceof EscrowError) return thrown
      const message = thrown instanceof Error ? thrown.message : thrown
      return new EscrowError('internal', String(message), { cause: thrown })
    } catch {
      // An object without a prototype, a `toString` that throws, a proxy: nothing can be said of it.
      return new EscrowError('internal', 'something was thrown that has no text', { cause: thrown })
    }
  }
}

/** A broken invariant: the log stops and recovers from its store; it never limps on. */
export class InvariantViolation extends Error {
  override readonly name = 'InvariantViolation'
}

/** For the branch that a closed union leaves none for. */
export function unreachable(value: never): never {
  throw new InvariantViolation(`no branch for ${JSON.stringify(value)}`)
}
