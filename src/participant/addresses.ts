import { EscrowError } from '../core/errors.ts'

/** Where coordinators are: `host:port` for gRPC; of several, which share their logs, a list, or one text with commas. */
export type Addresses = string | readonly string[]

/** Takes addresses apart. Throws `invalidArgument` where there is none. */
export function parseAddresses(given: Addresses): readonly string[] {
  const texts = typeof given === 'string' ? given.split(',') : given
  const addresses = texts.map((text) => text.trim()).filter((text) => text !== '')
  if (addresses.length === 0) throw new EscrowError('invalidArgument', 'no address of a coordinator is given')
  return addresses
}

/** Gives one address after the other, from any one on: many services that start together spread over all. */
export function inTurns(addresses: readonly string[], random: number): () => string {
  let next = Math.floor(random * addresses.length)
  return () => {
    const address = addresses[next % addresses.length] as string
    next++
    return address
  }
}
