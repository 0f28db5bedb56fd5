import { randomFrom } from '../../examples/shop/random.ts'

/** Random numbers of a test, from a seed that is printed; `TEST_SEED` gives it again. */
export function seeded(name: string): { random(): number; between(min: number, max: number): number } {
  const seed = Number(process.env.TEST_SEED ?? Math.floor(Math.random() * 2 ** 32))
  console.log(`${name}: seed ${seed} (TEST_SEED=${seed} repeats it)`)
  const random = randomFrom(seed)
  return { random, between: (min, max) => min + random() * (max - min) }
}
