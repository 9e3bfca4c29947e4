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
enum { KEEPING_BLOCK = 128 }; // the largest whose threads have the registers to keep x and dout in the backward pass

// Threads that a multiprocessor is to have at once, which bounds their registers: to 40 in the forward pass where a block of less
// than MAX_BLOCK has a row, to 80 where a warp has some; in the backward pass to 96 where a block keeps its row, to 168 where a
// warp keeps several, else to 64.
template <bool BLOCK_ROW, int THREADS>
constexpr int FORWARD_RESIDENT = !BLOCK_ROW            ? 768
                                 : THREADS < MAX_BLOCK ? 1536
                                                       : 1024;
template <bool BLOCK_ROW, int THREADS>
constexpr int BACKWARD_RESIDENT = !BLOCK_ROW                 ? 384
                                  : THREADS <= KEEPING_BLOCK ? 640
                                                             : 1024;

// The groups of the backward pass. Their number decides the order in which dweight is added up, so it is the same on all GPUs: as
// many as leave MIN_GROUP_ROWS to each, and as 103 multiprocessors have at once. A GPU with more of these has fewer groups on
// each. A CPU needs only as many as keep its cores at work.
enum { MIN_GROUP_ROWS = 8, MIN_ALONE_ROWS = 32, MAX_GROUPS = 512, MAX_GROUP_THREADS = MAX_GROUPS * 128 };

enum { SEGMENT = 32, SUM_COLUMNS = 32, SUM_THREADS = 128 }; // rows and columns that are added up together

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
template <bool ADD, bool BLOCK_ROW, int ROWS, int CHUNKS, int THREADS>
__global__ void __launch_bounds__(THREADS, FORWARD_RESIDENT<BLOCK_ROW, THREADS> / THREADS)
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
    for (int r = 0; r < ROWS; r++) {
        scale[r] = fast_rsqrt(fast_divide(scale[r], (float)C) + eps);
        if (at.rank == 0 && first + r < N) rstd[first + r] = scale[r];
    }
    each_chunk<ROWS, CHUNKS>(at, first, N, C, weight, [&](int r, int k, int, size_t i, const float(&w)[WIDE]) {
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
__global__ void __launch_bounds__(THREADS, BACKWARD_RESIDENT<BLOCK_ROW, THREADS> / THREADS)
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
        float scale[ROWS], along[ROWS];
        EACH_ELEMENT
        for (int r = 0; r < ROWS; r++) scale[r] = rstd[min(first + r, N - 1)];
        each_chunk<ROWS, CHUNKS>(at, first, N, C, weight, [&](int r, int k, int c, size_t i, const float(&w)[WIDE]) {
            const Chunk value = access_as<Chunk>(x + i), d = access_as<Chunk>(dout + i);
            if constexpr (KEEP) row[r][k] = value, drow[r][k] = d;
            float product[WIDE];
            weight_gradient(product, value, d, scale[r]);
            dweight.add(k, c, product);
            EACH_ELEMENT
            for (int j = 0; j < WIDE; j++) product[j] *= w[j];
            sums.add(r, product);
        });
        sums.total(along);
        EACH_ELEMENT
        for (int r = 0; r < ROWS; r++) along[r] = fast_divide(scale[r] * scale[r] * along[r], (float)C);
        each_chunk<ROWS, CHUNKS>(at, first, N, C, weight, [&](int r, int k, int, size_t i, const float(&w)[WIDE]) {
            float result[WIDE] = {};
            if (dresidual) load_vec(result, dresidual + i);
            Chunk value, d;
            if constexpr (KEEP)
                value = row[r][k], d = drow[r][k];
            else
                value = access_as<Chunk>(x + i), d = access_as<Chunk>(dout + i);
            add_gradient(result, value, d, w, scale[r], along[r]);
            store_vec(dx + i, result);
        });
    }
    dweight.write(partial + (size_t)at.group * C, at, C);
}

// sum += `rows` rows of `from`, `stride` elements apart.
template <int WIDE>
__device__ __forceinline__ void add_rows(float (&sum)[WIDE], const float *from, int rows, size_t stride) {
#pragma unroll 4
    for (int row = 0; row < rows; row++) {
        float value[WIDE];
        load_vec(value, from + row * stride);
        EACH_ELEMENT
        for (int i = 0; i < WIDE; i++) sum[i] += value[i];
    }
}

// dweight [C] = or += the sum of the rows of partial [groups, C], in a block of SUM_COLUMNS columns. Of more than SEGMENT rows
// each SEGMENT are first added up in place of the first of them.
template <int THREADS>
__global__ void __launch_bounds__(THREADS)
    sum_groups_kernel(float *dweight, bool accumulate, float *partial, int groups, int C) {
    constexpr int WIDE = THREADS == 1 ? 16 : 4, LANES = SUM_COLUMNS / WIDE; // a lane has WIDE columns
    const int stride = groups <= SEGMENT ? 1 : SEGMENT, parts = ceil_div(groups, stride);
    const int begin = blockIdx.x * SUM_COLUMNS, lanes = min((int)SUM_COLUMNS, C - begin) / WIDE;
    float *columns = partial + begin;
    for (int i = threadIdx.x; stride > 1 && i < parts * LANES; i += THREADS) {
        const int first = i / LANES * SEGMENT, lane = i % LANES;
        float sum[WIDE] = {}, *to = columns + (size_t)first * C + lane * WIDE;
        if (lane >= lanes) continue;
        add_rows(sum, to, min((int)SEGMENT, groups - first), C);
        store_vec(to, sum);
    }
    if constexpr (THREADS > 1) __syncthreads();
    for (int lane = threadIdx.x; lane < lanes; lane += THREADS) {
        float sum[WIDE] = {}, *to = dweight + begin + lane * WIDE;
        if (accumulate) load_vec(sum, to);
        add_rows(sum, columns + lane * WIDE, parts, (size_t)stride * C);
        store_vec(to, sum);
    }
}

