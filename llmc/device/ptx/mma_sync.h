// mma.sync.m16n8k16: a warp computes C[16 x 8] += A[16 x 16] · B[16 x 8], A and B in bf16, products and sums in fp32.
// Source: PTX ISA, "Matrix Fragments for mma.m16n8k16".
//
// Which lane holds what, with g = lane / 4 and q = lane % 4. A register of A or B holds two bf16, the first
// in the low half; one of C holds a float.
// clang-format off
//
//     A, 16 x 16                   B, 16 x 8                    C, 16 x 8
//           row    columns               rows            column        row    column
//     a0    g      2q,     2q + 1  b0    2q,     2q + 1  g      c0    g      2q
//     a1    g + 8  2q,     2q + 1  b1    2q + 8, 2q + 9  g      c1    g      2q + 1
//     a2    g      2q + 8, 2q + 9                               c2    g + 8  2q
//     a3    g + 8  2q + 8, 2q + 9                               c3    g + 8  2q + 1
//
// clang-format on
#ifndef LLMC_DEVICE_PTX_MMA_SYNC_H
#define LLMC_DEVICE_PTX_MMA_SYNC_H

#include <cuda_runtime.h>
#include <stdint.h>

#include "device/ptx/convert.h"

#ifdef LLMC_TARGET_CPU

inline void mma_m16n8k16(float &c0, float &c1, float &c2, float &c3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                         uint32_t b0, uint32_t b1, const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
    struct Slot {
        float c[4];
        uint32_t a[4], b[2];
    } slot = {{c0, c1, c2, c3}, {a0, a1, a2, a3}, {b0, b1}};
    host_warp_rendezvous(
        &slot,
        [](void **lanes) {
            auto half = [](uint32_t pair, int k) { return k & 1 ? high_bf16(pair) : low_bf16(pair); };
            auto a = [&](int row, int k) {
                return half(((Slot *)lanes[row % 8 * 4 + k % 8 / 2])->a[row / 8 + k / 8 * 2], k);
            };
            auto b = [&](int k, int n) { return half(((Slot *)lanes[n * 4 + k % 8 / 2])->b[k / 8], k); };
            for (int row = 0; row < 16; row++)
                for (int n = 0; n < 8; n++) {
                    float &sum = ((Slot *)lanes[row % 8 * 4 + n / 2])->c[row / 8 * 2 + n % 2];
                    for (int k = 0; k < 16; k++) sum += a(row, k) * b(k, n);
                }
        },
        file, line);
    c0 = slot.c[0], c1 = slot.c[1], c2 = slot.c[2], c3 = slot.c[3];
}

#else

__device__ __forceinline__ void mma_m16n8k16(float &c0, float &c1, float &c2, float &c3, uint32_t a0, uint32_t a1,
                                             uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

#endif
#endif
