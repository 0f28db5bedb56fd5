/** The coordinator of trips: `escrow serve --config examples/machines/escrow.config.ts`. */
import { defineConfig } from '../../src/index.ts'
import { bookTrip } from './trip.ts'

export default defineConfig({ store: 'embedded:./.escrow/trips', sagas: [bookTrip] })
