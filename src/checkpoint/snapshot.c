#include "checkpoint/snapshot.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "target/device.h"

struct Snapshot {
    size_t elements; // of each array
    float *memory;   // [TRAINING_ARRAYS][elements], page-locked on a GPU
};

// Host memory that can be had without swapping.
static size_t available_bytes(void) {
    unsigned long long kib = 0;
    char line[256];
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) break; // NOLINT(cert-err34-c): the kernel's own
    if (file) fclose(file);
    return kib ? (size_t)kib * 1024 : (size_t)sysconf(_SC_AVPHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
}

int snapshot_create(Snapshot **out, Llama3 *m, Error *err) {
    Snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (!snapshot) return fail_fault(err, "no memory for a snapshot");
    snapshot->elements = llama3_parameters(m)->num_shard_elements;
    const size_t bytes = TRAINING_ARRAYS * snapshot->elements * sizeof(float), free_bytes = available_bytes();
    if (bytes > free_bytes || cudaMallocHost((void **)&snapshot->memory, bytes) != cudaSuccess) {
        cudaGetLastError(); // reported here
        free(snapshot);
        return fail_fault(err,
                          "out of host memory for the snapshot that checkpoints are written from: %.1f MiB needed, "
                          "%.1f MiB free; without --save-every none is needed",
                          (double)bytes / 1048576.0, (double)free_bytes / 1048576.0);
    }
    memset(snapshot->memory, 0, bytes);
    *out = snapshot;
    return 0;
}

void snapshot_take(Snapshot *snapshot, Llama3 *m) { llama3_get_training(m, snapshot->memory); }

const float *snapshot_array(const Snapshot *snapshot, TrainingArray array) {
    return snapshot->memory + (size_t)array * snapshot->elements;
}

void snapshot_destroy(Snapshot *snapshot) {
    if (!snapshot) return;
    cuda_check(cudaFreeHost(snapshot->memory));
    free(snapshot);
}
