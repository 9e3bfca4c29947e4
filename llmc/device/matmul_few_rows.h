// Products of few rows and a weight matrix on the cpu target, as when text is generated: they are bound by reading the weights
// once; and of many rows that must have the same bits, as when prompts are read. A row's result has the same bits however many
// rows there are and however many threads.
#ifndef LLMC_DEVICE_MATMUL_FEW_ROWS_H
#define LLMC_DEVICE_MATMUL_FEW_ROWS_H

#include "device/types.h"

// As in matmul().
struct Product {
    void *d;
    const floatX *a, *b;
    int m, n, k;
    bool transpose_a, transpose_b, fp32_out, accumulate;
};

// Ends the program.
[[noreturn]] void matmul_fail(const Product &p, const char *reason);

// Whether it is y[m,n] = x[m,k] · w[n,k]^T of so few rows that few_rows_product is faster than oneDNN.
bool is_few_rows(const Product &p);

// use_bf16: bf16 by AVX512_BF16's dot product of pairs, which the CPU must have; else all sums are of fp32 products.
// For any m: of many rows as fast as oneDNN or somewhat slower (BENCHMARKS.md), but with the bits that they have alone.
void few_rows_product(const Product &p, bool use_bf16);

#endif
