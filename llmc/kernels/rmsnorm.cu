// RMSNorm: out = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps). Backward, with n = x * rstd and g =
// dout * weight:
//   dx      = dresidual + rstd * (g - n * mean(g * n))
//   dweight = sum over rows of dout * n
//
// A group of threads has a row in its registers: a warp, which takes several rows at once, so that one reduction serves
// them all, or for long rows a block. Each thread owns the same chunks of every row; so it sums its part of dweight over
// the rows of its group in registers. The groups' sums are then added in a fixed order. On the CPU a group is one thread
// (wide_warps), which reads a row again rather than keep it, and sums dweight in memory.
#include "kernels/rmsnorm.h"

#include <assert.h>

#include "device/math.h"
#include "device/reduce.h"
#include "kernels/rows.h"

enum { WARPS = 4 };            // of a block, where a warp has a row
enum { BLOCK_ROW_CHUNKS = 4 }; // a thread's chunks of a row that a block has
enum { MAX_BLOCK = 1024, MAX_C = MAX_BLOCK * CHUNK * BLOCK_ROW_CHUNKS };
enum { KEEPING_BLOCK = 512 }; // the largest whose threads have the registers to keep x and dout in the backward pass
enum { MAX_GROUPS = 512, MIN_GROUP_ROWS = 32, SEGMENT = 32 }; // of the backward pass

// For the template parameter CHUNKS, the chunks of a row that a thread has: all, however many, as it is its group.
enum { ALL_CHUNKS = 0 };
template <int CHUNKS> constexpr int WIDTH = CHUNKS == ALL_CHUNKS ? (int)SPAN : (int)CHUNK; // elements of a chunk

// Which rows and chunks are this thread's: a group of `width` threads, of which it is number `rank`.
struct Place {
    int group, rank, width;
};

template <bool BLOCK_ROW, int CHUNKS> __device__ __forceinline__ Place place() {
    if (CHUNKS == ALL_CHUNKS) return {(int)blockIdx.x, 0, 1};
    if (BLOCK_ROW) return {(int)blockIdx.x, (int)threadIdx.x, (int)blockDim.x};
    return {(int)(blockIdx.x * WARPS + threadIdx.x / 32), (int)threadIdx.x % 32, 32};
}

// Sums over the group, one for each of its rows.
template <bool BLOCK_ROW, int CHUNKS, int ROWS> struct GroupSums {
    static_assert(!BLOCK_ROW || ROWS == 1, "a block has one row at a time");
    // a thread that is alone adds up vectors, and only at the end their elements
    static constexpr int PARTS = CHUNKS == ALL_CHUNKS ? WIDTH<CHUNKS> : 1;
    float part[ROWS][PARTS] = {};

    __device__ __forceinline__ void add(int row, const float (&x)[WIDTH<CHUNKS>]) {
        if constexpr (PARTS == 1) {
            part[row][0] += sum_vec(x);
        } else {
            EACH_ELEMENT
            for (int i = 0; i < PARTS; i++) part[row][i] += x[i];
        }
    }
    __device__ __forceinline__ void total(float (&sums)[ROWS]) const {
#pragma unroll
        for (int r = 0; r < ROWS; r++) sums[r] = sum_vec(part[r]);
        if constexpr (CHUNKS == ALL_CHUNKS) return;
        if constexpr (BLOCK_ROW)
            sums[0] = block_sum(sums[0]);
        else
            warp_sum(sums);
    }
};

// x + branch_out rounded to floatX.
template <int N>
__device__ __forceinline__ Pack<floatX, N> add(const Pack<floatX, N> &x, const Pack<floatX, N> &branch_out) {
    float a[N], b[N];
    unpack(a, x);
    unpack(b, branch_out);
    EACH_ELEMENT
    for (int i = 0; i < N; i++) a[i] += b[i];
    Pack<floatX, N> sum;
    pack(sum, a);
    return sum;
}

// visit(r, k, c, i, w) for each of this thread's chunks of the rows first (< N) to first + ROWS - 1: chunk k of row first + r,
// which begins at column c and at element i of [N, C], and has the weights w.
template <int ROWS, int CHUNKS, typename Visit>
__device__ __forceinline__ void each_chunk(Place at, int first, int N, int C, const floatX *weight, Visit visit) {
    const int chunks = CHUNKS == ALL_CHUNKS ? C / WIDTH<CHUNKS> : CHUNKS;
#pragma unroll
    for (int k = 0; k < chunks; k++) {
        const int c = (k * at.width + at.rank) * WIDTH<CHUNKS>;
        if (CHUNKS != ALL_CHUNKS && c >= C) continue;
        float w[WIDTH<CHUNKS>];
        load_vec(w, weight + c);
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            if (CHUNKS == ALL_CHUNKS || first + r < N) visit(r, k, c, (size_t)(first + r) * C + c, w);
    }
}

