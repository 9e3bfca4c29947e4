// The stand-in for cuBLASLt: what is behind NVIDIA's opaque descriptors, and what is refused.
#ifndef LLMC_STANDINS_CUBLASLT_H
#define LLMC_STANDINS_CUBLASLT_H

#include <cublasLt.h>

// The first word of each descriptor: what it is, until it is destroyed.
enum Kind : uint64_t { HANDLE = 0x4c744861, LAYOUT, OPERATION, PREFERENCE, ALGORITHM };

struct Layout {
    Kind kind = LAYOUT;
    uint32_t type;
    int32_t order = CUBLASLT_ORDER_COL;
    uint64_t rows, columns;
    int64_t ld;
    int32_t batch_count = 1;
};

struct Operation {
    Kind kind = OPERATION;
    int32_t compute, scale;
    int32_t pointer_mode = CUBLASLT_POINTER_MODE_HOST;
    int32_t a = CUBLAS_OP_N, b = CUBLAS_OP_N, c = CUBLAS_OP_N;
    int32_t fill_mode = CUBLAS_FILL_MODE_FULL;
    uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
};

struct Preference {
    Kind kind = PREFERENCE;
    uint64_t workspace = 0;
    uint32_t search = CUBLASLT_SEARCH_BEST_FIT, reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
    uint32_t alignment[4] = {256, 256, 256, 256}; // of A, B, C, D in bytes
};

// What is kept in NVIDIA's cublasLtMatmulAlgo_t, which callers copy and hand back.
struct Algorithm {
    Kind kind;
    uint64_t problem; // hash of all that it was chosen for
    uint64_t workspace;
    uint32_t alignment[4];
    uint32_t variant; // its place among the heuristic's proposals
};
enum { VARIANTS = 4 };
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t), "has room in NVIDIA's");

// A product as the descriptors say it. NULL where something else than the descriptor of that kind was given.
struct Problem {
    const Operation *operation;
    const Layout *a, *b, *c, *d;
};

struct Scalars {
    float alpha, beta;
};

struct Addresses {
    const void *a, *b, *c;
    void *d;
};

Problem problem_of(cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                   cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d);
const Preference *preference_of(cublasLtMatmulPreference_t preference);
bool is_handle(cublasLtHandle_t handle);

size_t element_bytes(uint32_t type);
size_t matrix_bytes(const Layout &layout); // from its first to its last element
uint64_t inner_size(const Problem &p);     // k
uint64_t hash_of(const Problem &p);

// Why there is no algorithm for the problem; CUBLAS_STATUS_SUCCESS: there is one.
cublasStatus_t check_problem(const Problem &p);
cublasStatus_t check_addresses(const Problem &p, const Addresses &at, const Scalars &scalars);
cublasStatus_t check_choice(const Problem &p, const Algorithm &algorithm); // whether it was made for this problem
cublasStatus_t check_algorithm(const Problem &p, const Addresses &at, const Algorithm &algorithm);
cublasStatus_t check_workspace(const Algorithm &algorithm, const void *workspace, size_t bytes);

#define refuse(status, ...) (standin_tell("cuBLASLt", __VA_ARGS__), (status))

#endif
