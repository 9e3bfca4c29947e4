// d[m,n] = op(a)[m,k] · op(b)[k,n] with a thread for each element of d, which adds up its k products in their order.
#include <assert.h>

#include "device/launch.h"
#include "device/matmul.h"
#include "device/vec.h"

enum { PLAIN_BLOCK = 256 };

// An operand as steps through memory: from one row of op(a) to the next, and from one column to the next.
struct Strides {
    size_t row, column;
};

template <typename Out>
static __global__ void __launch_bounds__(PLAIN_BLOCK)
    matmul_plain_kernel(Out *d, const floatX *a, Strides a_strides, const floatX *b, Strides b_strides, int m, int n,
                        int k, bool accumulate) {
    const size_t i = (size_t)blockIdx.x * PLAIN_BLOCK + threadIdx.x;
    if (i >= (size_t)m * n) return;
    const floatX *a_row = a + i / n * a_strides.row, *b_column = b + i % n * b_strides.column;
    float sum = 0.0f;
    for (int j = 0; j < k; j++) sum += to_float(a_row[j * a_strides.column]) * to_float(b_column[j * b_strides.row]);
    from_float(d[i], accumulate ? to_float(d[i]) + sum : sum);
}

extern "C" void matmul_plain(void *d, MatmulOut out, const floatX *a, const floatX *b, int m, int n, int k,
                             bool transpose_a, bool transpose_b, bool accumulate, cudaStream_t stream) {
    assert(m > 0 && n > 0 && k > 0);
    const Strides of_a = transpose_a ? Strides{1, (size_t)m} : Strides{(size_t)k, 1};
    const Strides of_b = transpose_b ? Strides{1, (size_t)k} : Strides{(size_t)n, 1};
    const dim3 grid((unsigned)(((size_t)m * n + PLAIN_BLOCK - 1) / PLAIN_BLOCK)), block(PLAIN_BLOCK);
    if (out == MATMUL_OUT_FP32)
        launch_pointwise(matmul_plain_kernel<float>, grid, block, stream, (float *)d, a, of_a, b, of_b, m, n, k,
                         accumulate);
    else
        launch_pointwise(matmul_plain_kernel<floatX>, grid, block, stream, (floatX *)d, a, of_a, b, of_b, m, n, k,
                         accumulate);
}
