// Bugs that tests/cpu/test_gdb_kernels.py finds with a debugger.
#include "device/mma.h"
#include "planted.h"

enum { THREADS = 64, N = 32, ELEMENTS = N * N };
enum Bug { NONE, TILE, MASK, ROW };

// out = sums over the rows of x x^T, of the elements left of the diagonal and on it; x is N x N. Each warp has 16 rows.
template <Bug BUG> static __global__ void scores_kernel(float *out, const float *x) {
    SHARED(float, x_memory, ELEMENTS);
    SharedTile<float, N> tile = {x_memory};
    const int t = (int)threadIdx.x, lane = lane_id(), row0 = t / 32 * 16;
    for (int i = t; i < ELEMENTS; i += THREADS)
        if (BUG != TILE || i % N != 17 || i / N < 30) *tile.at(i / N, i % N) = x[i]; // BUG tile
    __syncthreads();

    FragA<float, N> a[1];
    Acc<N> scores[1];
    load_a(a[0], tile, row0);
    acc_zero(scores[0]);
    multiply_nt(scores, a, tile);
    float sums[2] = {0, 0}; // STOP sums
    for (int h = 0; h < 2; h++)
        for (int e = 0; e < 2 * Acc<N>::W; e++) {
            const int row = row0 + 8 * h + lane / 4, column = Acc<N>::column(lane, 0, e);
            const bool seen = column <= row && (BUG != MASK || row != 21 || column != 4); // BUG mask
            if (!seen) scores[0].c[0][h][e] = 0;
            sums[h] += scores[0].c[0][h][e];
        }
    quad_sum(sums); // MEET

    const int row = row0 + lane / 4 + (BUG == ROW && t == 52 ? 1 : 0); // BUG row

    __syncthreads(); // STOP row
    if (lane % 4 == 0)
        for (int h = 0; h < 2; h++) out[row + 8 * h] = sums[h];
}

template <Bug BUG> static void run() {
    float *x = device_array<float>(ELEMENTS), *out = device_array<float>(N);
    fill(x, ELEMENTS);
    launch(scores_kernel<BUG>, 1, THREADS, 0, nullptr, out, x);
    print_values(out, N);
    cuda_check(cudaFree(x));
    cuda_check(cudaFree(out));
}

PLANTED_MAIN({"tile", run<TILE>, run<NONE>}, {"mask", run<MASK>, run<NONE>}, {"row", run<ROW>, run<NONE>})
