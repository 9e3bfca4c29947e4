// Matrix products of the cuda target, by cuBLASLt.
//
// cuBLASLt's matrices are column-major: a row-major [r,c] matrix is to it a column-major c×r matrix with leading dimension c. So
// d = op(a)·op(b), row-major, is asked for as its transpose d^T = op(b)^T · op(a)^T, with nothing copied:
//
//   cuBLASLt's    ours            stored row-major   is to cuBLASLt (rows×columns, leading dimension)   operation
//   A  (n×k)      b               [k,n]              n×k, n                                             none
//                 b, transposed   [n,k]              k×n, k                                             transpose
//   B  (k×m)      a               [m,k]              k×m, k                                             none
//                 a, transposed   [k,m]              m×k, m                                             transpose
//   C, D (n×m)    d               [m,n]              n×m, n
//
// The same bits in every run: of the ways to split k, only the one that adds fp32 partial results from the workspace in
// a second pass is allowed. The algorithm is asked for once a shape; a step then allocates and waits for nothing, and
// can be captured as a graph. The workspace is one: when the stream changes, the host waits for the device.
//
// Which algorithm: cuBLASLt's first proposal, or, with a file of algorithms, the fastest of the first few, which are timed at
// the shape's first use. A timing is never the same twice, so that what it chose is kept.
#include <cublasLt.h>
#include <unordered_map>

#include "device/device.h"
#include "device/matmul.h"
#include "device/matmul_algorithms.h"

static const size_t WORKSPACE_BYTES = 64 << 20;

struct Product {
    void *d;
    const floatX *a, *b;
    int m, n, k;
    bool transpose_a, transpose_b, fp32_out, accumulate;
};

struct Plan {
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, d; // in cuBLASLt's naming
    cublasLtMatmulAlgo_t algorithm;
    bool supported; // else matmul_plain takes its place
};

struct Shape {
    int m, n, k, flags;
    bool operator==(const Shape &o) const { return m == o.m && n == o.n && k == o.k && flags == o.flags; }
};

struct ShapeHash {
    size_t operator()(const Shape &s) const {
        size_t h = (size_t)s.m;
        for (int next : {s.n, s.k, s.flags}) h = h * 1000003 + (size_t)next;
        return h;
    }
};

// Algorithms that are timed, each so often; the first proposal stays where no other takes less than this share of its time.
enum { CANDIDATES = 8, TIMINGS = 5 };
static const float FASTER = 0.98f;
static_assert(sizeof(cublasLtMatmulAlgo_t) == ALGORITHM_BYTES, "what the file has of it");

static cublasLtHandle_t handle;
static void *workspace;
static std::unordered_map<Shape, Plan, ShapeHash> plans;

static void check(cublasStatus_t status, const Product &p, const char *what) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    fprintf(stderr, "llmc: matmul of m=%d n=%d k=%d%s%s: %s: %s\n", p.m, p.n, p.k, p.transpose_a ? " a^T" : "",
            p.transpose_b ? " b^T" : "", what, cublasLtGetStatusString(status));
    exit(1);
}

extern "C" size_t matmul_prepare(void) {
    if (handle) return WORKSPACE_BYTES;
    cublasStatus_t status = cublasLtCreate(&handle);
    if (status != CUBLAS_STATUS_SUCCESS) {
        fprintf(stderr, "llmc: cublasLtCreate: %s\n", cublasLtGetStatusString(status));
        exit(1);
    }
    cuda_check(cudaMalloc(&workspace, WORKSPACE_BYTES));
    return WORKSPACE_BYTES;
}

// Bytes to which the address is surely aligned, up to 256. Fast algorithms want 16.
static uint32_t alignment_of(const void *address) {
    uint32_t alignment = 256;
    while ((size_t)address % alignment) alignment /= 2;
    return alignment;
}

static cublasLtMatrixLayout_t make_layout(const Product &p, cudaDataType_t type, int rows, int columns) {
    cublasLtMatrixLayout_t layout;
    check(cublasLtMatrixLayoutCreate(&layout, type, (uint64_t)rows, (uint64_t)columns, rows), p, "layout");
    return layout;
}

static cublasLtMatmulDesc_t make_operation(const Product &p) {
    // CUBLAS_COMPUTE_32F multiplies bf16 on tensor cores, and fp32 in full fp32 (TF32 has a type of its own)
    cublasLtMatmulDesc_t operation;
    check(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), p, "operation");
    cublasOperation_t a = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N, b = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &a, sizeof(a)), p, "operation");
    check(cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSB, &b, sizeof(b)), p, "operation");
    return operation;
}

template <typename T>
static void prefer(const Product &p, cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t name,
                   T value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference, name, &value, sizeof(value)), p, "preference");
}

