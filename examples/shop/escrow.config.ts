/** The coordinator of the shop: `escrow serve --config examples/shop/escrow.config.ts`. */
import { defineConfig } from '../../src/index.ts'
import { shopBroker } from './broker.ts'
import { placeOrder } from './place-order.ts'

// With `npm start -- --broker KIND`, under the name of its kind.
const broker = await shopBroker(process.env)

export default defineConfig({
  // The main process sets ESCROW_STORE and the ports, which go before what stands here.
  store: 'embedded:./.escrow/shop',
  // Both sooner than by default, so that a run with kills needn't wait long for what a kill left undecided.
  checkBack: { delayMs: 2_000, delayMsMax: 5_000 },
  retry: { delayMsMax: 2_000 },
  sagas: [placeOrder],
  brokers: broker === undefined ? {} : { [process.env.SHOP_BROKER!]: broker },
})