template <int N> __device__ __forceinline__ void squares(float (&square)[N], const Pack<floatX, N> &x) {
    unpack(square, x);
    EACH_ELEMENT
    for (int j = 0; j < N; j++) square[j] *= square[j];
}

// ADD: the norm of x + branch_out, which is written to `sum`.
template <bool ADD, bool BLOCK_ROW, int ROWS, int CHUNKS>
__global__ void __launch_bounds__(BLOCK_ROW ? MAX_BLOCK : WARPS * 32)
    forward_kernel(floatX *sum, floatX *out, float *rstd, const floatX *x, const floatX *branch_out,
                   const floatX *weight, int N, int C, float eps) {
    constexpr int WIDE = WIDTH<CHUNKS>;
    typedef Pack<floatX, WIDE> Chunk;
    constexpr bool KEEP = CHUNKS != ALL_CHUNKS;
    const Place at = place<BLOCK_ROW, CHUNKS>();
    const int first = at.group * ROWS;
    if (first >= N) return; // all threads of a group together
    Chunk row[ROWS][KEEP ? CHUNKS : 1];
    GroupSums<BLOCK_ROW, CHUNKS, ROWS> square;
    each_chunk<ROWS, CHUNKS>(at, first, N, C, weight, [&](int r, int k, int, size_t i, const float(&)[WIDE]) {
        Chunk value = access_as<Chunk>(x + i);
        if constexpr (ADD) access_as<Chunk>(sum + i) = value = add(value, access_as<Chunk>(branch_out + i));
        if constexpr (KEEP) row[r][k] = value;
        float product[WIDE];
        squares(product, value);
        square.add(r, product);
    });
    float scale[ROWS];
    square.total(scale);
    EACH_ELEMENT
    for (int r = 0; r < ROWS; r++) scale[r] = fast_rsqrt(fast_divide(scale[r], (float)C) + eps);
    each_chunk<ROWS, CHUNKS>(at, first, N, C, weight, [&](int r, int k, int c, size_t i, const float(&w)[WIDE]) {
        if (c == 0) rstd[first + r] = scale[r];
        float value[WIDE];
        unpack(value, KEEP ? row[r][KEEP ? k : 0] : access_as<Chunk>((ADD ? sum : x) + i));
        EACH_ELEMENT
        for (int j = 0; j < WIDE; j++) value[j] *= scale[r] * w[j];
        store_vec(out + i, value);
    });
}

// A group's part of dweight: in its threads' registers until all rows are through, or from the beginning in memory.
template <int CHUNKS> struct WeightSums {
    float sum[CHUNKS][CHUNK] = {};

    __device__ __forceinline__ explicit WeightSums(float *, int) {}
    __device__ __forceinline__ void add(int k, int, const float (&x)[CHUNK]) {
        EACH_ELEMENT
        for (int j = 0; j < CHUNK; j++) sum[k][j] += x[j];
    }
    __device__ __forceinline__ void write(float *to, Place at, int C) const {
#pragma unroll
        for (int k = 0; k < CHUNKS; k++) {
            const int c = (k * at.width + at.rank) * CHUNK;
            if (c < C) store_vec(to + c, sum[k]);
        }
    }
};
template <> struct WeightSums<ALL_CHUNKS> {
    float *sums; // [C]

    __device__ __forceinline__ explicit WeightSums(float *to, int C) : sums(to) {
        for (int c = 0; c < C; c++) to[c] = 0.0f;
    }
    __device__ __forceinline__ void add(int, int c, const float (&x)[SPAN]) {
        float sum[SPAN];
        load_vec(sum, sums + c);
        EACH_ELEMENT
        for (int j = 0; j < SPAN; j++) sum[j] += x[j];
        store_vec(sums + c, sum);
    }
    __device__ __forceinline__ void write(float *, Place, int) const {}
};

// dout * n, this chunk's part of dweight.
template <int N>
__device__ __forceinline__ void weight_gradient(float (&product)[N], const Pack<floatX, N> &x,
                                                const Pack<floatX, N> &dout, float scale) {
    float value[N];
    unpack(value, x);
    unpack(product, dout);
    EACH_ELEMENT
    for (int j = 0; j < N; j++) product[j] *= value[j] * scale;
}

// dx += the gradient through the norm, for one chunk. along: rstd^2 mean(g n), what of x is subtracted.
template <int N>
__device__ __forceinline__ void add_gradient(float (&dx)[N], const Pack<floatX, N> &x, const Pack<floatX, N> &dout,
                                             const float (&w)[N], float scale, float along) {
    float value[N], d[N];
    unpack(value, x);
    unpack(d, dout);
    EACH_ELEMENT
    for (int j = 0; j < N; j++) dx[j] += scale * d[j] * w[j] - along * value[j];
}

