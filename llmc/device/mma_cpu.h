// The CPU's side of device/mma.h: a product of fragments with a shared tile as one rendezvous of the warp. The last lane to
// arrive puts the operands together from the lanes and the tile, multiplies (device/matrix_cpu.h), and hands out the result.
#ifndef LLMC_DEVICE_MMA_CPU_H
#define LLMC_DEVICE_MMA_CPU_H

#include <string.h>

#include "device/matrix_cpu.h"
#include "device/mma_instructions.h"

// ---- from the lanes to rows, and back

template <int K> inline void host_gather(__nv_bfloat16 (*rows)[K], const FragA<__nv_bfloat16, K> &frag, int lane) {
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < K / 8; i++) memcpy(&rows[lane / 4 + 8 * h][8 * i + lane % 4 * 2], &frag.a[h][i], 4);
}
template <int K> inline void host_gather(float (*rows)[K], const FragA<float, K> &frag, int lane) {
    for (int h = 0; h < 2; h++)
        for (int e = 0; e < K / 4; e++)
            rows[lane / 4 + 8 * h][8 * (e % (K / 8)) + lane % 4 * 2 + e / (K / 8)] = frag.a[h][e];
}

// visit(value in the rows, value in the lane)
template <int N, typename Visit> inline void host_visit(float (*rows)[N], Acc<N> &acc, int lane, Visit visit) {
    for (int b = 0; b < Acc<N>::BLOCKS; b++)
        for (int h = 0; h < 2; h++)
            for (int e = 0; e < 2 * Acc<N>::W; e++)
                visit(rows[lane / 4 + 8 * h][Acc<N>::column(lane, b, e)], acc.c[b][h][e]);
}

// ---- products

// What a lane brings: accumulators and left operands.
template <int N, int K, typename T> struct HostProduct {
    Acc<N> *c;
    const FragA<T, K> *a;
};

// Not inlined: its arrays would make the stack frame of every lane larger.
template <bool BIsRowMajor, int M, int N, int K, typename T, int COLS>
__attribute__((noinline)) void host_multiply_lanes(void **lanes, SharedTile<T, COLS> b, int col0) {
    constexpr int B_ROWS = BIsRowMajor ? K : N, B_COLS = BIsRowMajor ? N : K, CHUNK = SharedTile<T, COLS>::CHUNK;
    alignas(64) T left[16 * M][K], right[B_ROWS][B_COLS];
    alignas(64) float result[16 * M][N];
    auto visit_lanes = [&](auto visit) {
        for (int lane = 0; lane < 32; lane++)
            for (int m = 0; m < M; m++) visit(*(HostProduct<N, K, T> *)lanes[lane], lane, m);
    };
    visit_lanes([&](auto &brought, int lane, int m) {
        host_gather(left + 16 * m, brought.a[m], lane);
        host_visit(result + 16 * m, brought.c[m], lane, [](float &row, float &own) { row = own; });
    });
    for (int row = 0; row < B_ROWS; row++)
        for (int col = 0; col < B_COLS; col += CHUNK) memcpy(&right[row][col], b.at(row, col0 + col), 16);
    host_multiply({result[0], N, true}, HostMatrix<T>{left[0], K, false}, HostMatrix<T>{right[0], B_COLS, !BIsRowMajor},
                  16 * M, N, K);
    visit_lanes([&](auto &brought, int lane, int m) {
        host_visit(result + 16 * m, brought.c[m], lane, [](float &row, float &own) { own = row; });
    });
}

template <bool BIsRowMajor, int M, int N, int K, typename T, int COLS>
inline void host_multiply_warp(HostProduct<N, K, T> product, SharedTile<T, COLS> b, int col0, const char *file,
                               int line) {
    host_check_aligned(b.data, 16, "ldmatrix reads");
    host_warp_rendezvous(
        &product, [=](void **lanes) { host_multiply_lanes<BIsRowMajor, M, N, K, T>(lanes, b, col0); }, file, line);
}

// ---- what kernels call

// C[16 x N] += A[16 x K] · B^T for M row tiles; B is rows 0 to N - 1 and columns 0 to K - 1 of the tile.
template <int M, int N, int K, typename T, int COLS>
inline void multiply_nt(Acc<N> (&c)[M], const FragA<T, K> (&a)[M], SharedTile<T, COLS> b, LLMC_SITE) {
    host_multiply_warp<false, M>(HostProduct<N, K, T>{c, a}, b, 0, LLMC_SITE_ARGS);
}
// C[16 x N] += A[16 x K] · B for M row tiles; B is rows 0 to K - 1 and columns col0 to col0 + N - 1 of the
// tile.
template <int M, int N, int K, typename T, int COLS>
inline void multiply_nn(Acc<N> (&c)[M], const FragA<T, K> (&a)[M], SharedTile<T, COLS> b, int col0, LLMC_SITE) {
    host_multiply_warp<true, M>(HostProduct<N, K, T>{c, a}, b, col0, LLMC_SITE_ARGS);
}

// A lane's own elements, read directly: where ldmatrix brings them is what FragA says.
template <int K, int COLS>
inline void load_a(FragA<__nv_bfloat16, K> &frag, SharedTile<__nv_bfloat16, COLS> tile, int row0) {
    int lane = lane_id();
    host_check_aligned(tile.data, 16, "ldmatrix reads");
    for (int h = 0; h < 2; h++) {
        int row = row0 + 8 * h + lane / 4;
        for (int i = 0; i < K / 8; i++) memcpy(&frag.a[h][i], tile.at(row, 8 * i + 2 * (lane % 4)), 4);
    }
}
template <int K, int COLS> inline void load_a(FragA<float, K> &frag, SharedTile<float, COLS> tile, int row0) {
    by_instruction::load_a(frag, tile, row0);
}

template <int K, int COLS>
inline void load_a_transposed(FragA<__nv_bfloat16, K> &frag, SharedTile<__nv_bfloat16, COLS> tile, int col0) {
    int lane = lane_id();
    host_check_aligned(tile.data, 16, "ldmatrix reads");
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < K / 8; i++)
            for (int j = 0; j < 2; j++)
                memcpy((char *)&frag.a[h][i] + 2 * j, tile.at(8 * i + 2 * (lane % 4) + j, col0 + 8 * h + lane / 4), 2);
}
template <int K, int COLS>
inline void load_a_transposed(FragA<float, K> &frag, SharedTile<float, COLS> tile, int col0) {
    by_instruction::load_a_transposed(frag, tile, col0);
}

template <int M, int N, typename T, int COLS>
inline void product_rows(Acc<N> (&c)[M], SharedTile<T, COLS> a, int row0, SharedTile<T, COLS> b, LLMC_SITE) {
    FragA<T, COLS> frag[M];
    for (int m = 0; m < M; m++) load_a(frag[m], a, row0 + 16 * m);
    zero_all(c);
    multiply_nt(c, frag, b, LLMC_SITE_ARGS);
}

#endif
