/**
 * What RocketMQ's proxies have no call for, asked of the name servers and brokers themselves: topics, groups, offsets, settings.
 * Their remoting protocol: four bytes of length, four of the header's length (its first byte 0: JSON), the header as JSON, the
 * body. Source: apache/rocketmq, `remoting/.../protocol/RemotingCommand.java` and `RequestCode.java`.
 */
import { createHmac } from 'node:crypto'
import { connect, type Socket } from 'node:net'
import { EscrowError } from '../../core/errors.ts'
import type { LinkOptions } from './link.ts'

/** Where, and as whom. */
export interface AdminOptions {
  /** Any of them is asked. */
  readonly nameServers: readonly string[]
  readonly credentials: LinkOptions['credentials']
  readonly requestTimeoutMs: number
}

/** A broker that takes messages. */
export interface Master {
  readonly name: string
  readonly address: string
  /** Of the topic that was asked for; 0 where none was. */
  readonly queues: number
}

/** Which messages a topic takes. */
export type TopicType = 'NORMAL' | 'FIFO' | 'DELAY' | 'TRANSACTION' | 'MIXED'

interface Answer {
  readonly code: number
  readonly remark: string
  readonly fields: Readonly<Record<string, string>>
  readonly body: Buffer
}

type Fields = Readonly<Record<string, string | number | boolean>>

const REQUEST = {
  queryOffset: 14,
  updateOffset: 15,
  createTopic: 17,
  brokerConfig: 26,
  maxOffset: 30,
  minOffset: 31,
  route: 105,
  cluster: 106,
  createGroup: 200,
  groups: 201,
}
const SUCCESS = 0
const NO_PERMISSION = 16
const TOPIC_NOT_EXIST = 17
const QUERY_NOT_FOUND = 22
const ANSWER_BYTES_MAX = 16 << 20
const QUEUES = 8
const READ_WRITE = 6
/** 5.0.0, as the servers number their versions: answers are JSON as others read it. */
const VERSION = 425

/** See the file's comment. Each call opens its connections and closes them. */
export class RocketmqAdmin {
  readonly #options: AdminOptions

  constructor(options: AdminOptions) {
    this.#options = options
  }

  /** The masters of a topic; none where it isn't there. */
  async masters(topic: string): Promise<readonly Master[]> {
    const answer = await this.#nameServer(REQUEST.route, { topic, acceptStandardJsonOnly: true })
    if (answer.code === TOPIC_NOT_EXIST) return []
    const { brokerDatas, queueDatas } = parsed<{
      brokerDatas: readonly BrokerData[]
      queueDatas: readonly { brokerName: string; readQueueNums: number }[]
    }>(succeeded(answer))
    return brokerDatas.flatMap(({ brokerName, brokerAddrs }) => {
      const queues = queueDatas.find((each) => each.brokerName === brokerName)?.readQueueNums ?? 0
      const address = brokerAddrs['0']
      return address === undefined ? [] : [{ name: brokerName, address, queues }]
    })
  }