// partial [groups, C] = each group's part of dweight.
template <bool BLOCK_ROW, int ROWS, int CHUNKS, int THREADS>
__global__ void __launch_bounds__(THREADS)
    backward_kernel(floatX *dx, float *partial, const floatX *dout, const floatX *dresidual, const floatX *x,
                    const floatX *weight, const float *rstd, int N, int C, int groups) {
    constexpr int WIDE = WIDTH<CHUNKS>;
    typedef Pack<floatX, WIDE> Chunk;
    constexpr bool KEEP = CHUNKS != ALL_CHUNKS && THREADS <= KEEPING_BLOCK; // else they are read again, from the cache
    const Place at = place<BLOCK_ROW, CHUNKS>();
    if (at.group >= groups) return;
    WeightSums<CHUNKS> dweight(partial + (size_t)at.group * C, C);
    for (int first = at.group * ROWS; first < N; first += groups * ROWS) {
        Chunk row[ROWS][KEEP ? CHUNKS : 1], drow[ROWS][KEEP ? CHUNKS : 1];
        GroupSums<BLOCK_ROW, CHUNKS, ROWS> sums; // of g n
        each_chunk<ROWS, CHUNKS>(at, first, N, C, weight, [&](int r, int k, int c, size_t i, const float(&w)[WIDE]) {
            const Chunk value = access_as<Chunk>(x + i), d = access_as<Chunk>(dout + i);
            if constexpr (KEEP) row[r][k] = value, drow[r][k] = d;
            float product[WIDE];
            weight_gradient(product, value, d, rstd[first + r]);
            dweight.add(k, c, product);
            EACH_ELEMENT
            for (int j = 0; j < WIDE; j++) product[j] *= w[j];
            sums.add(r, product);
        });
        float dot[ROWS];
        sums.total(dot);
        each_chunk<ROWS, CHUNKS>(at, first, N, C, weight, [&](int r, int k, int, size_t i, const float(&w)[WIDE]) {
            const float scale = rstd[first + r], along = fast_divide(scale * scale * dot[r], (float)C);
            const int kept = KEEP ? k : 0;
            float result[WIDE] = {};
            if (dresidual) load_vec(result, dresidual + i);
            add_gradient(result, KEEP ? row[r][kept] : access_as<Chunk>(x + i),
                         KEEP ? drow[r][kept] : access_as<Chunk>(dout + i), w, scale, along);
            store_vec(dx + i, result);
        });
    }
    dweight.write(partial + (size_t)at.group * C, at, C);
}

// A thread adds up to SEGMENT rows, `stride` rows apart, of one chunk of columns: blockIdx.y * SEGMENT and
// on. to [segments]: row y * to_stride; `to` may be `from`, as each thread writes over a row that only it has
// read.
template <bool ACCUMULATE>
__global__ void sum_segment_kernel(float *to, size_t to_stride, const float *from, size_t stride, int rows, int C) {
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * CHUNK;
    if (c >= C) return;
    int first = blockIdx.y * SEGMENT, end = min(first + SEGMENT, rows);
    float sum[CHUNK] = {};
    float *target = to + blockIdx.y * to_stride * C + c;
    if (ACCUMULATE) load_vec(sum, target);
#pragma unroll 4
    for (int row = first; row < end; row++) {
        float value[CHUNK];
        load_vec(value, from + row * stride * C + c);
        EACH_ELEMENT
        for (int k = 0; k < CHUNK; k++) sum[k] += value[k];
    }
    store_vec(target, sum);
}

// dweight [C] += the sum of the rows of partial [groups, C], which is overwritten.
static void sum_groups(float *dweight, float *partial, int groups, int C, cudaStream_t stream) {
    static_assert(MAX_GROUPS <= SEGMENT * SEGMENT, "two stages");
    dim3 block(128);
    int columns = ceil_div(C / CHUNK, 128), segments = ceil_div(groups, (int)SEGMENT);
    if (segments > 1)
        launch_pointwise(sum_segment_kernel<false>, dim3(columns, segments), block, stream, partial, SEGMENT, partial,
                         1, groups, C);
    launch_pointwise(sum_segment_kernel<true>, dim3(columns), block, stream, dweight, 0, partial,
                     segments > 1 ? SEGMENT : 1, segments > 1 ? segments : groups, C);
}

// Threads of a block that has a row.
static int row_threads(int C) { return ceil_div(ceil_div(C / CHUNK, (int)BLOCK_ROW_CHUNKS), 32) * 32; }

