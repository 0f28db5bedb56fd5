/** What a topic is in RabbitMQ, and what can be learnt of a queue before anything is sent to it. */
import type { Channel } from 'amqplib'
import { EscrowError } from '../../core/errors.ts'
import { inTime, type OpenConnection } from './connection.ts'

/** Where a message goes. A queue's name by itself goes by the default exchange, which routes by that name. */
export interface Address {
  readonly exchange: string
  readonly routingKey: string
  /** For messages to people. */
  readonly text: string
}

const NAME_BYTES_MAX = 255

/** Reads `queue` or `exchange/routing.key`. Throws `unknownDestination`. */
export function addressOf(topic: string): Address {
  const slash = topic.indexOf('/')
  const exchange = slash < 0 ? '' : topic.slice(0, slash)
  const routingKey = topic.slice(slash + 1)
  const fits = [exchange, routingKey].every((name) => Buffer.byteLength(name) <= NAME_BYTES_MAX)
  if (!fits || slash === 0 || topic === '')
    throw new EscrowError(
      'unknownDestination',
      `"${topic}" is neither queue nor exchange/routing.key, with 1 to ${NAME_BYTES_MAX} bytes each`,
    )
  const text =
    exchange === '' ? `queue "${routingKey}"` : `exchange "${exchange}", routing key "${routingKey}"`
  return { exchange, routingKey, text }
}

/** Does something on a channel of its own, in time. Throws what RabbitMQ says, as an `EscrowError`. */
export async function onChannel<T>(
  connection: OpenConnection,
  signal: AbortSignal,
  act: (channel: Channel) => Promise<T>,
): Promise<T> {
  const close = (channel: Channel) => void channel.close().catch(() => {})
  try {
    const channel = await inTime(connection.model.createChannel(), signal, close)
    // What closes it rejects the request that it answers.
    channel.on('error', () => {})
    try {
      return await inTime(act(channel), signal)
    } finally {
      close(channel)
    }
  } catch (error) {
    throw channelFailure(error)
  }
}

/** As the codes of AMQP say. */
export function channelFailure(thrown: unknown): EscrowError {
  if (thrown instanceof EscrowError) return thrown
  const { code, message } = thrown as { code?: number; message: string }
  if (code === 404) return new EscrowError('unknownDestination', message, { cause: thrown })
  if (code === 403 || code === 405) return new EscrowError('brokerRefused', message, { cause: thrown })
  return new EscrowError('brokerUnavailable', `RabbitMQ: ${message}`, { cause: thrown })
}

/** What is known of a queue; undefined: it could not be learnt. */
export interface QueueFacts {
  readonly isDurable: boolean | undefined
  readonly isAutoDelete: boolean | undefined
  /** `quorum`, `classic`, `stream`. */
  readonly type: string | undefined
  /** On how many nodes it is. */
  readonly members: number | undefined
}

/** No queue can be made with it, and a queue that is there is compared with it after everything else that counts here. */
const IMPOSSIBLE = { 'x-queue-leader-locator': 'none: escrow asks what this queue is' }
const QUESTIONS_MAX = 10

/**
 * Learns what a queue is over AMQP, which has no question for it: RabbitMQ refuses to declare a queue anew otherwise than
 * it is, and names the first property that differs. What is asked for is impossible to create, so that a queue which is
 * deleted meanwhile doesn't come back.
 */
export async function askQueue(
  connection: OpenConnection,
  queue: string,
  signal: AbortSignal,
): Promise<QueueFacts> {
  const asked: Record<string, string | number> = { 'x-queue-type': 'quorum' }
  const facts = { isDurable: true, isAutoDelete: false, members: undefined }
  for (let question = 0; question < QUESTIONS_MAX; question++) {
    const declared = { durable: true, autoDelete: facts.isAutoDelete, arguments: { ...asked, ...IMPOSSIBLE } }
    const { property, value } = await differs(connection, queue, declared, signal)
    if (property === 'durable') return { ...facts, isDurable: false, type: 'classic' }
    if (property === 'auto_delete') facts.isAutoDelete = true
    else if (property === 'x-queue-type') return { ...facts, type: String(value ?? 'classic') }
    else if (property === 'x-queue-leader-locator') return { ...facts, type: 'quorum' }
    else if (property === undefined || value === undefined) break
    else asked[property] = value
  }
  return { isDurable: undefined, isAutoDelete: undefined, type: undefined, members: undefined }
}

/** As RabbitMQ says it: `inequivalent arg 'x-max-length' …: received none but current is the value '5' of type 'signedint'`. */
const DIFFERS =
  /inequivalent arg '([^']+)'.*current is (?:none|(?:the value )?'([^']*)'(?: of type '(\w+)')?)/

async function differs(
  connection: OpenConnection,
  queue: string,
  options: { durable: boolean; autoDelete: boolean; arguments: object },
  signal: AbortSignal,
): Promise<{ property?: string | undefined; value?: string | number | undefined }> {
  try {
    await onChannel(connection, signal, (channel) => channel.assertQueue(queue, options))
  } catch (error) {
    const said = DIFFERS.exec(EscrowError.from(error).message)
    if (said === null) return {}
    const [, property, value, type = ''] = said
    const isNumber = value !== undefined && /int|long$|byte|short/.test(type) && type !== 'longstr'
    return { property, value: isNumber ? Number(value) : value }
  }
  return {}
}

/** In which ways a queue may lose what it has confirmed, each with its setting. */
export function shortfallsOf({ isDurable, isAutoDelete, type, members }: QueueFacts): readonly string[] {
  const found: string[] = []
  if (isDurable === undefined || type === undefined)
    found.push('durable and x-queue-type of the queue could not be learnt: set managementUrl')
  if (isDurable === false) found.push('durable is false: the queue ends with its server')
  if (isAutoDelete === true) found.push('auto_delete is true: the queue ends with its last consumer')
  if (type === 'classic') found.push('x-queue-type is classic: the queue is on one machine')
  if (type === 'quorum' || type === 'stream') {
    if (members === undefined)
      found.push(
        'how many members the queue has (x-quorum-initial-group-size) is not known without managementUrl',
      )
    else if (members < MEMBERS_MIN)
      found.push(
        `the queue has ${members} member${members === 1 ? '' : 's'}, of ${MEMBERS_MIN} at least (x-quorum-initial-group-size)`,
      )
  }
  return found
}

const MEMBERS_MIN = 3
