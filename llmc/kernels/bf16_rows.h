// Sums over ranks whose terms travel as bf16: rounding what is sent, adding up what was received. bf16 numbers are given as their
// bits. Counts and strides are multiples of 8, pointers 16-byte aligned.
#ifndef LLMC_KERNELS_BF16_ROWS_H
#define LLMC_KERNELS_BF16_ROWS_H

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// to [rows, n] = rows of n at from, from + stride, ..., rounded to the nearest bf16, of two to the even one.
void bf16_round_rows(uint16_t *to, const float *from, int rows, size_t n, size_t stride, cudaStream_t stream);

// out [n] = in[0] + in[1] + ... of in [rows, n], added up in fp32, one after the other.
void bf16_sum_rows(float *out, const uint16_t *in, int rows, size_t n, cudaStream_t stream);

// The same, and the sum rounded as above.
void bf16_sum_rows_rounded(uint16_t *out, const uint16_t *in, int rows, size_t n, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
