// The wrappers of device/ptx and device/mma.h for test_mma_layout.py, compiled for the CPU target. One warp each.
#include "device/mma.h"

namespace {

typedef __nv_bfloat16 bf16;

template <bool Transposed> __global__ void ldmatrix_kernel(const uint16_t *memory, uint32_t *result) {
    uint32_t r[4];
    const void *row = memory + 8 * threadIdx.x;
    if (Transposed)
        ldmatrix_x4_trans(r, row);
    else
        ldmatrix_x4(r, row);
    for (int i = 0; i < 4; i++) result[threadIdx.x * 4 + i] = r[i];
}

__global__ void mma_kernel(float *c, const uint32_t *a, const uint32_t *b) {
    c += threadIdx.x * 4, a += threadIdx.x * 4, b += threadIdx.x * 2;
    mma_m16n8k16(c[0], c[1], c[2], c[3], a[0], a[1], a[2], a[3], b[0], b[1]);
}

template <typename T, int COLS> __device__ void fill_tile(SharedTile<T, COLS> tile, const T *from, int rows) {
    for (int i = (int)threadIdx.x; i < rows * COLS; i += 32) *tile.at(i / COLS, i % COLS) = from[i];
    __syncwarp();
}

// c[16M, N] = c + A · B from A [16M, K] and B ([N, K] or [K, COLS] from column col0), by way of fragments.
template <typename T, int M, int N, int K, int COLS, bool BIsRowMajor>
__global__ void product_kernel(float *c, const T *a, const T *b, int col0, bool by_instructions) {
    SHARED(T, a_memory, 16 * M * K);
    SHARED(T, b_memory, (BIsRowMajor ? K : N) * COLS);
    SharedTile<T, K> a_tile = {a_memory};
    SharedTile<T, COLS> b_tile = {b_memory};
    fill_tile(a_tile, a, 16 * M);
    fill_tile(b_tile, b, BIsRowMajor ? K : N);
    FragA<T, K> frag[M];
    Acc<N> acc[M];
    for (int m = 0; m < M; m++) {
        for (int block = 0; block < Acc<N>::BLOCKS; block++)
            for (int h = 0; h < 2; h++)
                for (int e = 0; e < 2 * Acc<N>::W; e++) {
                    int row = 16 * m + 8 * h + lane_id() / 4, column = Acc<N>::column(lane_id(), block, e);
                    acc[m].c[block][h][e] = c[row * N + column];
                }
        if (by_instructions)
            by_instruction::load_a(frag[m], a_tile, 16 * m);
        else
            load_a(frag[m], a_tile, 16 * m);
    }
    if (by_instructions)
        by_instruction::multiply<BIsRowMajor>(acc, frag, b_tile, col0);
    else if (BIsRowMajor)
        multiply_nn(acc, frag, b_tile, col0);
    else
        multiply_nt(acc, frag, b_tile);
    for (int m = 0; m < M; m++)
        for (int block = 0; block < Acc<N>::BLOCKS; block++)
            for (int h = 0; h < 2; h++)
                for (int e = 0; e < 2 * Acc<N>::W; e++) {
                    int row = 16 * m + 8 * h + lane_id() / 4, column = Acc<N>::column(lane_id(), block, e);
                    c[row * N + column] = acc[m].c[block][h][e];
                }
}

// to[16, N] = A [16, 64] · B [N, 64]^T, rounded to T, out of the accumulator into a tile; again[16, N] = the
// same by way of the left operand: (A B^T) I.
template <typename T, int N>
__global__ void passing_kernel(T *to, float *again, const T *a, const T *b, const T *identity) {
    SHARED(T, a_memory, 16 * 64);
    SHARED(T, b_memory, N * 64);
    SHARED(T, identity_memory, N * N);
    SHARED(T, out_memory, 16 * N);
    SharedTile<T, 64> a_tile = {a_memory}, b_tile = {b_memory};
    SharedTile<T, N> identity_tile = {identity_memory}, out_tile = {out_memory};
    fill_tile(a_tile, a, 16);
    fill_tile(b_tile, b, N);
    fill_tile(identity_tile, identity, N);
    FragA<T, 64> frag[1];
    Acc<N> acc[1], product[1];
    acc_zero(acc[0]);
    acc_zero(product[0]);
    load_a(frag[0], a_tile, 0);
    multiply_nt(acc, frag, b_tile);
    store_acc(out_tile, 0, acc[0]);
    __syncwarp();
    for (int i = (int)threadIdx.x; i < 16 * N; i += 32) to[i] = *out_tile.at(i / N, i % N);
    FragA<T, N> passed[1];
    frag_from_acc(passed[0], acc[0]);
    multiply_nn(product, passed, identity_tile, 0);
    for (int block = 0; block < Acc<N>::BLOCKS; block++)
        for (int h = 0; h < 2; h++)
            for (int e = 0; e < 2 * Acc<N>::W; e++)
                again[(8 * h + lane_id() / 4) * N + Acc<N>::column(lane_id(), block, e)] =
                    product[0].c[block][h][e];
}

} // namespace

extern "C" {
void run_ldmatrix(const uint16_t *memory, uint32_t *result, bool transposed) {
    if (transposed)
        launch((ldmatrix_kernel<true>), 1, 32, 0, nullptr, memory, result);
    else
        launch((ldmatrix_kernel<false>), 1, 32, 0, nullptr, memory, result);
}
void run_mma(float *c, const uint32_t *a, const uint32_t *b) {
    launch(mma_kernel, 1, 32, 0, nullptr, c, a, b);
}

#define PRODUCT(name, T, M, N, K, COLS, row_major)                                                           \
    void name(float *c, const T *a, const T *b, int col0, bool by_instructions) {                            \
        launch((product_kernel<T, M, N, K, COLS, row_major>), 1, 32, 0, nullptr, c, a, b, col0,              \
               by_instructions);                                                                             \
    }
// name: type, row tiles, N, K, columns of B's tile
PRODUCT(nt_bf16_2_64_32_32, bf16, 2, 64, 32, 32, false)
PRODUCT(nt_bf16_1_32_128_128, bf16, 1, 32, 128, 128, false)
PRODUCT(nt_bf16_1_16_64_64, bf16, 1, 16, 64, 64, false)
PRODUCT(nn_bf16_2_32_64_32, bf16, 2, 32, 64, 32, true)
PRODUCT(nn_bf16_1_64_64_64, bf16, 1, 64, 64, 64, true)
PRODUCT(nn_bf16_1_128_32_256, bf16, 1, 128, 32, 256, true)
PRODUCT(nn_bf16_1_32_32_64, bf16, 1, 32, 32, 64, true)
PRODUCT(nt_fp32_2_64_32_32, float, 2, 64, 32, 32, false)
PRODUCT(nn_fp32_1_128_32_256, float, 1, 128, 32, 256, true)
PRODUCT(nn_fp32_1_32_64_32, float, 1, 32, 64, 32, true)

#define PASSING(name, T, N)                                                                                  \
    void name(T *to, float *again, const T *a, const T *b, const T *identity) {                              \
        launch((passing_kernel<T, N>), 1, 32, 0, nullptr, to, again, a, b, identity);                        \
    }
PASSING(passing_bf16_32, bf16, 32)
PASSING(passing_bf16_128, bf16, 128)
PASSING(passing_fp32_64, float, 64)
}
