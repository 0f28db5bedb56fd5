import { type Address, addressText } from '../core/address.ts'
import { EscrowError } from '../core/errors.ts'

/** What to say where a server can't listen: `option` is the group of options that names the port. */
export function listenError(option: 'grpc' | 'http', address: Address, cause: Error): EscrowError {
  const inUse = 'code' in cause && cause.code === 'EADDRINUSE' ? true : cause.message.includes('EADDRINUSE')
  const why = inUse ? 'the port is taken' : cause.message
  return new EscrowError('invalidArgument', `${option}: can't listen on ${addressText(address)}: ${why}`, {
    details: { option: `${option}.port`, value: String(address.port) },
    cause,
  })
}
