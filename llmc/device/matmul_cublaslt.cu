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
#include <cublasLt.h>
#include <unordered_map>

#include "device/device.h"
#include "device/matmul.h"

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

static cublasLtHandle_t handle;
static void *workspace;

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

static void say_plain(const Product &p) {
    static bool said;
    if (!said)
        fprintf(stderr, "llmc: matmul of m=%d n=%d k=%d%s%s: cuBLASLt has no algorithm, a slow kernel is used\n", p.m,
                p.n, p.k, p.transpose_a ? " a^T" : "", p.transpose_b ? " b^T" : "");
    said = true;
}

// Sets the plan's algorithm and whether there is one.
static void choose_algorithm(const Product &p, Plan &plan) {
    cublasLtMatmulPreference_t preference;
    check(cublasLtMatmulPreferenceCreate(&preference), p, "preference");
    prefer(p, preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)WORKSPACE_BYTES);
    prefer(p, preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
    prefer(p, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b));
    prefer(p, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a));
    prefer(p, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.d));
    prefer(p, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.d));
    cublasLtMatmulHeuristicResult_t best;
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, plan.operation, plan.a, plan.b, plan.d, plan.d,
                                                                 preference, 1, &best, &found);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status, p, "choice of an algorithm");
    plan.supported = status == CUBLAS_STATUS_SUCCESS && found > 0 && best.state == CUBLAS_STATUS_SUCCESS;
    if (plan.supported)
        plan.algorithm = best.algo;
    else
        say_plain(p);
    check(cublasLtMatmulPreferenceDestroy(preference), p, "preference");
}

static Plan make_plan(const Product &p) {
    cudaDataType_t in = sizeof(floatX) == 4 ? CUDA_R_32F : CUDA_R_16BF, out = p.fp32_out ? CUDA_R_32F : in;
    Plan plan;
    plan.operation = make_operation(p);
    plan.a = p.transpose_b ? make_layout(p, in, p.k, p.n) : make_layout(p, in, p.n, p.k);
    plan.b = p.transpose_a ? make_layout(p, in, p.m, p.k) : make_layout(p, in, p.k, p.m);
    plan.d = make_layout(p, out, p.n, p.m);
    choose_algorithm(p, plan);
    return plan;
}

static int alignment_bits(const void *address) { return __builtin_ctz(alignment_of(address)); } // 0 to 8

// An algorithm chosen for aligned addresses must not meet others, so the alignment is part of the key.
static const Plan &plan_of(const Product &p) {
    static std::unordered_map<Shape, Plan, ShapeHash> cache;
    int flags = p.transpose_a | p.transpose_b << 1 | p.fp32_out << 2 | p.accumulate << 3;
    int alignments = alignment_bits(p.a) | alignment_bits(p.b) << 4 | alignment_bits(p.d) << 8;
    Shape shape = {p.m, p.n, p.k, flags | alignments << 4};
    auto known = cache.find(shape);
    if (known == cache.end()) known = cache.emplace(shape, make_plan(p)).first;
    return known->second;
}

// Streams change rarely: a process has more than one only if it has more than one model.
static void take_workspace(cudaStream_t stream) {
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
    take_workspace(stream);
    const Plan &plan = plan_of(p);
    if (!plan.supported) return matmul_plain(d, out, a, b, m, n, k, transpose_a, transpose_b, accumulate, stream);
    const float one = 1.0f, beta = accumulate ? 1.0f : 0.0f;
    check(cublasLtMatmul(handle, plan.operation, &one, b, plan.a, a, plan.b, &beta, d, plan.d, d, plan.d,
                         &plan.algorithm, workspace, WORKSPACE_BYTES, stream),
          p, "cublasLtMatmul");
}