// Threads of a block that has a row.
static int row_threads(int C) { return ceil_div(ceil_div(C / CHUNK, (int)BLOCK_ROW_CHUNKS), 32) * 32; }

// The template parameter THREADS for so many: the next power of two from KEEPING_BLOCK on.
static int most_threads(int C) {
    int threads = KEEPING_BLOCK;
    while (threads < row_threads(C)) threads *= 2;
    return threads;
}

template <bool ADD, int ROWS, int CHUNKS>
static void forward_warps(floatX *sum, floatX *out, float *rstd, const floatX *x, const floatX *branch_out,
                          const floatX *weight, int N, int C, float eps, cudaStream_t stream) {
    launch((forward_kernel<ADD, false, ROWS, CHUNKS, WARPS * 32>), dim3(ceil_div(N, WARPS * ROWS)), dim3(WARPS * 32), 0,
           stream, sum, out, rstd, x, branch_out, weight, N, C, eps);
}

template <bool ADD, int THREADS>
static void forward_block(floatX *sum, floatX *out, float *rstd, const floatX *x, const floatX *branch_out,
                          const floatX *weight, int N, int C, float eps, cudaStream_t stream) {
    launch((forward_kernel<ADD, true, 1, BLOCK_ROW_CHUNKS, THREADS>), dim3(N), dim3(row_threads(C)), 0, stream, sum,
           out, rstd, x, branch_out, weight, N, C, eps);
}

template <bool ADD>
static void forward(floatX *sum, floatX *out, float *rstd, const floatX *x, const floatX *branch_out,
                    const floatX *weight, int N, int C, float eps, cudaStream_t stream) {
    assert(C % 16 == 0 && C <= MAX_C && are_aligned(16, sum, out, x, branch_out, weight));
    if (launch_alone((forward_kernel<ADD, false, 1, ALL_CHUNKS, 1>), dim3(N), stream, sum, out, rstd, x, branch_out,
                     weight, N, C, eps))
        return;
    if (C <= 256) return forward_warps<ADD, 8, 1>(sum, out, rstd, x, branch_out, weight, N, C, eps, stream);
    if (C <= 512) return forward_warps<ADD, 4, 2>(sum, out, rstd, x, branch_out, weight, N, C, eps, stream);
    if (C <= 1024) return forward_warps<ADD, 2, 4>(sum, out, rstd, x, branch_out, weight, N, C, eps, stream);
    if (most_threads(C) < MAX_BLOCK)
        return forward_block<ADD, MAX_BLOCK / 2>(sum, out, rstd, x, branch_out, weight, N, C, eps, stream);
    forward_block<ADD, MAX_BLOCK>(sum, out, rstd, x, branch_out, weight, N, C, eps, stream);
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

static int backward_groups(int N, int C) {
    if (wide_warps()) return min(ceil_div(N, (int)MIN_ALONE_ROWS), (int)MAX_GROUPS);
    return min(ceil_div(N, (int)MIN_GROUP_ROWS), MAX_GROUP_THREADS / most_threads(C));
}

extern "C" void rmsnorm_backward(floatX *dx, float *dweight, float *scratch, const floatX *dout,
                                 const floatX *dresidual, const floatX *x, const floatX *weight, const float *rstd,
                                 bool accumulate, int N, int C, cudaStream_t stream) {
    assert(C % 16 == 0 && C <= MAX_C && are_aligned(16, dx, dweight, scratch, dout, dresidual, x, weight));
    const int groups = backward_groups(N, C), threads = most_threads(C);
#define BACKWARD(way) way(dx, scratch, dout, dresidual, x, weight, rstd, N, C, groups, stream)
    if (launch_alone((backward_kernel<false, 1, ALL_CHUNKS, 1>), dim3(groups), stream, dx, scratch, dout, dresidual, x,
                     weight, rstd, N, C, groups))
        ;
    else if (C <= 256)
        BACKWARD((backward_warps<8, 1>));
    else if (C <= 512)
        BACKWARD((backward_warps<4, 2>));
    else if (C <= 1024)
        BACKWARD((backward_warps<2, 4>));
    else if (threads == 128)
        BACKWARD(backward_block<128>);
    else if (threads == 256)
        BACKWARD(backward_block<256>);
    else if (threads == 512)
        BACKWARD(backward_block<512>);
    else
        BACKWARD(backward_block<1024>);
#undef BACKWARD
    launch_block(sum_groups_kernel, SUM_THREADS, dim3(ceil_div(C, (int)SUM_COLUMNS)), stream, dweight, accumulate,
                 scratch, groups, C);
}
