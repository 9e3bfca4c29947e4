// Each thread has WIDTH columns, whose terms it adds up row by row.
#include "kernels/bf16_rows.h"

#include "device/launch.h"
#include "device/vec.h"

enum { ROWS_BLOCK = 256, WIDTH = 8 };

// n and stride count WIDTHs: nvcc joins a store only where it sees that the index is a multiple.
__global__ void __launch_bounds__(ROWS_BLOCK)
    bf16_round_rows_kernel(__nv_bfloat16 *to, const float *from, size_t n, size_t stride) {
    const size_t i = (size_t)blockIdx.x * ROWS_BLOCK + threadIdx.x, row = blockIdx.y;
    if (i >= n) return;
    float x[WIDTH];
    load_vec(x, from + (row * stride + i) * WIDTH);
    store_vec(to + (row * n + i) * WIDTH, x);
}

template <typename T>
__global__ void __launch_bounds__(ROWS_BLOCK)
    bf16_sum_rows_kernel(T *out, const __nv_bfloat16 *in, int rows, size_t n) {
    const size_t i = ((size_t)blockIdx.x * ROWS_BLOCK + threadIdx.x) * WIDTH;
    if (i >= n) return;
    float sum[WIDTH];
    load_vec(sum, in + i);
#pragma unroll 4
    for (int row = 1; row < rows; row++) {
        float more[WIDTH];
        load_vec(more, in + row * n + i);
        EACH_ELEMENT
        for (int k = 0; k < WIDTH; k++) sum[k] += more[k];
    }
    store_vec(out + i, sum);
}

static unsigned blocks_of(size_t n) { return (unsigned)((n + ROWS_BLOCK * WIDTH - 1) / (ROWS_BLOCK * WIDTH)); }

extern "C" void bf16_round_rows(uint16_t *to, const float *from, int rows, size_t n, size_t stride,
                                cudaStream_t stream) {
    assert((n | stride) % WIDTH == 0 && are_aligned(16, to, from));
    if (n == 0) return;
    launch_pointwise(bf16_round_rows_kernel, dim3(blocks_of(n), (unsigned)rows), dim3(ROWS_BLOCK), stream,
                     (__nv_bfloat16 *)to, from, n / WIDTH, stride / WIDTH);
}

template <typename T> static void sum_rows(T *out, const uint16_t *in, int rows, size_t n, cudaStream_t stream) {
    assert(n % WIDTH == 0 && are_aligned(16, out, in));
    if (n == 0) return;
    launch_pointwise(bf16_sum_rows_kernel<T>, dim3(blocks_of(n)), dim3(ROWS_BLOCK), stream, out,
                     (const __nv_bfloat16 *)in, rows, n);
}

extern "C" void bf16_sum_rows(float *out, const uint16_t *in, int rows, size_t n, cudaStream_t stream) {
    sum_rows(out, in, rows, n, stream);
}

extern "C" void bf16_sum_rows_rounded(uint16_t *out, const uint16_t *in, int rows, size_t n, cudaStream_t stream) {
    sum_rows((__nv_bfloat16 *)out, in, rows, n, stream);
}