template <bool ADD, int ROWS, int CHUNKS>
static void forward_warps(floatX *sum, floatX *out, float *rstd, const floatX *x, const floatX *branch_out,
                          const floatX *weight, int N, int C, float eps, cudaStream_t stream) {
    launch((forward_kernel<ADD, false, ROWS, CHUNKS>), dim3(ceil_div(N, WARPS * ROWS)), dim3(WARPS * 32), 0, stream,
           sum, out, rstd, x, branch_out, weight, N, C, eps);
}

template <bool ADD>
static void forward(floatX *sum, floatX *out, float *rstd, const floatX *x, const floatX *branch_out,
                    const floatX *weight, int N, int C, float eps, cudaStream_t stream) {
    assert(C % 16 == 0 && C <= MAX_C && are_aligned(16, sum, out, x, branch_out, weight));
    if (launch_alone((forward_kernel<ADD, false, 1, ALL_CHUNKS>), dim3(N), stream, sum, out, rstd, x, branch_out,
                     weight, N, C, eps))
        return;
    if (C <= 256) return forward_warps<ADD, 8, 1>(sum, out, rstd, x, branch_out, weight, N, C, eps, stream);
    if (C <= 512) return forward_warps<ADD, 4, 2>(sum, out, rstd, x, branch_out, weight, N, C, eps, stream);
    if (C <= 1024) return forward_warps<ADD, 2, 4>(sum, out, rstd, x, branch_out, weight, N, C, eps, stream);
    launch((forward_kernel<ADD, true, 1, BLOCK_ROW_CHUNKS>), dim3(N), dim3(row_threads(C)), 0, stream, sum, out, rstd,
           x, branch_out, weight, N, C, eps);
}

template <int ROWS, int CHUNKS>
static void backward_warps(floatX *dx, float *partial, const floatX *dout, const floatX *dresidual, const floatX *x,
                           const floatX *weight, const float *rstd, int N, int C, int groups, cudaStream_t stream) {
    launch((backward_kernel<false, ROWS, CHUNKS, WARPS * 32>), dim3(ceil_div(groups, (int)WARPS)), dim3(WARPS * 32), 0,
           stream, dx, partial, dout, dresidual, x, weight, rstd, N, C, groups);
}

template <int THREADS>
static void backward_block(floatX *dx, float *partial, const floatX *dout, const floatX *dresidual, const floatX *x,
                           const floatX *weight, const float *rstd, int N, int C, int groups, cudaStream_t stream) {
    launch((backward_kernel<true, 1, BLOCK_ROW_CHUNKS, THREADS>), dim3(groups), dim3(row_threads(C)), 0, stream, dx,
           partial, dout, dresidual, x, weight, rstd, N, C, groups);
}

extern "C" void rmsnorm_forward(floatX *out, float *rstd, const floatX *x, const floatX *weight, int N, int C,
                                float eps, cudaStream_t stream) {
    forward<false>(nullptr, out, rstd, x, nullptr, weight, N, C, eps, stream);
}

extern "C" void add_rmsnorm_forward(floatX *residual_out, floatX *out, float *rstd, const floatX *residual,
                                    const floatX *branch_out, const floatX *weight, int N, int C, float eps,
                                    cudaStream_t stream) {
    forward<true>(residual_out, out, rstd, residual, branch_out, weight, N, C, eps, stream);
}

extern "C" size_t rmsnorm_backward_scratch(int C) { return (size_t)MAX_GROUPS * C; }

extern "C" void rmsnorm_backward(floatX *dx, float *dweight, float *scratch, const floatX *dout,
                                 const floatX *dresidual, const floatX *x, const floatX *weight, const float *rstd,
                                 int N, int C, cudaStream_t stream) {
    assert(C % 16 == 0 && C <= MAX_C && are_aligned(16, dx, dweight, scratch, dout, dresidual, x, weight));
    const int groups = min(ceil_div(N, (int)MIN_GROUP_ROWS), (int)MAX_GROUPS);
    if (launch_alone((backward_kernel<false, 1, ALL_CHUNKS, 1>), dim3(groups), stream, dx, scratch, dout, dresidual, x,
                     weight, rstd, N, C, groups))
        ;
    else if (C <= 256)
        backward_warps<8, 1>(dx, scratch, dout, dresidual, x, weight, rstd, N, C, groups, stream);
    else if (C <= 512)
        backward_warps<4, 2>(dx, scratch, dout, dresidual, x, weight, rstd, N, C, groups, stream);
    else if (C <= 1024)
        backward_warps<2, 4>(dx, scratch, dout, dresidual, x, weight, rstd, N, C, groups, stream);
    else if (row_threads(C) <= KEEPING_BLOCK)
        backward_block<KEEPING_BLOCK>(dx, scratch, dout, dresidual, x, weight, rstd, N, C, groups, stream);
    else
        backward_block<MAX_BLOCK>(dx, scratch, dout, dresidual, x, weight, rstd, N, C, groups, stream);
    sum_groups(dweight, scratch, groups, C, stream);
}
