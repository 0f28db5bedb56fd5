import { type Code, ConnectError } from '@connectrpc/connect'
import { status } from '@grpc/grpc-js'
import { describe, expect, test } from 'vitest'
import { ERROR_CODES, type ErrorCode, EscrowError } from '../../src/core/errors.ts'
import { errorFromGrpc, errorFromHttp, errorToGrpc, errorToHttp } from '../../src/wire/errors.ts'

const codes = Object.keys(ERROR_CODES) as ErrorCode[]
const sample = (code: ErrorCode) =>
  new EscrowError(code, `grüße: ${code}`, { details: { limit: 'bodyBytesMax' } })
const facts = ({ code, message, details, retryable }: EscrowError) => ({ code, message, details, retryable })
const asServiceError = (error: EscrowError) => Object.assign(new Error('wire'), errorToGrpc(error))

describe('errors on the wire', () => {
  test.each(codes)('%s survives gRPC and HTTP with its message and details', (code) => {
    const error = sample(code)
    expect(facts(errorFromGrpc(asServiceError(error)))).toEqual(facts(error))
    const http = errorToHttp(error)
    expect(facts(errorFromHttp(http.httpStatus, http.body))).toEqual(facts(error))
  })

  test.each(codes)('%s shows its code and its remedy to who reads headers or JSON only', (code) => {
    const error = sample(code)
    const { metadata } = errorToGrpc(error)
    expect(metadata.get('escrow-code')).toEqual([code])
    expect(metadata.get('escrow-remedy')).toEqual([error.remedy])
    const http = errorToHttp(error)
    expect(http.headers).toEqual({ 'escrow-code': code, 'escrow-remedy': error.remedy })
    const text = `${code}: ${error.message} -- ${error.remedy}`
    expect(errorToGrpc(error).details).toBe(text)
    expect(JSON.parse(http.body)).toMatchObject({
      message: text,
      details: [{ type: 'escrow.v1.Error', debug: { code, details: { remedy: error.remedy } } }],
    })
  })

  test('a refused code is never one that clients repeat by themselves, an unavailable one always is', () => {
    const repeated = [status.UNAVAILABLE, status.RESOURCE_EXHAUSTED, status.DEADLINE_EXCEEDED]
    for (const code of codes) {
      const { family } = sample(code)
      expect([code, repeated.includes(errorToGrpc(sample(code)).code)]).toEqual([
        code,
        family === 'unavailable',
      ])
    }
  })

  test('the HTTP status and name of each code are those of the Connect protocol', () => {
    for (const code of codes) {
      const { httpStatus, body } = errorToHttp(sample(code))
      const name = new ConnectError('', errorToGrpc(sample(code)).code as number as Code).message.slice(1, -1)
      expect([code, JSON.parse(body).code]).toEqual([code, name])
      expect(httpStatus).toBeGreaterThanOrEqual(400)
    }
  })

  test('a status without a code of ours is never certain unless the server refused', () => {
    const bare = (code: number) => errorFromGrpc(Object.assign(new Error('x'), { code, details: 'x' }))
    for (const code of [1, 2, 4, 10, 13, 14, 99])
      expect([code, bare(code).family]).toEqual([code, 'uncertain'])
    for (const code of [3, 5, 6, 7, 8, 9, 11, 12, 15, 16])
      expect([code, bare(code).family]).toEqual([code, 'refused'])
  })

  test.each([
    '',
    'null',
    '[]',
    '<html>',
    '{"details":[null]}',
    '{"details":[{"type":"escrow.v1.Error","value":"/w"}]}',
  ])('an HTTP body of %j is taken as it is: unknown', (body) => {
    expect(errorFromHttp(500, body).family).toBe('uncertain')
    expect(errorFromHttp(302, body).family).toBe('uncertain')
  })

  test('what was never a status becomes internal, with its cause', () => {
    const thrown = new TypeError('boom')
    expect(errorFromGrpc(thrown)).toMatchObject({ code: 'internal', cause: thrown })
    expect(errorFromGrpc(undefined)).toMatchObject({ code: 'internal' })
  })

  test('grpc-status-details-bin that is somebody else’s does not hide the status', () => {
    const error = asServiceError(sample('notFound'))
    error.metadata.set('grpc-status-details-bin', Buffer.from([255, 1, 2]))
    error.metadata.remove('escrow-code')
    expect(errorFromGrpc(error).code).toBe('notFound')
  })

  test('a long message is cut, so that it fits in headers', () => {
    const { details, metadata } = errorToGrpc(new EscrowError('internal', '\ud83d\ude00'.repeat(100_000)))
    expect(details.length).toBeLessThanOrEqual(1400)
    expect((metadata.get('grpc-status-details-bin')[0] as Buffer).length).toBeLessThan(8192)
  })
})
