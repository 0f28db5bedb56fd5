import { EscrowError } from '../../core/errors.ts'

/** The `reason` of a committed row whose outcome comes later, by `CompleteStep`. Part of the barrier's contract. */
export const LATER_REASON = 'later'

/** What a row keeps of a result: JSON, or undefined for nothing. Throws `tooLarge`, and what JSON throws. */
export function resultJson(result: unknown, bytesMax: number): string | undefined {
  // What a statement answers isn't a result of the business: `(client) => client.query(…)` keeps nothing.
  if (result === undefined || isQueryResult(result) || (Array.isArray(result) && result.some(isQueryResult)))
    return undefined
  const json = JSON.stringify(result) as string | undefined
  if (json === undefined) return undefined
  const bytes = Buffer.byteLength(json)
  if (bytes <= bytesMax) return json
  throw new EscrowError(
    'tooLarge',
    `the result is ${bytes} bytes of JSON, over the limit resultBytesMax of ${bytesMax}`,
    {
      details: { limit: 'resultBytesMax', max: String(bytesMax), actual: String(bytes) },
    },
  )
}

function isQueryResult(value: unknown): boolean {
  return (
    typeof value === 'object' &&
    value !== null &&
    'command' in value &&
    'rowCount' in value &&
    'rows' in value
  )
}