static void say_missing(const Product &p) {
    static bool said;
    if (!said)
        fprintf(stderr, "llmc: matmul of m=%d n=%d k=%d: not in the file of algorithms, cuBLASLt's first is used\n",
                p.m, p.n, p.k);
    said = true;
}

static void say_plain(const Product &p) {
    static bool said;
    if (!said)
        fprintf(stderr, "llmc: matmul of m=%d n=%d k=%d%s%s: cuBLASLt has no algorithm, a slow kernel is used\n", p.m,
                p.n, p.k, p.transpose_a ? " a^T" : "", p.transpose_b ? " b^T" : "");
    said = true;
}

static cublasStatus_t multiply(const Product &p, const Plan &plan, const cublasLtMatmulAlgo_t &algorithm,
                               cudaStream_t stream) {
    const float one = 1.0f, beta = p.accumulate ? 1.0f : 0.0f;
    return cublasLtMatmul(handle, plan.operation, &one, p.b, plan.a, p.a, plan.b, &beta, p.d, plan.d, p.d, plan.d,
                          &algorithm, workspace, WORKSPACE_BYTES, stream);
}

// ---- the choice of an algorithm

static bool is_usable(const cublasLtMatmulHeuristicResult_t &result) {
    return result.state == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= WORKSPACE_BYTES;
}

// The least milliseconds of a few calls; infinity: it does not run.
static float time_algorithm(const Product &p, const Plan &plan, const cublasLtMatmulAlgo_t &algorithm,
                            cudaStream_t stream, cudaEvent_t start, cudaEvent_t end) {
    float least = INFINITY;
    if (multiply(p, plan, algorithm, stream) != CUBLAS_STATUS_SUCCESS) return least; // the first call loads the kernel
    for (int i = 0; i < TIMINGS; i++) {
        float milliseconds;
        cuda_check(cudaEventRecord(start, stream));
        if (multiply(p, plan, algorithm, stream) != CUBLAS_STATUS_SUCCESS) return INFINITY;
        cuda_check(cudaEventRecord(end, stream));
        cuda_check(cudaEventSynchronize(end));
        cuda_check(cudaEventElapsedTime(&milliseconds, start, end));
        least = fminf(least, milliseconds);
    }
    return least;
}

// The place of the fastest of them. What a product adds to is put back from the host's memory, as the device may have no
// room for a second one.
static int fastest(const Product &p, const Plan &plan, const cublasLtMatmulHeuristicResult_t *results, int count,
                   cudaStream_t stream) {
    const size_t bytes = p.accumulate ? sizeof(float) * (size_t)p.m * (size_t)p.n : 0;
    void *before = malloc(bytes ? bytes : 1);
    if (!before) return 0;
    cudaEvent_t start, end;
    cuda_check(cudaEventCreate(&start));
    cuda_check(cudaEventCreate(&end));
    cuda_check(cudaStreamSynchronize(stream));
    if (bytes) cuda_check(cudaMemcpy(before, p.d, bytes, cudaMemcpyDeviceToHost));
    int best = 0;
    float least = INFINITY;
    for (int i = 0; i < count; i++) {
        if (!is_usable(results[i])) continue;
        const float milliseconds = time_algorithm(p, plan, results[i].algo, stream, start, end);
        if (milliseconds >= (i ? FASTER : 1.0f) * least) continue;
        best = i;
        least = milliseconds;
    }
    cuda_check(cudaStreamSynchronize(stream));
    if (bytes) cuda_check(cudaMemcpy(p.d, before, bytes, cudaMemcpyHostToDevice));
    cuda_check(cudaEventDestroy(start));
    cuda_check(cudaEventDestroy(end));
    free(before);
    return best;
}

static AlgorithmKey key_of(const Product &p, int flags) {
    AlgorithmKey key = {};
    int device;
    cudaDeviceProp properties;
    cuda_check(cudaGetDevice(&device));
    cuda_check(cudaGetDeviceProperties(&properties, device));
    snprintf(key.device, sizeof key.device, "%s", properties.name);
    key.version = cublasLtGetVersion();
    key.m = p.m, key.n = p.n, key.k = p.k, key.flags = flags << 1 | (sizeof(floatX) == 4);
    return key;
}

// The kept algorithm, if the library still takes it.
static bool take_kept(const AlgorithmKey &key, Plan &plan) {
    cublasLtMatmulHeuristicResult_t result;
    if (!algorithms_find(&key, &plan.algorithm)) return false;
    return cublasLtMatmulAlgoCheck(handle, plan.operation, plan.a, plan.b, plan.d, plan.d, &plan.algorithm, &result) ==
               CUBLAS_STATUS_SUCCESS &&
           is_usable(result);
}

