// How a model's training is divided among ranks.
//
// Ranks of a shard group hold one copy of the optimizer state between them: each owns a shard (parameters.h), updates
// it, and gives its parameters to the others (ZeRO, Rajbhandari et al. 2020). Groups are replicas of each other; the rank
// that owns the same shard in another group sums its gradients with this one's (hybrid sharding, as for slow links).
//   zero 1: gradients are accumulated whole on each rank and summed over the ranks once a step
//   zero 2: each rank keeps the gradients of its shard; those of a layer are summed as soon as they are there
// Plain data parallelism (ZeRO-0) is a shard group of one.
#ifndef LLMC_MODEL_PARALLEL_H
#define LLMC_MODEL_PARALLEL_H

#include "comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

// {0}: one rank. The communicators are NULL where their group is one rank, and where memory is only planned or a shard
// only loaded and saved.
typedef struct {
    int zero;          // 2: gradient shards; else whole gradients
    int shards, shard; // ranks of a shard group (0: one), and which of them this is
    int replicas;      // shard groups (0: one)
    Comm *shard_comm, *replica_comm, *world;
    bool overlap; // communicate beside the computation
} Parallel;

#ifdef __cplusplus
}
#endif
#endif
