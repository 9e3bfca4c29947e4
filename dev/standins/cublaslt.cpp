// Stand-in for cuBLASLt, for TARGET=cuda-on-cpu: reads the real descriptors and multiplies by the CPU target's product.
#include <cublasLt.h>
#include <string.h>

#include "device/matmul.h"

extern "C" void host_matmul(void *d, MatmulOut out, const floatX *a, const floatX *b, int m, int n, int k,
                            bool transpose_a, bool transpose_b, bool accumulate, cudaStream_t stream);

struct Layout {
    cudaDataType type;
    uint64_t rows, columns;
    int64_t ld;
};

struct Operation {
    cublasOperation_t a = CUBLAS_OP_N, b = CUBLAS_OP_N;
};

static const Layout &layout_of(cublasLtMatrixLayout_t layout) { return *(const Layout *)layout; }
static const Operation &operation_of(cublasLtMatmulDesc_t operation) { return *(const Operation *)operation; }

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    *handle = (cublasLtHandle_t) new int;
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasLtGetStatusString(cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS ? "success" : "failure";
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
    *layout = (cublasLtMatrixLayout_t) new Layout{type, rows, columns, ld};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *operation, cublasComputeType_t, cudaDataType_t) {
    *operation = (cublasLtMatmulDesc_t) new Operation();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t name,
                                              const void *value, size_t bytes) {
    Operation *o = (Operation *)operation;
    if (bytes != sizeof(cublasOperation_t)) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(name == CUBLASLT_MATMUL_DESC_TRANSA ? &o->a : &o->b, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    *preference = (cublasLtMatmulPreference_t) new int;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t,
                                                    const void *, size_t) {
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete (int *)preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int, cublasLtMatmulHeuristicResult_t *results,
                                              int *found) {
    results[0] = {};
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void *, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t, const void *beta,
                              const void *, cublasLtMatrixLayout_t, void *d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *, void *, size_t, cudaStream_t stream) {
    const Operation &o = operation_of(operation);
    const Layout &la = layout_of(a_layout), &ld = layout_of(d_layout);
    const int k = (int)(o.a == CUBLAS_OP_N ? la.columns : la.rows);
    host_matmul(d, ld.type == CUDA_R_32F ? MATMUL_OUT_FP32 : MATMUL_OUT_FLOATX, (const floatX *)b, (const floatX *)a,
                (int)ld.columns, (int)ld.rows, k, o.b == CUBLAS_OP_T, o.a == CUBLAS_OP_T, *(const float *)beta != 0,
                stream);
    return CUBLAS_STATUS_SUCCESS;
}
}
