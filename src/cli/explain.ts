import { ERROR_CODES, EscrowError, isErrorCode } from '../core/errors.ts'
import { type Command, parse, UsageError } from './command.ts'

const MEANING = {
  refused: 'refused: the caller must change something',
  unavailable: 'unavailable: try again',
  uncertain: 'uncertain: the outcome is unknown; ask, never assume',
} as const

/** `escrow explain CODE`. */
export const explain: Command = {
  name: 'explain',
  summary: 'says what an error code means, and what to do',
  help: `Usage: escrow explain [CODE]

Says what an error code means and what to do about it; without a code, lists all codes.`,
  async run(args) {
    const { positionals } = parse(args, { allowPositionals: true, options: {} })
    if (positionals.length > 1) throw new UsageError('explain takes one code at most')
    const [code] = positionals
    if (code === undefined) {
      const width = Math.max(...Object.keys(ERROR_CODES).map((each) => each.length))
      for (const [each, { family }] of Object.entries(ERROR_CODES))
        console.log(`${each.padEnd(width)}  ${family}`)
      return 0
    }
    if (!isErrorCode(code))
      throw new UsageError(`there is no code ${JSON.stringify(code)}: \`escrow explain\` lists all`)
    const error = new EscrowError(code, '')
    console.log(`${code}
  ${MEANING[error.family]}
  ${error.remedy}`)
    return 0
  },
}
