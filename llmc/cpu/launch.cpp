// Launches: what a GPU would refuse, and the blocks of a grid over the workers, in their natural order or a seed's.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "races.h"
#include "worker.h"

using namespace fibers;

static uint64_t order_seed;
static bool lanes;

uint64_t host_seed() { return order_seed; }
extern "C" void host_set_seed(uint64_t seed) { order_seed = seed; }
bool host_lanes() { return lanes; }

__attribute__((constructor)) static void read_environment() {
    const char *text = getenv("LLMC_HOST_SEED");
    if (text) order_seed = strtoull(text, nullptr, 10);
    text = getenv("LLMC_HOST_LANES");
    lanes = text && strcmp(text, "0") != 0;
}

static void run_block(Worker &w, size_t dynamic_shared) {
    reset_shared(w, dynamic_shared);
    if (w.num_threads == 1 && !RACE_BUILD) return run_alone(w);
    add_fibers(w, w.num_threads);
    run_fibers(w);
}

// Blocks in a seeded order: i -> (i * odd + offset) mod 2^k, walking past those beyond the grid.
static long shuffled_block(long i, long blocks, uint64_t seed) {
    uint64_t size = 1;
    while (size < (uint64_t)blocks) size *= 2;
    uint64_t at = (uint64_t)i;
    do at = (at * (4 * (seed % 1021) + 5) + (seed / 1021 * 2 + 1)) & (size - 1);
    while (at >= (uint64_t)blocks);
    return (long)at;
}

static void run_grid(const HostKernel &kernel, dim3 grid, dim3 block, size_t dynamic_shared, bool exchange) {
    const long blocks = (long)grid.x * grid.y * grid.z;
    race_start_launch();
    host_parallel(blocks, [&](long i) {
        const long b = order_seed ? shuffled_block(i, blocks, order_seed) : i;
        Worker &w = worker();
        w.kernel = &kernel;
        w.num_threads = (int)(block.x * block.y * block.z);
        w.exchange = exchange;
        w.random = order_seed ? order_seed * 0x9E3779B97F4A7C15ull + (uint64_t)b + 1 : 0;
        w.block.block_dim = block;
        w.block.grid_dim = grid;
        w.block.kernel = kernel.name;
        w.block.index = {(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y)};
        host_block = &w.block;
        race_start_block(w);
        run_block(w, dynamic_shared);
    });
    race_finish_launch();
}

void host_check_launch(const char *name, dim3 grid, dim3 block, size_t shared_bytes, bool fibers) {
    const long threads = (long)block.x * block.y * block.z;
    const bool alone = threads == 1; // never on a GPU: see wide_warps
    const bool grid_fits = grid.x && grid.y && grid.z && grid.x < 1u << 31 && grid.y < 1u << 16 && grid.z < 1u << 16;
    const bool block_fits = threads > 0 && threads <= MAX_THREADS && block.z <= MAX_BLOCK_Z;
    if (grid_fits && (alone || (block_fits && (!fibers || threads % LANES == 0) && shared_bytes <= SHARED_LIMIT)))
        return host_record_launch(name, threads, shared_bytes);
    fprintf(stderr, "llmc: kernel %s: ", name);
    if (!grid_fits)
        fprintf(stderr, "grid of %ux%ux%u blocks, expected 1 to 2147483647 x 65535 x 65535\n", grid.x, grid.y, grid.z);
    else if (shared_bytes > SHARED_LIMIT)
        fprintf(stderr, "%zu bytes of shared memory, expected at most %d\n", shared_bytes, SHARED_LIMIT);
    else
        fprintf(stderr, "block of %ux%ux%u threads, expected a multiple of 32 up to 1024, at most 64 of them along z\n",
                block.x, block.y, block.z);
    _Exit(1);
}

void host_launch(const HostKernel &kernel, dim3 grid, dim3 block, size_t dynamic_shared) {
    run_grid(kernel, grid, block, dynamic_shared, true);
}

bool host_launch_shuffled(const HostKernel &kernel, dim3 grid, dim3 block) {
    if (!order_seed && !RACE_BUILD) return false;
    run_grid(kernel, grid, block, 0, false);
    return true;
}
