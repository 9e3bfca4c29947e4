// Stand-in for cuBLASLt, for TARGET=cuda-on-cpu: it reads what cublasLtMatmul() is given and computes that by the CPU
// target's product, on the stream. cublaslt_checks.cpp has what it refuses.
#include <memory>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "cpu/streams.h"
#include "cublaslt.h"
#include "device/matmul.h"
#include "standins.h"

extern "C" void host_matmul(void *d, MatmulOut out, const floatX *a, const floatX *b, int m, int n, int k,
                            bool transpose_a, bool transpose_b, bool accumulate, cudaStream_t stream);

// ---- the product

struct Product {
    Operation operation;
    Layout a, b, c, d;
    Addresses at;
    Scalars scalars;
    int k;
    uint64_t *workspace; // NULL: the algorithm takes none
    uint64_t serial;     // of the call, written there
};

static float element(const Layout &l, const void *matrix, uint64_t row, uint64_t column) {
    const uint64_t at = column * (uint64_t)l.ld + row;
    return l.type == CUDA_R_32F ? ((const float *)matrix)[at] : __bfloat162float(((const __nv_bfloat16 *)matrix)[at]);
}

static void pack(void *to, const Layout &l, const void *from) {
    const size_t bytes = element_bytes(l.type), column_bytes = bytes * l.rows;
    for (uint64_t column = 0; column < l.columns; column++)
        memcpy((char *)to + column * column_bytes, (const char *)from + column * (uint64_t)l.ld * bytes, column_bytes);
}

// D = alpha * sums + beta * C; C is not read where beta is 0.
static void scale_and_store(const Product &p, const float *sums) {
    for (uint64_t column = 0; column < p.d.columns; column++)
        for (uint64_t row = 0; row < p.d.rows; row++) {
            float value = p.scalars.alpha * sums[column * p.d.rows + row];
            if (p.scalars.beta != 0) value += p.scalars.beta * element(p.c, p.at.c, row, column);
            const uint64_t at = column * (uint64_t)p.d.ld + row;
            if (p.d.type == CUDA_R_32F)
                ((float *)p.at.d)[at] = value;
            else
                ((__nv_bfloat16 *)p.at.d)[at] = __float2bfloat16(value);
        }
}

// cuBLASLt's column-major matrix is the CPU product's row-major one, transposed: D^T = op(B)^T op(A)^T.
static void call_host(const Product &p, void *d, MatmulOut out, const void *a, const void *b, bool accumulate,
                      cudaStream_t stream) {
    host_matmul(d, out, (const floatX *)b, (const floatX *)a, (int)p.d.columns, (int)p.d.rows, p.k,
                p.operation.b == CUBLAS_OP_T, p.operation.a == CUBLAS_OP_T, accumulate, stream);
}

// Through contiguous copies, which are filled when the stream comes to it.
static void multiply_copies(const Product &p, cudaStream_t stream) {
    const auto a = std::make_shared<std::vector<char>>(element_bytes(p.a.type) * p.a.rows * p.a.columns);
    const auto b = std::make_shared<std::vector<char>>(element_bytes(p.b.type) * p.b.rows * p.b.columns);
    const auto sums = std::make_shared<std::vector<float>>(p.d.rows * p.d.columns);
    host_queue((HostStream *)stream, [=] {
        pack(a->data(), p.a, p.at.a);
        pack(b->data(), p.b, p.at.b);
    });
    call_host(p, sums->data(), MATMUL_OUT_FP32, a->data(), b->data(), false, stream);
    host_queue((HostStream *)stream, [=] { scale_and_store(p, sums->data()); });
}

static bool is_contiguous(const Layout &l) { return l.ld == (int64_t)l.rows; }

// Whether the CPU's product does it as it stands, to the CPU target's bits.
static bool is_plain(const Product &p) {
    const Scalars &s = p.scalars;
    const bool adds = s.beta == 1 && p.at.c == p.at.d && p.d.type == CUDA_R_32F;
    return is_contiguous(p.a) && is_contiguous(p.b) && is_contiguous(p.d) && s.alpha == 1 && (s.beta == 0 || adds);
}

// The workspace is this product's alone until it has ended: in between it holds the call's number.
static void claim_workspace(const Product &p) {
    if (p.workspace) *p.workspace = p.serial;
}

static void release_workspace(const Product &p) {
    if (!p.workspace || *p.workspace == p.serial) return;
    fprintf(stderr, "llmc: cuBLASLt: another stream has used the workspace of a product that was under way\n");
    for (uint64_t column = 0; column < p.d.columns; column++) {
        char *start = (char *)p.at.d + column * (uint64_t)p.d.ld * element_bytes(p.d.type);
        memset(start, 0xFF, p.d.rows * element_bytes(p.d.type)); // NaN
    }
}

