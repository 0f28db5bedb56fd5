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
import pg from 'pg'
import { EscrowError, InvariantViolation } from '../../core/errors.ts'
import { postgresCode, postgresFailure } from '../../core/postgres-failure.ts'

const DAMAGED = new Set(['XX001', 'XX002'])
/** The connection, the server, the time it took, or the tables: what one part of a statement says nothing about. */
const CONCERNS_ALL = /^(08|25|28|42|53|57|58|40003)/

/** The failure of something that was being done, such as `appending to log 3`. Defects are thrown on as they are. */
export function storeFailure(thrown: unknown, doing: string): EscrowError {
  if (thrown instanceof EscrowError) return thrown
  if (thrown instanceof InvariantViolation || thrown instanceof TypeError || thrown instanceof RangeError)
    throw thrown
  const { code, message, remedy } = postgresFailure(thrown)
  const text = `${doing}: ${message}${remedy === undefined ? '' : `; ${remedy}`}`
  return new EscrowError(DAMAGED.has(code) ? 'storeCorrupt' : 'storeUnavailable', text, {
    details: code === '' ? {} : { cause: code },
    cause: thrown,
  })
}

/** The failure of connecting while the store opens: what the options must be blamed for is `invalidArgument`. */
export function openingFailure(thrown: unknown, where: string): EscrowError {
  if (thrown instanceof EscrowError) return thrown
  const { code, message, remedy, isMisconfigured } = postgresFailure(thrown)
  if (!isMisconfigured) return storeFailure(thrown, `opening the store at ${where}`)
  return new EscrowError('invalidArgument', `the store at ${where}: ${message}; ${remedy}`, {
    details: { cause: code },
    cause: thrown,
  })
}

/** Whether a statement failed because a table isn't there. */
export const isTableMissing = (thrown: unknown): boolean => postgresCode(thrown) === '42P01'

/** Whether the server refused a statement for something that is in it or in its way: a part of it may pass without the rest. */
export const isRefusal = (thrown: unknown): boolean =>
  thrown instanceof pg.DatabaseError && !CONCERNS_ALL.test(postgresCode(thrown))
