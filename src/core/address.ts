/** Where a server listens. */
export interface Address {
  readonly host: string
  readonly port: number
}

/** As it stands in a URL or a target. */
export function addressText({ host, port }: Address): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`
}