static void multiply(const Product &p, cudaStream_t stream) {
    host_queue((HostStream *)stream, [=] { claim_workspace(p); });
    if (is_plain(p))
        call_host(p, p.at.d, p.d.type == CUDA_R_32F ? MATMUL_OUT_FP32 : MATMUL_OUT_FLOATX, p.at.a, p.at.b,
                  p.scalars.beta != 0, stream);
    else
        multiply_copies(p, stream);
    host_queue((HostStream *)stream, [=] { release_workspace(p); });
}

// ---- what cuBLASLt's callers see

// Two partial sums in fp32, where the workspace has room for them; else k is not split.
static uint64_t workspace_of(const Problem &p, const Preference &preference) {
    const uint64_t wanted = 2 * sizeof(float) * p.d->rows * p.d->columns;
    const bool splits = preference.reductions & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    return splits && wanted <= preference.workspace ? wanted : 0;
}

// Variants differ in nothing but the time that they seem to take, and that the last one does not split k.
static Algorithm choose(const Problem &p, const Preference &preference, int variant) {
    const uint64_t takes = variant == VARIANTS - 1 ? 0 : workspace_of(p, preference);
    Algorithm chosen = {ALGORITHM, hash_of(p), takes, {}, (uint32_t)variant};
    memcpy(chosen.alignment, preference.alignment, sizeof chosen.alignment);
    return chosen;
}

static void describe(cublasLtMatmulHeuristicResult_t &result, const Algorithm &algorithm) {
    result = {};
    memcpy(&result.algo, &algorithm, sizeof algorithm);
    result.workspaceSize = algorithm.workspace;
    result.state = CUBLAS_STATUS_SUCCESS;
    result.wavesCount = 1;
}

static uint64_t products[VARIANTS];

// LLMC_STANDIN_FASTEST=N: to events, all other variants seem to take an hour.
static void take_time(const Algorithm &algorithm, cudaStream_t stream) {
    const char *fastest = getenv("LLMC_STANDIN_FASTEST");
    if (fastest && atoi(fastest) != (int)algorithm.variant)
        host_queue((HostStream *)stream, [] { host_let_time_pass(3600); });
}

extern "C" {

const char *cublasLtGetStatusString(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "the operation completed successfully";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "the library was not initialized";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "the functionality requested is not supported";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "the GPU program failed to execute";
    default:
        return "unknown status";
    }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t *results, int *found) {
    const Preference *preferred = preference_of(preference);
    *found = 0;
    if (!is_handle(handle)) return refuse(CUBLAS_STATUS_NOT_INITIALIZED, "no handle");
    if (wanted <= 0 || !preferred)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "%d algorithms, or no preference", wanted);
    const Problem p = problem_of(operation, a, b, c, d);
    if (cublasStatus_t status = check_problem(p)) return status;
    for (; *found < wanted && *found < VARIANTS; ++*found) describe(results[*found], choose(p, *preferred, *found));
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                       cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algorithm,
                                       cublasLtMatmulHeuristicResult_t *result) {
    if (!is_handle(handle)) return refuse(CUBLAS_STATUS_NOT_INITIALIZED, "no handle");
    if (!algorithm || !result) return refuse(CUBLAS_STATUS_INVALID_VALUE, "the algorithm or its result is NULL");
    const Problem p = problem_of(operation, a, b, c, d);
    if (cublasStatus_t status = check_problem(p)) return status;
    Algorithm chosen;
    memcpy(&chosen, algorithm, sizeof chosen);
    if (cublasStatus_t status = check_choice(p, chosen)) return status;
    describe(*result, chosen);
    return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void) { return CUBLAS_VERSION; }

// For tests: how many products were asked for by that variant.
uint64_t standin_products(int variant) { return products[variant]; }

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
                              const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algorithm, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
    static uint64_t calls;
    if (!is_handle(handle)) return refuse(CUBLAS_STATUS_NOT_INITIALIZED, "no handle");
    if (!alpha || !beta) return refuse(CUBLAS_STATUS_INVALID_VALUE, "alpha or beta is NULL");
    const Problem p = problem_of(operation, a_layout, b_layout, c_layout, d_layout);
    if (cublasStatus_t status = check_problem(p)) return status;
    const Addresses at = {a, b, c, d};
    const Scalars scalars = {*(const float *)alpha, *(const float *)beta};
    if (cublasStatus_t status = check_addresses(p, at, scalars)) return status;
    Algorithm chosen = choose(p, Preference(), 0); // of the default preferences, where none is given
    if (algorithm) memcpy(&chosen, algorithm, sizeof chosen);
    if (cublasStatus_t status = check_algorithm(p, at, chosen)) return status;
    if (cublasStatus_t status = check_workspace(chosen, workspace, workspace_bytes)) return status;
    products[chosen.variant]++;
    take_time(chosen, stream);
    multiply({*p.operation, *p.a, *p.b, *p.c, *p.d, at, scalars, (int)inner_size(p),
              chosen.workspace ? (uint64_t *)workspace : nullptr, __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED)},
             stream);
    return CUBLAS_STATUS_SUCCESS;
}
}
