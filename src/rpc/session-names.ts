/** What a hello and a registration are held to. */
import type { Registration } from '../core/api.ts'
import { EscrowError } from '../core/errors.ts'
import { type Namespace, parseName, parseNamespace } from '../core/ids.ts'
import type { HelloItem } from '../wire/items.ts'

/** Handlers, checkers and steps of one session. */
export const NAMES_MAX = 1000
/** The widest window that is kept to; a wider one counts as this. */
export const WINDOW_MAX = 65_536

const DATABASE_ID_LENGTH_MAX = 200
const PREVIOUS_SESSION_LENGTH_MAX = 100

/** A hello that was checked. */
export interface Greeting {
  readonly namespace: Namespace
  readonly service: string
  readonly deliveriesMax: number
  readonly checkBacksMax: number
  readonly stepsMax: number
  readonly registration: Registration
}

/** Checks a hello. Throws `invalidArgument`, `tooLarge`. */
export function checkHello(hello: HelloItem): Greeting {
  const { registration } = hello
  const greeting = {
    namespace: parseNamespace(hello.namespace),
    service: parseName('service', hello.service),
    deliveriesMax: Math.min(hello.deliveriesMax, WINDOW_MAX),
    checkBacksMax: Math.min(hello.checkBacksMax, WINDOW_MAX),
    stepsMax: Math.min(hello.stepsMax, WINDOW_MAX),
    registration,
  }
  if (hello.previousSession.length > PREVIOUS_SESSION_LENGTH_MAX) {
    throw new EscrowError('invalidArgument', 'previousSession is no session of this coordinator')
  }
  checkRegistration(registration, NAMES_MAX)
  // A name that is served with no window would wait for ever.
  if (registration.handlers.length > 0 && greeting.deliveriesMax === 0)
    throw noWindow('handlers', 'deliveriesMax')
  if (registration.checkers.length > 0 && greeting.checkBacksMax === 0)
    throw noWindow('checkers', 'checkBacksMax')
  if ((registration.steps ?? []).length > 0 && greeting.stepsMax === 0) throw noWindow('steps', 'stepsMax')
  return greeting
}

/** How many names a registration has. */
export const countOf = ({ handlers, checkers, steps = [] }: Registration): number =>
  handlers.length + checkers.length + steps.length

/** Checks names, of which there may be `namesMax`. Throws `invalidArgument`, `tooLarge`. */
export function checkRegistration(registration: Registration, namesMax: number): void {
  const { handlers, checkers, steps = [], databaseId } = registration
  if (countOf(registration) > namesMax) {
    throw new EscrowError(
      'tooLarge',
      `${countOf(registration)} handlers, checkers and steps are over namesMax of ${namesMax}`,
    )
  }
  for (const handler of handlers) parseName('handler', handler)
  for (const checker of checkers) parseName('checker', checker)
  for (const step of steps) parseName('step', step)
  if (databaseId.length > DATABASE_ID_LENGTH_MAX) {
    throw new EscrowError('invalidArgument', `databaseId is longer than ${DATABASE_ID_LENGTH_MAX} characters`)
  }
}

const noWindow = (names: string, window: string): EscrowError =>
  new EscrowError(
    'invalidArgument',
    `${names} are registered, but ${window} is 0: nothing could be sent to them`,
  )
