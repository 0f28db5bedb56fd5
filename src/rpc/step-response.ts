import type { StepResponse } from '../core/api.ts'

const CODE_CHARS_MAX = 128
const ERROR_CHARS_MAX = 1024

/** A participant's answer with its texts cut to what is kept of them. */
export const boundedStepResponse = (response: StepResponse): StepResponse => ({
  outcome: response.outcome,
  result: response.result,
  code: response.code.slice(0, CODE_CHARS_MAX),
  error: response.error.slice(0, ERROR_CHARS_MAX),
})

/** That nobody knows how a call ended. */
export const unknownStep = (error: string): StepResponse => ({
  outcome: 'unknown',
  result: undefined,
  code: '',
  error: error.slice(0, ERROR_CHARS_MAX),
})
