// Addresses that a GPU refuses, since the access is wider than they are aligned to.
#include "planted.h"
#include "device/ptx/cp_async.h"
#include "device/ptx/ldmatrix.h"
#include "device/vec.h"

enum { THREADS = 32, N = 256 };

// One element in front of each 16-byte chunk.
template <bool BUG> static __global__ void async_from_kernel(float *out, const float *in) {
    SHARED(float, row, 4 * THREADS);
    int t = (int)threadIdx.x;
    cp_async_16(row + 4 * t, in + 4 * t + BUG, true);
    cp_async_commit();
    cp_async_wait<0>();
    for (int k = 0; k < 4; k++) out[4 * t + k] = row[4 * t + k];
}

// Rows of 5 elements, as if padded against bank conflicts.
template <bool BUG> static __global__ void async_to_kernel(float *out, const float *in) {
    SHARED(float, rows, 8 * THREADS);
    int t = (int)threadIdx.x, row = (BUG ? 5 : 8) * t;
    cp_async_16(rows + row, in, false);
    cp_async_commit();
    cp_async_wait<0>();
    for (int k = 0; k < 4; k++) out[4 * t + k] = rows[row + k] + in[4 * t];
}

// Rows of 12 elements of 2 bytes.
template <bool BUG> static __global__ void ldmatrix_kernel(float *out, const float *in) {
    SHARED(uint16_t, tile, 16 * THREADS);
    int t = (int)threadIdx.x;
    for (int k = 0; k < 16; k++) tile[16 * t + k] = (uint16_t)(16 * t + k);
    __syncwarp();
    uint32_t r[4];
    ldmatrix_x4(r, tile + (BUG ? 12 : 16) * t);
    out[t] = (float)r[0] + in[t];
}

template <bool BUG> static __global__ void load_16_kernel(float *out, const float *in) {
    int t = (int)threadIdx.x;
    float x[4];
    load_vec(x, in + 4 * t + (BUG ? 2 : 0)); // BUG load_16
    store_vec(out + 4 * t, x);
}

template <bool BUG> static __global__ void store_8_kernel(float *out, const float *in) {
    int t = (int)threadIdx.x;
    float x[2] = {in[t], in[t + 1]};
    store_vec(out + 2 * t + (BUG ? 1 : 0), x); // BUG store_8
}

template <bool BUG> static __global__ void four_words_kernel(float *out, const float *in) {
    int t = (int)threadIdx.x;
    access_as<uint4>(out + 4 * t) = access_as<uint4>(in + 4 * t + (BUG ? 1 : 0)); // BUG four_words
}

// A pointwise kernel, whose threads are no fibers.
template <bool BUG> static __global__ void pointwise_kernel(float *out, const float *in) {
    int t = (int)threadIdx.x;
    float x[4];
    load_vec(x, in + (BUG ? 3 : 4) * t); // BUG pointwise
    store_vec(out + 4 * t, x);
}

// the kernel's name as it stands in the call is what a report prints
#define RUN(name, launch_it)                                                                                           \
    template <bool BUG> static void run_##name() {                                                                     \
        float *in = device_array<float>(N), *out = device_array<float>(N);                                             \
        fill(in, N);                                                                                                   \
        cuda_check(cudaMemset(out, 0, N * sizeof(float)));                                                             \
        launch_it(name##_kernel<BUG>);                                                                                 \
        print_values(out, N);                                                                                          \
        cuda_check(cudaFree(in));                                                                                      \
        cuda_check(cudaFree(out));                                                                                     \
    }
#define FIBERS(kernel) launch(kernel, 1, THREADS, 0, nullptr, out, in)
#define LOOP(kernel) launch_pointwise(kernel, 1, THREADS, nullptr, out, in)
RUN(async_from, FIBERS)
RUN(async_to, FIBERS)
RUN(ldmatrix, FIBERS)
RUN(load_16, FIBERS)
RUN(store_8, FIBERS)
RUN(four_words, FIBERS)
RUN(pointwise, LOOP)

#define TWINS(name)                                                                                                    \
    { #name, run_##name < true>, run_##name < false> }
PLANTED_MAIN(TWINS(async_from), TWINS(async_to), TWINS(ldmatrix), TWINS(load_16), TWINS(store_8), TWINS(four_words),
             TWINS(pointwise))
