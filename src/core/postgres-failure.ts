/** What is known of a failure of a PostgreSQL: by SQLSTATE and errno, never by its text. */

/** What may be known of a failure of `pg`: its errors have SQLSTATE as `code`, a socket's have errno. */
interface Thrown {
  readonly code?: unknown
  readonly message?: unknown
}

/** A failure, for people and for decisions. */
export interface PostgresFailure {
  /** SQLSTATE or errno; empty if it has none. */
  readonly code: string
  readonly message: string
  /** What to do about it, as the end of a sentence; undefined where nothing is known. */
  readonly remedy: string | undefined
  /** Whoever configured it must change something: to try again is of no use. */
  readonly isMisconfigured: boolean
}

const REMEDIES: Readonly<Record<string, string>> = {
  '25006': 'this server takes no writes (a standby): name the primary in the URL',
  '40001': 'try again',
  '40P01': 'try again',
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

/** What whoever configured it must change. */
const MISCONFIGURED: Readonly<Record<string, string>> = {
  '28P01': 'correct the password in the URL',
  '28000': 'correct the role in the URL, or let it in by pg_hba.conf',
  '3D000': 'create the database, or correct its name in the URL',
  '42501': 'grant the role USAGE and CREATE on the schema, or let it own it',
  ENOTFOUND: "correct the host's name in the URL",
  CERT_HAS_EXPIRED: "renew the server's certificate",
  SELF_SIGNED_CERT_IN_CHAIN: "give the server's root certificate by sslrootcert in the URL",
  DEPTH_ZERO_SELF_SIGNED_CERT: "give the server's root certificate by sslrootcert in the URL",
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "give the server's root certificate by sslrootcert in the URL",
  ERR_TLS_CERT_ALTNAME_INVALID: "use the host's name that its certificate has",
}

/** What is known of anything that `pg` threw; total. */
export function postgresFailure(thrown: unknown): PostgresFailure {
  const code = postgresCode(thrown)
  const { message } = (thrown ?? {}) as Thrown
  return {
    code,
    // A host with several addresses that all refuse is an AggregateError without a message.
    message: typeof message === 'string' && message !== '' ? message : code || String(thrown),
    remedy: MISCONFIGURED[code] ?? REMEDIES[code],
    isMisconfigured: Object.hasOwn(MISCONFIGURED, code),
  }
}

/** SQLSTATE or errno of a failure; empty if it has none. */
export function postgresCode(thrown: unknown): string {
  const { code } = (thrown ?? {}) as Thrown
  return typeof code === 'string' ? code : ''
}
