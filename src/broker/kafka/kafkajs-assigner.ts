/** Who reads which partitions, for groups whose members read different topics. */
import { AssignerProtocol, type PartitionAssigner } from 'kafkajs'

/** What `Cluster.metadata` can do; its type leaves the argument out. */
interface Lookup {
  metadata(query: { topics: string[] }): Promise<{
    topicMetadata: { partitionMetadata: { partitionId: number }[] }[]
  }>
}

/**
 * kafkajs's own assigner gives each member partitions of the leader's topics, whatever that member asked for, and those of
 * other topics to nobody. This one deals each topic's partitions out among those who asked for it; it has the same name,
 * for members of a group agree on one.
 */
export const bySubscription: PartitionAssigner = ({ cluster }) => ({
  name: 'RoundRobinAssigner',
  version: 0,

  async assign({ members }) {
    const readers = new Map<string, string[]>()
    for (const { memberId, memberMetadata } of members) {
      for (const topic of AssignerProtocol.MemberMetadata.decode(memberMetadata)?.topics ?? [])
        readers.set(topic, [...(readers.get(topic) ?? []), memberId].sort())
    }
    const assignments = new Map(members.map(({ memberId }) => [memberId, {} as Record<string, number[]>]))
    for (const [topic, memberIds] of readers) {
      // A topic that is gone must not keep the others from their readers.
      const partitions = await partitionsOf(cluster as unknown as Lookup, topic).catch(() => [])
      for (const [at, { partitionId }] of partitions.entries()) {
        const assignment = assignments.get(memberIds[at % memberIds.length] as string)
        if (assignment !== undefined) assignment[topic] = [...(assignment[topic] ?? []), partitionId]
      }
    }
    return Array.from(assignments, ([memberId, assignment]) => ({
      memberId,
      memberAssignment: AssignerProtocol.MemberAssignment.encode({
        version: 0,
        assignment,
        userData: Buffer.alloc(0),
      }),
    }))
  },

  protocol: ({ topics }) => ({
    name: 'RoundRobinAssigner',
    metadata: AssignerProtocol.MemberMetadata.encode({ version: 0, topics, userData: Buffer.alloc(0) }),
  }),
})

async function partitionsOf(cluster: Lookup, topic: string): Promise<{ partitionId: number }[]> {
  const { topicMetadata } = await cluster.metadata({ topics: [topic] })
  return topicMetadata.flatMap(({ partitionMetadata }) => partitionMetadata)
}
