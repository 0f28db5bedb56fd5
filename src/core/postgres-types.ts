/** How values of PostgreSQL come to us. */

const BOOL = 16
const BYTEA = 17
const NUMBERS = new Set([20, 21, 23, 26, 700, 701])

/** For `types` of a `pg` client: rows come as text, for pg has no binary ones. Numbers here are below 2^53. */
export const POSTGRES_TYPES = {
  getTypeParser: (oid: number): ((value: string) => unknown) => {
    if (NUMBERS.has(oid)) return Number
    if (oid === BYTEA) return (value) => Buffer.from(value.slice(2), 'hex')
    if (oid === BOOL) return (value) => value === 't'
    return (value) => value
  },
}
