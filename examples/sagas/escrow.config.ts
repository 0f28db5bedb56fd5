/** The coordinator on a server: `escrow serve --config examples/sagas/escrow.config.ts`. */
import { defineConfig } from '../../src/index.ts'
import { placeOrder } from './place-order.ts'

export default defineConfig({ store: 'embedded:./.escrow/sagas', sagas: [placeOrder] })
