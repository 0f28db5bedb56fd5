/** What a step returns whose outcome comes by `session.complete`. */
export const later: unique symbol = Symbol.for('escrow.later')

/** The type of `later`. */
export type Later = typeof later
