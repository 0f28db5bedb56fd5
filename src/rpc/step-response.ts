import type { StepResponse } from '../core/api.ts'

const CODE_CHARS_MAX = 128
const ERROR_CHARS_MAX = 1024

/** A participant's answer with its texts cut to what is kept of them. */
export function boundedStepResponse(response: StepResponse): StepResponse {
  const { code, error } = response
  if (code.length <= CODE_CHARS_MAX && error.length <= ERROR_CHARS_MAX) return response
  return { ...response, code: code.slice(0, CODE_CHARS_MAX), error: error.slice(0, ERROR_CHARS_MAX) }
}

/** That nobody knows how a call ended. */
export const unknownStep = (error: string): StepResponse => ({
  outcome: 'unknown',
  result: undefined,
  code: '',
  error: error.slice(0, ERROR_CHARS_MAX),
})
