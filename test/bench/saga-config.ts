/** The configuration of a coordinator that drives the sagas that are measured. */
import { defineConfig } from '../../src/config.ts'
import { sagas } from './saga-definitions.ts'

export default defineConfig({ sagas })
