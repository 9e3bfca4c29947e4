// How a model's training is divided among ranks.
//
// The ranks of a shard group share one copy of the optimizer state: each owns a shard of it (parameters.h), updates that
// shard, and gives its parameters to the others (ZeRO, Rajbhandari et al. 2020). Groups are replicas of each other: ranks
// that own the same shard in different groups sum their gradients (hybrid sharding, which spares slow links).
//   zero 1: each rank accumulates all gradients, which are summed over the ranks once a step
//   zero 2: each rank keeps the gradients of its shard alone; those of a layer are summed as soon as they are computed
// Plain data parallelism (ZeRO-0) is a shard group of one rank.
#ifndef LLMC_MODEL_PARALLEL_H
#define LLMC_MODEL_PARALLEL_H

#include <stdbool.h>

#include "comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

// How gradients travel between ranks: as bf16, each rank's rounded once and added up in fp32 (comm.h).
typedef enum { GRAD_REDUCE_FP32, GRAD_REDUCE_BF16 } GradReduce;

// {0}: one rank. A communicator is NULL where its group is one rank, and where memory is only planned or a shard is only
// loaded and saved.
typedef struct {
    int zero;          // 2: gradients are divided among the shards; otherwise each rank has them whole
    int shards, shard; // ranks of a shard group (0: one), and which of them this is
    int replicas;      // shard groups (0: one)
    Comm *shard_comm, *replica_comm, *world;
    GradReduce grad_reduce;
    bool overlap; // communication runs while the computation goes on
} Parallel;

#ifdef __cplusplus
}
#endif
#endif
