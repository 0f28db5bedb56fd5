/** Checks values with whatever validator a user has, as long as it speaks Standard Schema. */
import { EscrowError } from '../errors.ts'
import { checkJson } from './json.ts'
import type { Json } from './program.ts'

/**
 * A validator that speaks Standard Schema 1 (zod, valibot, arktype and others do). It must answer at once, not by a
 * promise. Source: https://standardschema.dev, package `@standard-schema/spec` 1.1.0, of which this is the interface.
 */
export interface StandardSchema<Input = unknown, Output = Input> {
  readonly '~standard': {
    readonly version: 1
    readonly vendor: string
    readonly validate: (value: unknown) => SchemaResult<Output> | Promise<SchemaResult<Output>>
    readonly types?: { readonly input: Input; readonly output: Output } | undefined
  }
}

/** What a validator says: the value as it has it, or what is wrong. */
export type SchemaResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly SchemaIssue[] }

/** One thing that is wrong with a value. */
export interface SchemaIssue {
  readonly message: string
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined
}

/** How many issues an error tells of. */
const ISSUES_MAX = 5

/** Checks that something is a validator that answers at once. Throws `invalidArgument`. */
export function checkSchema(schema: unknown, what: string): void {
  const standard = (schema as StandardSchema | undefined)?.['~standard']
  if (standard?.version !== 1 || typeof standard.validate !== 'function')
    throw new EscrowError(
      'invalidArgument',
      `${what} is no Standard Schema validator: its '~standard' is missing`,
    )
  let answer: unknown
  try {
    answer = standard.validate(undefined)
  } catch {
    // It throws for what is not its input: seen when a value is checked.
    return
  }
  if (answer instanceof Promise) {
    answer.catch(() => {})
    throw asynchronous(what)
  }
}

/** Checks a value; returns it as the schema has it. Throws `invalidArgument` with the issues. */
export function parseValue(
  schema: StandardSchema | undefined,
  value: unknown,
  what: string,
): Json | undefined {
  if (schema === undefined) return checkJson(value, what)
  const result = schema['~standard'].validate(value)
  if (result instanceof Promise) {
    result.catch(() => {})
    throw asynchronous(what)
  }
  if (result.issues === undefined) return checkJson(result.value, what)
  const issues = result.issues.slice(0, ISSUES_MAX).map(issueText)
  const more = result.issues.length - issues.length
  const rest = more > 0 ? `; and ${more} more` : ''
  throw new EscrowError('invalidArgument', `${what} does not fit its schema: ${issues.join('; ')}${rest}`)
}

function issueText({ message, path = [] }: SchemaIssue): string {
  const keys = path.map((part) => String(typeof part === 'object' ? part.key : part))
  return keys.length === 0 ? message : `${keys.join('.')}: ${message}`
}

const asynchronous = (what: string): EscrowError =>
  new EscrowError(
    'invalidArgument',
    `the validator of ${what} answers by a promise: give one that answers at once`,
  )