// Sets the plan's algorithm and whether there is one.
static void choose_algorithm(const Product &p, int flags, Plan &plan, cudaStream_t stream) {
    const bool kept = algorithms_are_kept(), times = algorithms_can_be_added();
    const AlgorithmKey key = kept ? key_of(p, flags) : AlgorithmKey();
    plan.supported = kept && take_kept(key, plan);
    if (plan.supported) return;
    cublasLtMatmulPreference_t preference;
    check(cublasLtMatmulPreferenceCreate(&preference), p, "preference");
    prefer(p, preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)WORKSPACE_BYTES);
    prefer(p, preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
    prefer(p, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b));
    prefer(p, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a));
    prefer(p, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.d));
    prefer(p, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.d));
    cublasLtMatmulHeuristicResult_t results[CANDIDATES];
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, plan.operation, plan.a, plan.b, plan.d, plan.d,
                                                                 preference, times ? CANDIDATES : 1, results, &found);
    check(cublasLtMatmulPreferenceDestroy(preference), p, "preference");
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status, p, "choice of an algorithm");
    plan.supported = status == CUBLAS_STATUS_SUCCESS && found > 0 && results[0].state == CUBLAS_STATUS_SUCCESS;
    if (!plan.supported) return say_plain(p);
    plan.algorithm = results[times ? fastest(p, plan, results, found, stream) : 0].algo;
    if (times)
        algorithms_keep(&key, &plan.algorithm);
    else if (kept)
        say_missing(p);
}

static Plan make_plan(const Product &p, int flags, cudaStream_t stream) {
    cudaDataType_t in = sizeof(floatX) == 4 ? CUDA_R_32F : CUDA_R_16BF, out = p.fp32_out ? CUDA_R_32F : in;
    Plan plan;
    plan.operation = make_operation(p);
    plan.a = p.transpose_b ? make_layout(p, in, p.k, p.n) : make_layout(p, in, p.n, p.k);
    plan.b = p.transpose_a ? make_layout(p, in, p.m, p.k) : make_layout(p, in, p.k, p.m);
    plan.d = make_layout(p, out, p.n, p.m);
    choose_algorithm(p, flags, plan, stream);
    return plan;
}

extern "C" int matmul_use_algorithms(const char *path, bool times, Error *err) {
    const int code = algorithms_open(path, times, err);
    if (!code) plans.clear(); // those made so far may have other algorithms
    return code;
}

static int alignment_bits(const void *address) { return __builtin_ctz(alignment_of(address)); } // 0 to 8

// An algorithm chosen for aligned addresses must not meet others, so the alignment is part of the key.
static const Plan &plan_of(const Product &p, cudaStream_t stream) {
    int flags = p.transpose_a | p.transpose_b << 1 | p.fp32_out << 2 | p.accumulate << 3;
    int alignments = alignment_bits(p.a) | alignment_bits(p.b) << 4 | alignment_bits(p.d) << 8;
    Shape shape = {p.m, p.n, p.k, flags | alignments << 4};
    auto known = plans.find(shape);
    if (known == plans.end()) known = plans.emplace(shape, make_plan(p, shape.flags, stream)).first;
    return known->second;
}

// Streams change rarely: a process has more than one only if it has more than one model.
extern "C" void matmul_take_workspace(cudaStream_t stream) {
    static cudaStream_t user;
    if (stream == user) return;
    cuda_check(cudaDeviceSynchronize());
    user = stream;
}

extern "C" void matmul(void *d, MatmulOut out, const floatX *a, const floatX *b, int m, int n, int k, bool transpose_a,
                       bool transpose_b, bool accumulate, cudaStream_t stream) {
    Product p = {d, a, b, m, n, k, transpose_a, transpose_b, out == MATMUL_OUT_FP32, accumulate};
    if (accumulate && !p.fp32_out && sizeof(floatX) == 2)
        check(CUBLAS_STATUS_INVALID_VALUE, p, "accumulates only into fp32");
    matmul_prepare();
    matmul_take_workspace(stream);
    const Plan &plan = plan_of(p, stream);
    if (!plan.supported) return matmul_plain(d, out, a, b, m, n, k, transpose_a, transpose_b, accumulate, stream);
    check(multiply(p, plan, plan.algorithm, stream), p, "cublasLtMatmul");
}

extern "C" void matmul_same_rows(void *d, MatmulOut out, const floatX *a, const floatX *b, int m, int most, int n,
                                 int k, cudaStream_t stream) {
    (void)m; // an algorithm is chosen by shape, and treats all rows alike
    matmul(d, out, a, b, most, n, k, false, true, false, stream);
}
