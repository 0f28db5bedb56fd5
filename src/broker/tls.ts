/** Whether it is Node's code of a failed handshake, or of a certificate that isn't trusted: no later attempt gets further. */
export function isTlsCode(code: unknown): boolean {
  return typeof code === 'string' && /CERT|^ERR_(TLS|SSL)|^UNABLE_TO_|^EPROTO$/.test(code)
}
