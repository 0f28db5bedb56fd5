/** The coordinator of a service that is deployed: DEPLOYED names what it has of its saga, such as `1,2`, or `1changed`. */
import {
  defineConfig,
  defineSaga,
  type Flow,
  type FlowBuilders,
  type Migrations,
  type SagaDefinition,
} from '../../../src/index.ts'

type Builders = FlowBuilders<{ name: string }, { paid: undefined }>

const define = (
  version: number,
  flow: (builders: Builders) => Flow,
  migrations?: Migrations,
): SagaDefinition<{ name: string }> =>
  defineSaga<{ name: string }, undefined, { paid: undefined }>({
    name: 'order',
    version,
    signals: { paid: undefined },
    migrations,
    flow,
  })

const soon = { attemptTimeoutMs: 10_000, retry: { delayMs: 50, delayMsMax: 500, attemptsMax: 0 } }
const reserve = ({ step }: Builders) =>
  step('reserve', { action: 'stock/reserve', compensation: true, ...soon })
const check = ({ step }: Builders) => step('check', { action: 'stock/check', readOnly: true, ...soon })
const paid = ({ waitFor }: Builders) => waitFor('paid', { timeoutMs: 600_000, onTimeout: 'fail' })
const confirm = ({ pivot }: Builders) => pivot('confirm', { action: 'stock/confirm', ...soon })

const versions: Readonly<Record<string, () => SagaDefinition<{ name: string }>>> = {
  1: () => define(1, (f) => [reserve(f), paid(f), confirm(f)]),
  2: () => define(2, (f) => [reserve(f), check(f), paid(f), confirm(f)]),
  // What waits to be paid waits on, and is checked behind it.
  3: () => define(3, (f) => [reserve(f), paid(f), check(f), confirm(f)], { 1: (state) => state }),
  '1changed': () => define(1, (f) => [reserve(f), check(f), confirm(f)]),
}

const { DEPLOYED = '' } = process.env
const sagas = DEPLOYED.split(',').flatMap((version) => versions[version]?.() ?? [])

export default defineConfig({ sagas })
