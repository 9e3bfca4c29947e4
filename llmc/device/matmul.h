// Matrix products: cuBLASLt on the cuda target, oneDNN on the cpu target.
#ifndef LLMC_DEVICE_MATMUL_H
#define LLMC_DEVICE_MATMUL_H

#include <cuda_runtime.h>
#include <stdbool.h>

#include "base/error.h"
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

// d[m,n] = a[m,k] · b[n,k]^T, where a row has the same bits for any m up to `most` and wherever it stands among the others, as
// long as most is the same (on the cpu target: whatever it is). a and d have `most` rows, of which d's from m on get values
// that mean nothing.
void matmul_same_rows(void *d, MatmulOut out, const floatX *a, const floatX *b, int m, int most, int n, int k,
                      cudaStream_t stream);

// The same as matmul by a kernel of our own (kernels/matmul_plain.cu), which takes any shape and is slow. On the cuda target matmul()
// falls back on it for a shape that cuBLASLt has no algorithm for, and says so once. Its documentation demands no alignment
// of bf16 and fp32 operands, but does not promise an algorithm for each shape either. The shapes that occur in training
// have leading dimensions of whole 16 bytes, as fast algorithms want them; adapters of a rank that is no multiple of 8 do
// not.
void matmul_plain(void *d, MatmulOut out, const floatX *a, const floatX *b, int m, int n, int k, bool transpose_a,
                  bool transpose_b, bool accumulate, cudaStream_t stream);

// Allocates the library's handle and workspace (once; later calls do nothing), so that no step does. Returns bytes taken
// on the device.
size_t matmul_prepare(void);

// Before work that matmul() queued on `stream` is repeated there by a graph: other streams are done with what products
// share.
void matmul_take_workspace(cudaStream_t stream);

// From here on a shape's algorithm is that of the file (matmul_algorithms.h). times: at a shape's first use that the file does
// not have, on this GPU and with this version of the library, those that cuBLASLt proposes are timed, and the fastest is
// added to the file; else cuBLASLt's first proposal is taken. Which is the fastest can differ from one timing to the next, and
// with it the bits: a run has the bits of another only with that one's file. Errors: 2 (also: not the cuda target), 1.
int matmul_use_algorithms(const char *path, bool times, Error *err);

#ifdef __cplusplus
}
#endif
#endif
