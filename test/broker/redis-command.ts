import { createClient } from '@redis/client'
import type { RedisService } from '../services/redis.ts'

/** Asks a server one thing, past its proxy. */
export async function redisCommand(
  { directPort: port, password }: RedisService,
  command: readonly string[],
): Promise<unknown> {
  const client = createClient({
    RESP: 2,
    password,
    socket: { host: '127.0.0.1', port, reconnectStrategy: false },
  })
  client.on('error', () => {})
  await client.connect()
  try {
    return await client.sendCommand([...command])
  } finally {
    client.destroy()
  }
}
