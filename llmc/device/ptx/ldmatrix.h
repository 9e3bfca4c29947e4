// ldmatrix: a warp loads four 8 x 8 matrices of 16-bit elements from shared memory.
// Source: PTX ISA, "Warp-level matrix load instruction: ldmatrix".
//
// Row i of matrix m is the 16 bytes that lane 8m + i points to. Lane l receives in r[m] two elements of matrix m, the first
// in the low half:
//   ldmatrix_x4         [l/4][2 (l%4)]  and  [l/4][2 (l%4) + 1]
//   ldmatrix_x4_trans   [2 (l%4)][l/4]  and  [2 (l%4) + 1][l/4]
#ifndef LLMC_DEVICE_PTX_LDMATRIX_H
#define LLMC_DEVICE_PTX_LDMATRIX_H

#include <cuda_runtime.h>
#include <stdint.h>

#include "device/ptx/shared_address.h"

#ifdef LLMC_TARGET_CPU

template <bool Transposed> inline void host_ldmatrix_x4(uint32_t (&r)[4], const void *row, const char *file, int line) {
    host_check_aligned(row, 16, "ldmatrix reads");
    struct Slot {
        const uint16_t *row;
        uint32_t r[4];
    } slot = {(const uint16_t *)row, {}};
    host_warp_rendezvous(
        &slot,
        [](void **lanes) {
            auto element = [&](int matrix, int i, int j) -> uint32_t {
                return ((Slot *)lanes[8 * matrix + i])->row[j];
            };
            for (int lane = 0; lane < 32; lane++)
                for (int m = 0; m < 4; m++) {
                    int i = lane / 4, j = lane % 4 * 2;
                    uint32_t low = Transposed ? element(m, j, i) : element(m, i, j);
                    uint32_t high = Transposed ? element(m, j + 1, i) : element(m, i, j + 1);
                    ((Slot *)lanes[lane])->r[m] = low | high << 16;
                }
        },
        file, line);
    for (int m = 0; m < 4; m++) r[m] = slot.r[m];
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void *row, const char *file = __builtin_FILE(),
                        int line = __builtin_LINE()) {
    host_ldmatrix_x4<false>(r, row, file, line);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row, const char *file = __builtin_FILE(),
                              int line = __builtin_LINE()) {
    host_ldmatrix_x4<true>(r, row, file, line);
}

#else

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}

#endif
#endif
