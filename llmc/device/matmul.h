// Matrix products: cuBLASLt on the cuda target, oneDNN on the cpu target.
#ifndef LLMC_DEVICE_MATMUL_H
#define LLMC_DEVICE_MATMUL_H

#include <cuda_runtime.h>
#include <stdbool.h>

#include "device/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { MATMUL_OUT_FLOATX, MATMUL_OUT_FP32 } MatmulOut;

// d[m,n] = op(a)[m,k] · op(b)[k,n], or d += with `accumulate`; sums in fp32; everything row-major and contiguous.
//   a: [m,k], or [k,m] with transpose_a;  b: [k,n], or [n,k] with transpose_b.
//   d: floatX or fp32 by `out`; accumulate only into fp32.
// The three uses, for y[N,OC] = x[N,C] · w[OC,C]^T:
//   forward  y  = x · w^T      matmul(y,  MATMUL_OUT_FLOATX, x,  w, N,  OC, C,  false, true,  false, stream)
//   input    dx = dy · w       matmul(dx, MATMUL_OUT_FLOATX, dy, w, N,  C,  OC, false, false, false, stream)
//   weight   dw += dy^T · x    matmul(dw, MATMUL_OUT_FP32,   dy, x, OC, C,  N,  true,  false, true,  stream)
// A failure of the library ends the program with code 1 and one line that gives the shape.
void matmul(void *d, MatmulOut out, const floatX *a, const floatX *b, int m, int n, int k, bool transpose_a,
            bool transpose_b, bool accumulate, cudaStream_t stream);

// Allocates the library's handle and workspace (once; later calls do nothing), so that no step does. Returns bytes taken
// on the device.
size_t matmul_prepare(void);

#ifdef __cplusplus
}
#endif
#endif
