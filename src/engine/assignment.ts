/**
 * Which node is the first for each log: rendezvous hashing (Thaler and Ravishankar, 1998), so that a node that comes or goes
 * moves few logs, with a bound on how many one node has (as "consistent hashing with bounded loads" has it: Mirrokni, Thorup
 * and Zadimoghaddam, 2017), because few logs would fall unevenly.
 */
import { createHash } from 'node:crypto'

/** The first node for each log, by its number. The same for the same nodes, in whatever order. */
export function assign(logs: number, nodes: readonly string[]): readonly string[] {
  const most = Math.ceil(logs / nodes.length)
  const counts = new Map<string, number>()
  return Array.from({ length: logs }, (_, log) => {
    const ranked = nodes.map((node) => ({ node, score: scoreOf(node, log) }))
    ranked.sort((one, other) => Buffer.compare(other.score, one.score))
    const first = ranked.find(({ node }) => (counts.get(node) ?? 0) < most)?.node ?? ''
    counts.set(first, (counts.get(first) ?? 0) + 1)
    return first
  })
}

const scoreOf = (node: string, log: number): Buffer => createHash('sha256').update(`${node} ${log}`).digest()
