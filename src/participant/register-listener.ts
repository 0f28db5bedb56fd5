import { create, fromBinary, toBinary, toJsonString } from '@bufbuild/protobuf'
import { Client, credentials } from '@grpc/grpc-js'
import { fullJitterMs } from '../core/backoff.ts'
import { EscrowError } from '../core/errors.ts'
import type { Runtime } from '../core/runtime.ts'
import { errorFromGrpc, errorFromHttp } from '../wire/errors.ts'
import {
  type RegisterRequest,
  RegisterRequestSchema,
  RegisterResponseSchema,
} from '../wire/gen/escrow/v1/coordinator_pb.ts'

/** What a participant that listens tells the coordinator. */
export type ListenerRegistration = Pick<
  RegisterRequest,
  'namespace' | 'service' | 'url' | 'handlers' | 'checkers' | 'steps' | 'databaseId'
>

const PATH = '/escrow.v1.CoordinatorService/Register'
const BACKOFF = { delayMs: 100, delayMsMax: 2000 }
const ATTEMPT_TIMEOUT_MS = 5000

/**
 * Makes a participant that listens known to the coordinator at `target` (`http://host:port`, `grpc://host:port` or `host:port`
 * for gRPC), trying for `timeoutMs`. Durable once it resolves. Rejects with what the coordinator answers, or `disconnected`.
 */
export async function registerListener(
  target: string,
  registration: ListenerRegistration,
  { runtime, timeoutMs }: { runtime: Runtime; timeoutMs: number },
): Promise<void> {
  const request = create(RegisterRequestSchema, registration)
  const until = runtime.monotonic() + timeoutMs
  for (let attempt = 1; ; attempt++) {
    try {
      if (/^https?:\/\//.test(target)) await registerOverHttp(target, request, runtime)
      else await registerOverGrpc(target.replace(/^grpc:\/\//, ''), request, runtime)
      return
    } catch (thrown) {
      const error = EscrowError.from(thrown)
      const delayMs = fullJitterMs(BACKOFF, attempt, runtime.random())
      if (error.family === 'refused' || runtime.monotonic() + delayMs > until) throw error
      await new Promise<void>((resolve) => runtime.setTimer(resolve, delayMs))
    }
  }
}

async function registerOverHttp(target: string, request: RegisterRequest, runtime: Runtime): Promise<void> {
  const abort = new AbortController()
  const cancel = runtime.setTimer(() => abort.abort(), ATTEMPT_TIMEOUT_MS)
  try {
    const response = await fetch(new URL(PATH, target), {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: toJsonString(RegisterRequestSchema, request),
      signal: abort.signal,
    })
    const text = await response.text()
    if (!response.ok) throw errorFromHttp(response.status, text)
  } catch (cause) {
    if (cause instanceof EscrowError) throw cause
    throw new EscrowError('disconnected', `${target} did not take the registration`, { cause })
  } finally {
    cancel()
  }
}

async function registerOverGrpc(target: string, request: RegisterRequest, runtime: Runtime): Promise<void> {
  const client = new Client(target, credentials.createInsecure())
  try {
    await new Promise<void>((resolve, reject) => {
      client.makeUnaryRequest(
        PATH,
        (message: RegisterRequest) => Buffer.from(toBinary(RegisterRequestSchema, message)),
        (bytes: Buffer) => fromBinary(RegisterResponseSchema, bytes),
        request,
        { deadline: runtime.now() + ATTEMPT_TIMEOUT_MS },
        (error) => (error === null ? resolve() : reject(errorFromGrpc(error))),
      )
    })
  } finally {
    client.close()
  }
}
