/** A message as RocketMQ has it: headers are user properties, the key is the message group of an ordered topic. */
import { createHash } from 'node:crypto'
import { MessageView, PublishingMessage, type PublishingSettings } from 'rocketmq-client-nodejs'
import type { Message } from 'rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb.js'
import type { BrokerMessage, MessageText } from '../broker.ts'
import { headerFault, headersOf, messageOf } from '../headers.ts'

/** Proxies refuse a message without a body: one that has none carries one byte and this property. */
const EMPTY_BODY = 'escrow-empty-body'
/** RocketMQ's own, which its proxies leave among the user properties. Source: apache/rocketmq, `MessageConst.java`. */
const LEFT_OVER: ReadonlySet<string> = new Set([
  '__SHARDINGKEY',
  'escrow-database',
  '__transactionId__',
  'TRANSACTION_CHECK_TIMES',
  'CHECK_IMMUNITY_TIME_IN_SECONDS',
  'PROPERTY_FORWARD_QUEUE_ID',
  'REDIRECT',
  'INNER_NUM',
  'INNER_BASE',
  'INNER_MULTI_DISPATCH',
  'TRACE_CONTEXT',
])
/** Those that its proxies refuse among the user properties. Source: as above. */
const RESERVED: ReadonlySet<string> = new Set(
  `TRACE_ON MSG_REGION KEYS TAGS WAIT DELAY RETRY_TOPIC REAL_TOPIC REAL_QID TRAN_MSG PGROUP MIN_OFFSET MAX_OFFSET BUYER_ID
  ORIGIN_MESSAGE_ID TRANSFER_FLAG CORRECTION_FLAG MQ2_FLAG RECONSUME_TIME UNIQ_KEY MAX_RECONSUME_TIMES CONSUME_START_TIME
  POP_CK POP_CK_OFFSET 1ST_POP_TIME TRAN_PREPARED_QUEUE_OFFSET DUP_INFO EXTEND_UNIQ_INFO INSTANCE_ID CORRELATION_ID
  REPLY_TO_CLIENT TTL ARRIVE_TIME PUSH_REPLY_TIME CLUSTER MSG_TYPE INNER_MULTI_QUEUE_OFFSET TIMER_DELAY_SEC
  TIMER_DELIVER_MS TIMER_ENQUEUE_MS TIMER_DEQUEUE_MS TIMER_ROLL_TIMES TIMER_OUT_MS TIMER_DEL_UNIQKEY TIMER_DELAY_LEVEL
  __BORNHOST BORN_TIMESTAMP`.split(/\s+/),
)
/** Java's ISO control characters, by two of which RocketMQ separates properties. */
const CONTROL = /\p{Cc}/u
/** A proxy takes message groups of up to 63 bytes without control characters. */
const GROUP = /^[\x21-\x7e]{1,63}$/
/** The proxy says what is too large. */
const SETTINGS = { maxBodySizeBytes: Number.POSITIVE_INFINITY } as PublishingSettings

/** Which kind of message a topic takes: `ordered` within a message group, `plain`, or `half`, which waits for its end. */
export type MessageKind = 'ordered' | 'plain' | 'half'

/** What RocketMQ can't carry of a message; undefined for nothing. */
export const faultOf = (text: MessageText): string | undefined =>
  headerFault(text, (name, value) => {
    if (RESERVED.has(name)) return "has a name of RocketMQ's own"
    // It would be left away.
    if (value === '') return 'is empty'
    const code = CONTROL.exec(value)?.[0].charCodeAt(0)
    if (code === undefined) return undefined
    return `has the control character U+${code.toString(16).toUpperCase().padStart(4, '0')}`
  })

/** As it is sent. Throws for what RocketMQ can't carry, and what the client's own checks throw. */
export function toProtobuf(message: BrokerMessage, kind: MessageKind, namespace: string): Message {
  const { topic, id, key, body } = message
  const fault = faultOf(message)
  if (fault !== undefined) throw new TypeError(`rocketmq: ${fault}`)
  const properties = new Map(Object.entries(headersOf(message)))
  const isEmpty = body.length === 0
  if (isEmpty) properties.set(EMPTY_BODY, '1')
  const options = {
    topic,
    body: isEmpty ? Buffer.alloc(1) : Buffer.from(body.buffer, body.byteOffset, body.byteLength),
    // By which `mqadmin queryMsgByKey` finds it.
    keys: [id],
    properties,
    ...(kind === 'ordered' && { messageGroup: messageGroup(key, id) }),
  }
  const queue = { queueId: 0 } as Parameters<PublishingMessage['toProtobuf']>[1]
  return new PublishingMessage(options, SETTINGS, kind === 'half').toProtobuf(namespace, queue)
}

/** One without a key is in no order: it has a group of its own. */
function messageGroup(key: string, id: string): string {
  const text = key === '' ? `escrow-${id}` : key
  return GROUP.test(text) ? text : createHash('sha256').update(text).digest('base64url')
}

/** As it came. */
export function fromProtobuf(message: Message): BrokerMessage {
  const { topic, messageId, messageGroup = '', body, properties } = new MessageView(message)
  const own = [...properties].filter(([name]) => !LEFT_OVER.has(name))
  const { [EMPTY_BODY]: empty, ...headers } = Object.fromEntries(own)
  const bytes = empty === undefined ? new Uint8Array(body) : new Uint8Array(0)
  return messageOf(topic, headers, bytes, { id: messageId, key: messageGroup })
}
