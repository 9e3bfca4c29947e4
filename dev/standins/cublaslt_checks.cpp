// What the stand-in for cuBLASLt refuses: what the documentation of cublasLtMatmul() (NVIDIA's cuBLAS, chapter "Using the
// cuBLASLt API") and the comments in cublasLt.h rule out, and what the stand-in itself cannot do.
//
// The documentation does not say whether every leading dimension has an algorithm, nor k = 1. It asks for 16-byte
// multiples where FP8 is multiplied only, and calls them faster elsewhere. So they are accepted, and refused with
// LLMC_STANDIN_STRICT=1, that a fallback can be tested.
#include <stdint.h>

#include "cublaslt.h"
#include "device/types.h"
#include "standins.h"

static const uint32_t FLOATX = sizeof(floatX) == 4 ? CUDA_R_32F : CUDA_R_16BF;

size_t element_bytes(uint32_t type) { return type == CUDA_R_32F ? 4 : 2; }

size_t matrix_bytes(const Layout &l) {
    return ((size_t)(l.columns - 1) * (size_t)l.ld + l.rows) * element_bytes(l.type);
}

uint64_t inner_size(const Problem &p) { return p.operation->a == CUBLAS_OP_N ? p.a->columns : p.a->rows; }

static uint64_t mix(uint64_t hash, uint64_t value) { return (hash ^ value) * 0x100000001b3; } // FNV-1a, by words

static uint64_t mix(uint64_t hash, const Layout &l) {
    for (uint64_t value :
         {(uint64_t)l.type, (uint64_t)l.order, l.rows, l.columns, (uint64_t)l.ld, (uint64_t)l.batch_count})
        hash = mix(hash, value);
    return hash;
}

uint64_t hash_of(const Problem &p) {
    const Operation &o = *p.operation;
    uint64_t hash = 0xcbf29ce484222325;
    for (const Layout *layout : {p.a, p.b, p.c, p.d}) hash = mix(hash, *layout);
    for (int value : {o.compute, o.scale, o.pointer_mode, o.a, o.b, o.c, o.fill_mode, (int)o.epilogue})
        hash = mix(hash, (uint64_t)value);
    return hash;
}

static cublasStatus_t check_layout(const char *name, const Layout &l) {
    if (l.order != CUBLASLT_ORDER_COL || l.batch_count != 1)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "%s: the stand-in knows column-major matrices, one at a time", name);
    // "usually only values that can be expressed as int32_t are supported"
    if (l.rows < 1 || l.rows > INT32_MAX || l.columns < 1 || l.columns > INT32_MAX)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "%s: %zu x %zu", name, (size_t)l.rows, (size_t)l.columns);
    if (l.ld < (int64_t)l.rows) // its columns would overlap
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "%s: leading dimension %ld of %zu rows", name, (long)l.ld,
                      (size_t)l.rows);
    if (standin_strict() && (size_t)l.ld * element_bytes(l.type) % 16)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "%s: leading dimension %ld, not a multiple of 16 bytes", name,
                      (long)l.ld);
    return CUBLAS_STATUS_SUCCESS;
}

// The table of cublasLtMatmul(), its rows of fp32 sums.
static cublasStatus_t check_types(const Problem &p) {
    const Operation &o = *p.operation;
    const bool widens = p.a->type != CUDA_R_32F && p.d->type == CUDA_R_32F;
    if (p.a->type != p.b->type || p.c->type != p.d->type || (p.d->type != p.a->type && !widens))
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "types %u, %u into %u, %u", p.a->type, p.b->type, p.c->type,
                      p.d->type);
    if (p.a->type != FLOATX)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "type %u: the stand-in multiplies floatX (%u)", p.a->type, FLOATX);
    if (o.compute != CUBLAS_COMPUTE_32F || o.scale != CUDA_R_32F)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "compute type %d, scale type %d: the stand-in adds in fp32",
                      o.compute, o.scale);
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t check_operation(const Operation &o) {
    if ((o.a != CUBLAS_OP_N && o.a != CUBLAS_OP_T) || (o.b != CUBLAS_OP_N && o.b != CUBLAS_OP_T) ||
        o.c != CUBLAS_OP_N) // "currently only CUBLAS_OP_N is supported"
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "operations %d, %d, %d", o.a, o.b, o.c);
    if (o.fill_mode != CUBLAS_FILL_MODE_FULL || o.epilogue != CUBLASLT_EPILOGUE_DEFAULT ||
        o.pointer_mode != CUBLASLT_POINTER_MODE_HOST)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "fill mode %d, epilogue %u, pointer mode %d: not in the stand-in",
                      o.fill_mode, o.epilogue, o.pointer_mode);
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t check_sizes(const Problem &p) {
    const Operation &o = *p.operation;
    const uint64_t m = o.a == CUBLAS_OP_N ? p.a->rows : p.a->columns, k = inner_size(p);
    const uint64_t n = o.b == CUBLAS_OP_N ? p.b->columns : p.b->rows;
    const uint64_t inner_b = o.b == CUBLAS_OP_N ? p.b->rows : p.b->columns;
    const bool same = p.c->rows == p.d->rows && p.c->columns == p.d->columns;
    if (k != inner_b || m != p.d->rows || n != p.d->columns || !same)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "%zux%zu by %zux%zu into %zux%zu", (size_t)m, (size_t)k,
                      (size_t)inner_b, (size_t)n, (size_t)p.d->rows, (size_t)p.d->columns);
    if (standin_strict() && k == 1) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "k = 1");
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t check_problem(const Problem &p) {
    if (!p.operation || !p.a || !p.b || !p.c || !p.d)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "a descriptor that is none, or was destroyed");
    const struct {
        const char *name;
        const Layout &layout;
    } matrices[] = {{"A", *p.a}, {"B", *p.b}, {"C", *p.c}, {"D", *p.d}};
    for (const auto &matrix : matrices)
        if (cublasStatus_t status = check_layout(matrix.name, matrix.layout)) return status;
    if (cublasStatus_t status = check_types(p)) return status;
    if (cublasStatus_t status = check_operation(*p.operation)) return status;
    return check_sizes(p);
}

