/**
 * What a server, a network or `pg` says, as one of our codes. Match on SQLSTATE and errno, never on text.
 *
 * | what                                                                          | while opening     | afterwards         |
 * |-------------------------------------------------------------------------------|-------------------|--------------------|
 * | no such host or database, wrong password, no permission, a certificate         | `invalidArgument` | `storeUnavailable` |
 * | refused, lost, silent; 08, 53, 57: stopping, full, too many; 25006: a standby  | `storeUnavailable` | `storeUnavailable` |
 * | 40001, 40P01, 55P03, 57014: somebody else was in the way                       | `storeUnavailable` | `storeUnavailable` |
 * | XX001, XX002: the server found damage                                          | `storeCorrupt`    | `storeCorrupt`     |
 * | 42: a table that is missing or another                                         | `storeUnavailable` | `storeUnavailable` |
 */
import { EscrowError, InvariantViolation } from '../../core/errors.ts'

/** What may be known of a failure of `pg`: its errors have SQLSTATE as `code`, a socket's have errno. */
interface Failure {
  readonly code?: unknown
  readonly message?: unknown
}

const DAMAGED = new Set(['XX001', 'XX002'])

const REMEDIES: Readonly<Record<string, string>> = {
  '25006': 'this server takes no writes (a standby): name the primary in the URL',
  '40001': 'try again',
  '40P01': 'try again',
  '42501': "grant the role USAGE and CREATE on the store's schema, or let it own it",
  '42P01': 'a table is missing: it was dropped, or restored in part',
  '53100': "the server's disk is full: make room",
  '53200': 'the server has no memory left: see its settings',
  '53300': 'the server has no connection left: raise max_connections, or run fewer nodes',
  '55P03': 'somebody holds a lock: see pg_stat_activity for a transaction that stays open',
  '57014': 'the server was too slow: see its load, and its disk',
  '57P01': 'the server ended the connection',
  '57P02': 'the server crashed and recovers',
  '57P03': 'the server is starting or stopping',
}

/** What whoever configured it must change, when it fails while the store opens. */
const MISCONFIGURED: Readonly<Record<string, string>> = {
  '28P01': 'correct the password in the URL',
  '28000': 'correct the role in the URL, or let it in by pg_hba.conf',
  '3D000': 'create the database, or correct its name in the URL',
  '42501': REMEDIES['42501'] as string,
  ENOTFOUND: "correct the host's name in the URL",
  CERT_HAS_EXPIRED: "renew the server's certificate",
  SELF_SIGNED_CERT_IN_CHAIN: "give the server's root certificate by sslrootcert in the URL",
  DEPTH_ZERO_SELF_SIGNED_CERT: "give the server's root certificate by sslrootcert in the URL",
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "give the server's root certificate by sslrootcert in the URL",
  ERR_TLS_CERT_ALTNAME_INVALID: "use the host's name that its certificate has",
}

/** SQLSTATE or errno of a failure; empty if it has none. */
function failureCode(thrown: unknown): string {
  const { code } = (thrown ?? {}) as Failure
  return typeof code === 'string' ? code : ''
}

/** The failure of something that was being done, such as `appending to log 3`. Defects are thrown on as they are. */
export function storeFailure(thrown: unknown, doing: string): EscrowError {
  if (thrown instanceof EscrowError) return thrown
  if (thrown instanceof InvariantViolation || thrown instanceof TypeError || thrown instanceof RangeError)
    throw thrown
  const code = failureCode(thrown)
  const remedy = REMEDIES[code]
  const text = `${doing}: ${messageOf(thrown)}${remedy === undefined ? '' : `; ${remedy}`}`
  return new EscrowError(DAMAGED.has(code) ? 'storeCorrupt' : 'storeUnavailable', text, {
    details: code === '' ? {} : { cause: code },
    cause: thrown,
  })
}

/** The failure of connecting while the store opens: what the options must be blamed for is `invalidArgument`. */
export function openingFailure(thrown: unknown, where: string): EscrowError {
  if (thrown instanceof EscrowError) return thrown
  const code = failureCode(thrown)
  const remedy = MISCONFIGURED[code]
  if (remedy === undefined) return storeFailure(thrown, `opening the store at ${where}`)
  return new EscrowError('invalidArgument', `the store at ${where}: ${messageOf(thrown)}; ${remedy}`, {
    details: { cause: code },
    cause: thrown,
  })
}

function messageOf(thrown: unknown): string {
  const { message } = (thrown ?? {}) as Failure
  if (typeof message === 'string' && message !== '') return message
  // A host with several addresses that all refuse is an AggregateError without a message.
  return failureCode(thrown) || String(thrown)
}

/** Whether a statement failed because a table isn't there. */
export const isTableMissing = (thrown: unknown): boolean => failureCode(thrown) === '42P01'
