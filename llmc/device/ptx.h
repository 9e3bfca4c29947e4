// PTX instructions as functions, each with its meaning on the host beside it: which thread holds which
// element and which bytes arrive. Source: PTX ISA, sections "Matrix Fragments for mma.m16n8k16", "ldmatrix"
// and "cp.async".
//
// Lane l of a warp has the group g = l / 4 and the place q = l % 4 in it. A register holds two bf16, the
// lower index in the low half.
//   A, 16 x 16: a[0] = A[g][2q, 2q+1]   a[1] = A[g+8][2q, 2q+1]   a[2] = A[g][2q+8, 2q+9]   a[3] =
//   A[g+8][2q+8, 2q+9] B, 16 x 8:  b[0] = B[2q, 2q+1][g]   b[1] = B[2q+8, 2q+9][g] C, 16 x 8:  c[0], c[1] =
//   C[g][2q, 2q+1]   c[2], c[3] = C[g+8][2q, 2q+1]
#ifndef LLMC_DEVICE_PTX_H
#define LLMC_DEVICE_PTX_H

#include "device/reduce.h"
#include "device/types.h"
#include <stdint.h>

__device__ __forceinline__ int lane_id() { return (int)(threadIdx.x % 32); }

// Two floats rounded to bf16 in one register, `low` in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
#ifdef LLMC_TARGET_CPU
    return (uint32_t)__float2bfloat16(low).bits | (uint32_t)__float2bfloat16(high).bits << 16;
#else
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#endif
}
__device__ __forceinline__ float low_bf16(uint32_t packed) { return __uint_as_float(packed << 16); }
__device__ __forceinline__ float high_bf16(uint32_t packed) { return __uint_as_float(packed & 0xffff0000u); }

#ifdef LLMC_TARGET_CPU

#include "async_copy.h"

// Four 8 x 8 matrices of 16-bit elements: row i of matrix m is the 16 bytes that lane 8m + i points to.
template <bool Transposed> inline void host_ldmatrix_x4(uint32_t (&r)[4], const void *row, const char *file, int line) {
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

// r[m] = elements [l/4][2q, 2q+1] of matrix m.
inline void ldmatrix_x4(uint32_t (&r)[4], const void *row, LLMC_SITE) {
    host_ldmatrix_x4<false>(r, row, LLMC_SITE_ARGS);
}
// r[m] = elements [2q, 2q+1][l/4] of matrix m.
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row, LLMC_SITE) {
    host_ldmatrix_x4<true>(r, row, LLMC_SITE_ARGS);
}

// C += A · B, products and sums in fp32.
inline void mma_m16n8k16(float &c0, float &c1, float &c2, float &c3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                         uint32_t b0, uint32_t b1, LLMC_SITE) {
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
        LLMC_SITE_ARGS);
    c0 = slot.c[0], c1 = slot.c[1], c2 = slot.c[2], c3 = slot.c[3];
}

// 16 bytes from global to shared memory in the background; zeros where not `valid` (nothing is read then).
// They have arrived, for the thread that asked, when cp_async_wait returns; for the others after a barrier
// behind that.
inline void cp_async_16(void *shared, const void *global, bool valid) { host_copy_async(shared, global, valid); }
inline void cp_async_commit() { host_copy_commit(); }
// Waits until at most `Pending` of the groups committed last are under way.
template <int Pending> inline void cp_async_wait() { host_copy_wait(Pending); }

#else

__device__ __forceinline__ uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

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

__device__ __forceinline__ void mma_m16n8k16(float &c0, float &c1, float &c2, float &c3, uint32_t a0, uint32_t a1,
                                             uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void cp_async_16(void *shared, const void *global, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

#endif
#endif