static bool overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes) {
    return (uintptr_t)a < (uintptr_t)b + b_bytes && (uintptr_t)b < (uintptr_t)a + a_bytes;
}

static cublasStatus_t check_address(const char *name, const void *address, const Layout &l) {
    const size_t bytes = matrix_bytes(l);
    if (!address) return refuse(CUBLAS_STATUS_INVALID_VALUE, "%s is NULL", name);
    if ((uintptr_t)address % element_bytes(l.type))
        return refuse(CUBLAS_STATUS_EXECUTION_FAILED, "%s: misaligned address %p", name, address);
    if (!standin_on_device(address, bytes))
        return refuse(CUBLAS_STATUS_EXECUTION_FAILED, "%s: %zu bytes at %p are not the device's", name, bytes, address);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t check_addresses(const Problem &p, const Addresses &at, const Scalars &scalars) {
    if (cublasStatus_t status = check_address("A", at.a, *p.a)) return status;
    if (cublasStatus_t status = check_address("B", at.b, *p.b)) return status;
    if (cublasStatus_t status = check_address("D", at.d, *p.d)) return status;
    if (at.c == at.d) {
        if (p.c->ld != p.d->ld) // in place: "C == D and Cdesc == Ddesc"
            return refuse(CUBLAS_STATUS_INVALID_VALUE, "in place with leading dimensions %ld, %ld", (long)p.c->ld,
                          (long)p.d->ld);
    } else if (scalars.beta != 0) {
        if (cublasStatus_t status = check_address("C", at.c, *p.c)) return status;
        if (overlap(at.c, matrix_bytes(*p.c), at.d, matrix_bytes(*p.d)))
            return refuse(CUBLAS_STATUS_INVALID_VALUE, "C and D overlap");
    }
    // No word of it in the documentation: on a GPU the result would depend on which block is first.
    if (overlap(at.a, matrix_bytes(*p.a), at.d, matrix_bytes(*p.d)) ||
        overlap(at.b, matrix_bytes(*p.b), at.d, matrix_bytes(*p.d)))
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "D overlaps what is multiplied");
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t check_choice(const Problem &p, const Algorithm &algorithm) {
    if (algorithm.kind != ALGORITHM || algorithm.variant >= VARIANTS)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "an algorithm that no heuristic gave");
    if (algorithm.problem != hash_of(p))
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "an algorithm that was chosen for another problem");
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t check_algorithm(const Problem &p, const Addresses &at, const Algorithm &algorithm) {
    if (cublasStatus_t status = check_choice(p, algorithm)) return status;
    const void *addresses[] = {at.a, at.b, at.c, at.d};
    for (int i = 0; i < 4; i++)
        if ((uintptr_t)addresses[i] % algorithm.alignment[i])
            return refuse(CUBLAS_STATUS_INVALID_VALUE, "%c: address %p, the algorithm was chosen for multiples of %u",
                          "ABCD"[i], addresses[i], algorithm.alignment[i]);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t check_workspace(const Algorithm &algorithm, const void *workspace, size_t bytes) {
    if (bytes < algorithm.workspace)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "workspace of %zu bytes, the algorithm takes %zu", bytes,
                      (size_t)algorithm.workspace);
    if ((uintptr_t)workspace % 256) // "must be aligned to at least a multiple of 256 bytes"
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "workspace at %p, not a multiple of 256", workspace);
    if (bytes && !standin_on_device(workspace, bytes))
        return refuse(CUBLAS_STATUS_EXECUTION_FAILED, "workspace: %zu bytes at %p are not the device's", bytes,
                      workspace);
    return CUBLAS_STATUS_SUCCESS;
}
