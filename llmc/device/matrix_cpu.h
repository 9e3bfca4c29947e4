// Products of small matrices in the CPU's memory, by vector code: what the warps of device/mma.h do with fragments.
#ifndef LLMC_DEVICE_MATRIX_CPU_H
#define LLMC_DEVICE_MATRIX_CPU_H

#include <cuda_bf16.h>
#include <stdint.h>

typedef float HostV16 __attribute__((vector_size(64)));
typedef uint32_t HostU16 __attribute__((vector_size(64)));

// A matrix whose rows begin `stride` elements apart, or, transposed, the one whose columns do.
template <typename T> struct HostMatrix {
    const T *data;
    int stride;
    bool transposed;
};

// The result: C [rows x n], with rows `stride` elements apart. It is added to (C += A · B) or overwritten.
struct HostResult {
    float *data;
    int stride;
    bool add;
};

// C [rows x n] from A [rows x k] and B [k x n]. Sizes are multiples of 16. Each element of C is added to in the order of k,
// whatever the shape, so that the same operands give the same bits. bf16 is multiplied by the processor's own instruction
// where it has one, which takes numbers below 2^-126 for zero, and else as floats.
void host_multiply(HostResult c, HostMatrix<__nv_bfloat16> a, HostMatrix<__nv_bfloat16> b, int rows, int n, int k);
void host_multiply(HostResult c, HostMatrix<float> a, HostMatrix<float> b, int rows, int n, int k);

// Rounds `count` floats, a multiple of 16, to nearest even, as operands of host_multiply.
void host_round(__nv_bfloat16 *to, const float *from, int count);

#endif
