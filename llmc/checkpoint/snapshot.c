#include "checkpoint/snapshot.h"

#include <stdlib.h>
#include <string.h>

#include "base/host_memory.h"
#include "checkpoint/parts.h"
#include "device/device.h"

struct Snapshot {
    size_t elements;    // of each array
    float *memory;      // [arrays][elements], page-locked on a GPU, and after them the parameters
    int part, parts;    // whose parameters
    bool taken;         // once
    floatX *parameters; // of the tensors that it holds, one after the other
    const ParameterTable *table;
};

static bool holds(const Snapshot *snapshot, int tensor) {
    if (snapshot->parts == 1) return !snapshot->table->tensors[tensor].trained && !snapshot->table->lora_rank;
    return part_of_tensor(snapshot->table, tensor, snapshot->parts) == snapshot->part;
}

static size_t count_parameters(const Snapshot *snapshot) {
    size_t count = 0;
    for (int i = 0; i < snapshot->table->count; i++)
        if (holds(snapshot, i)) count += parameter_elements(&snapshot->table->tensors[i]);
    return count;
}

int snapshot_create(Snapshot **out, Llama3 *m, Error *err) {
    Snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (!snapshot) return fail_fault(err, "no memory for a snapshot");
    snapshot->table = llama3_parameters(m);
    snapshot->part = llama3_shard(m);
    snapshot->parts = snapshot->table->shards;
    snapshot->elements = snapshot->table->num_shard_elements;
    const size_t arrays = (size_t)llama3_training_arrays(m) * snapshot->elements, free_bytes = host_memory_available();
    const size_t bytes = arrays * sizeof(float) + count_parameters(snapshot) * sizeof(floatX);
    if (bytes > free_bytes || cudaMallocHost((void **)&snapshot->memory, bytes) != cudaSuccess) {
        cudaGetLastError(); // reported here
        free(snapshot);
        return fail_fault(err,
                          "out of host memory for the snapshot that checkpoints are written from: %.1f MiB needed, "
                          "%.1f MiB free; where training saves only at its end, none is needed",
                          (double)bytes / 1048576.0, (double)free_bytes / 1048576.0);
    }
    memset(snapshot->memory, 0, bytes);
    snapshot->parameters = (floatX *)(snapshot->memory + arrays);
    *out = snapshot;
    return 0;
}

void snapshot_take(Snapshot *snapshot, Llama3 *m) {
    floatX *to = snapshot->parameters;
    llama3_get_training(m, snapshot->memory);
    for (int i = 0; i < snapshot->table->count; i++) {
        if (!holds(snapshot, i)) continue;
        if (!snapshot->taken || snapshot->table->tensors[i].trained) llama3_get_parameter(m, i, to);
        to += parameter_elements(&snapshot->table->tensors[i]);
    }
    snapshot->taken = true;
}

const floatX *snapshot_parameter(const Snapshot *snapshot, int tensor) {
    const floatX *at = snapshot->parameters;
    if (!holds(snapshot, tensor)) return NULL;
    for (int i = 0; i < tensor; i++)
        if (holds(snapshot, i)) at += parameter_elements(&snapshot->table->tensors[i]);
    return at;
}

const float *snapshot_array(const Snapshot *snapshot, TrainingArray array) {
    return snapshot->memory + (size_t)array * snapshot->elements;
}

void snapshot_destroy(Snapshot *snapshot) {
    if (!snapshot) return;
    cuda_check(cudaFreeHost(snapshot->memory));
    free(snapshot);
}