  /** Creates a topic of that type and of 8 queues on every master, or changes nothing where it is there. */
  async createTopic(topic: string, type: TopicType): Promise<void> {
    const cluster = parsed<{ brokerAddrTable: Record<string, BrokerData> }>(
      succeeded(await this.#nameServer(REQUEST.cluster, {})),
    )
    const masters = Object.values(cluster.brokerAddrTable).flatMap(
      ({ brokerAddrs }) => brokerAddrs['0'] ?? [],
    )
    if (masters.length === 0) throw unavailable('the name server knows no broker')
    const fields = {
      topic,
      defaultTopic: 'TBW102',
      readQueueNums: QUEUES,
      writeQueueNums: QUEUES,
      perm: READ_WRITE,
      topicFilterType: 'SINGLE_TAG',
      topicSysFlag: 0,
      order: false,
      attributes: `+message.type=${type}`,
    }
    for (const master of masters) succeeded(await this.#ask(master, REQUEST.createTopic, fields))
  }

  /** A master's settings by name. */
  async brokerConfig(master: Master): Promise<ReadonlyMap<string, string>> {
    const { body } = succeeded(await this.#ask(master.address, REQUEST.brokerConfig, {}))
    return new Map(
      body
        .toString()
        .split('\n')
        .filter((line) => line.includes('='))
        .map((line) => {
          const at = line.indexOf('=')
          return [line.slice(0, at), line.slice(at + 1).trim()]
        }),
    )
  }

  /** Creates a group where there is none of that name; an ordered one reads one message of a queue after the other. */
  async createGroup(master: Master, group: string, isOrdered: boolean): Promise<void> {
    // All of them: a broker that is asked for one makes one, and not in order.
    const found = parsed<{ subscriptionGroupTable: object }>(
      succeeded(await this.#ask(master.address, REQUEST.groups, {})),
    )
    if (group in found.subscriptionGroupTable) return
    const config = { groupName: group, consumeMessageOrderly: isOrdered }
    succeeded(await this.#ask(master.address, REQUEST.createGroup, {}, Buffer.from(JSON.stringify(config))))
  }

  /** Has a group begin at a topic's oldest or newest message, in the queues in which it has no place yet. */
  async beginAt(master: Master, topic: string, group: string, from: 'earliest' | 'latest'): Promise<void> {
    for (let queueId = 0; queueId < master.queues; queueId++) {
      if ((await this.#offset(master, topic, group, queueId)) !== undefined) continue
      const code = from === 'earliest' ? REQUEST.minOffset : REQUEST.maxOffset
      const edge = succeeded(await this.#ask(master.address, code, { topic, queueId }))
      const commitOffset = Math.max(0, Number(edge.fields.offset))
      const fields = { consumerGroup: group, topic, queueId, commitOffset }
      succeeded(await this.#ask(master.address, REQUEST.updateOffset, fields))
    }
  }

  /** Messages of a master's queues of a topic that a group hasn't passed. */
  async lag(master: Master, topic: string, group: string): Promise<number> {
    let lag = 0
    for (let queueId = 0; queueId < master.queues; queueId++) {
      const [end, start, offset] = await Promise.all([
        this.#ask(master.address, REQUEST.maxOffset, { topic, queueId }),
        this.#ask(master.address, REQUEST.minOffset, { topic, queueId }),
        this.#offset(master, topic, group, queueId),
      ])
      const passed = Math.max(offset ?? 0, Number(succeeded(start).fields.offset))
      lag += Math.max(0, Number(succeeded(end).fields.offset) - passed)
    }
    return lag
  }

  async #offset(
    { address }: Master,
    topic: string,
    consumerGroup: string,
    queueId: number,
  ): Promise<number | undefined> {
    const fields = { consumerGroup, topic, queueId, setZeroIfNotFound: false }
    const answer = await this.#ask(address, REQUEST.queryOffset, fields)
    return answer.code === QUERY_NOT_FOUND ? undefined : Number(succeeded(answer).fields.offset)
  }

  async #nameServer(code: number, fields: Fields): Promise<Answer> {
    let failure: unknown
    for (const address of this.#options.nameServers) {
      try {
        return await this.#ask(address, code, fields)
      } catch (error) {
        failure = error
      }
    }
    throw failure
  }

  async #ask(address: string, code: number, fields: Fields, body: Buffer = Buffer.alloc(0)): Promise<Answer> {
    const text = Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, String(value)]))
    const extFields = this.#signed(text, body)
    const header = { code, language: 'OTHER', version: VERSION, opaque: 1, flag: 0, extFields }
    try {
      return await ask(address, encode(header, body), this.#options.requestTimeoutMs)
    } catch (error) {
      throw unavailable(`${address}: ${(error as Error).message}`, error)
    }
  }

  // As the servers' ACL wants it: all values in the order of their names, then the body.
  #signed(fields: Readonly<Record<string, string>>, body: Buffer): Readonly<Record<string, string>> {
    const { credentials } = this.#options
    if (credentials === undefined) return fields
    const { accessKey, accessSecret, securityToken } = credentials
    const all: Record<string, string> = { ...fields, AccessKey: accessKey }
    if (securityToken !== undefined) all.SecurityToken = securityToken
    const content = Object.keys(all)
      .sort()
      .map((name) => all[name])
      .join('')
    const hmac = createHmac('sha1', accessSecret).update(content).update(body)
    return { ...all, Signature: hmac.digest('base64') }
  }
}

interface BrokerData {
  readonly brokerName: string
  readonly brokerAddrs: Readonly<Record<string, string>>
}

function encode(header: object, body: Buffer): Buffer {
  const json = Buffer.from(JSON.stringify(header))
  const lengths = Buffer.alloc(8)
  lengths.writeUInt32BE(4 + json.length + body.length, 0)
  lengths.writeUInt32BE(json.length, 4)
  return Buffer.concat([lengths, json, body])
}

/** One request on a connection of its own. */
async function ask(address: string, request: Buffer, timeoutMs: number): Promise<Answer> {
  const [host, port] = address.split(':')
  const socket = connect({ host: host as string, port: Number(port) })
  const timer = setTimeout(() => socket.destroy(new Error(`no answer in ${timeoutMs} ms`)), timeoutMs)
  try {
    socket.write(request)
    return await read(socket)
  } finally {
    clearTimeout(timer)
    socket.destroy()
  }
}

async function read(socket: Socket): Promise<Answer> {
  let bytes = Buffer.alloc(0)
  for await (const chunk of socket) {
    bytes = Buffer.concat([bytes, chunk as Buffer])
    if (bytes.length < 8) continue
    const length = bytes.readUInt32BE(0)
    if (length > ANSWER_BYTES_MAX) throw new Error(`an answer of ${length} bytes, over the limit`)
    if (bytes.length < 4 + length) continue
    const headerLength = bytes.readUInt32BE(4) & 0xff_ffff
    const header = JSON.parse(bytes.subarray(8, 8 + headerLength).toString())
    const { code, remark = '', extFields = {} } = header
    return { code, remark, fields: extFields, body: bytes.subarray(8 + headerLength, 4 + length) }
  }
  throw new Error('the connection ended before the answer')
}

// Numbers as names of fields, which the servers write without quotes.
function parsed<T>({ body }: Answer): T {
  return JSON.parse(body.toString().replace(/([{,])(\d+):/g, '$1"$2":'))
}

function succeeded(answer: Answer): Answer {
  if (answer.code === SUCCESS) return answer
  if (answer.code === NO_PERMISSION)
    throw new EscrowError('brokerRefused', `RocketMQ refuses the credentials: ${firstLine(answer.remark)}`)
  throw unavailable(`${firstLine(answer.remark)} (${answer.code})`)
}

const firstLine = (text: string) => text.split('\n')[0] as string

const unavailable = (why: string, cause?: unknown) =>
  new EscrowError('brokerUnavailable', `RocketMQ can't be asked: ${why}`, { cause })
