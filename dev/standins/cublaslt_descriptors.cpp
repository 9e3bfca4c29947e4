// Descriptors of the stand-in for cuBLASLt: made, set, destroyed.
#include <stddef.h>
#include <string.h>

#include "cublaslt.h"
#include "standins.h"

template <typename T> static const T *known(const void *descriptor, Kind kind) {
    const T *known = (const T *)descriptor;
    return known && known->kind == kind ? known : nullptr;
}

static const Layout *layout_of(cublasLtMatrixLayout_t layout) { return known<Layout>(layout, LAYOUT); }

Problem problem_of(cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                   cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d) {
    return {known<Operation>(operation, OPERATION), layout_of(a), layout_of(b), layout_of(c), layout_of(d)};
}

const Preference *preference_of(cublasLtMatmulPreference_t preference) {
    return known<Preference>(preference, PREFERENCE);
}

struct Handle {
    Kind kind = HANDLE;
};

bool is_handle(cublasLtHandle_t handle) { return known<Handle>(handle, HANDLE) != nullptr; }

template <typename T> static cublasStatus_t destroy(void *descriptor, Kind kind) {
    if (!known<T>(descriptor, kind)) return refuse(CUBLAS_STATUS_INVALID_VALUE, "destroyed twice, or never made");
    ((T *)descriptor)->kind = (Kind)0;
    delete (T *)descriptor;
    return CUBLAS_STATUS_SUCCESS;
}

// ---- attributes

struct Attribute {
    int name;
    size_t offset, bytes;
};

#define ATTRIBUTE(name, type, field)                                                                                   \
    { name, offsetof(type, field), sizeof(((type *)nullptr)->field) }

static const Attribute LAYOUT_ATTRIBUTES[] = {
    ATTRIBUTE(CUBLASLT_MATRIX_LAYOUT_TYPE, Layout, type),
    ATTRIBUTE(CUBLASLT_MATRIX_LAYOUT_ORDER, Layout, order),
    ATTRIBUTE(CUBLASLT_MATRIX_LAYOUT_ROWS, Layout, rows),
    ATTRIBUTE(CUBLASLT_MATRIX_LAYOUT_COLS, Layout, columns),
    ATTRIBUTE(CUBLASLT_MATRIX_LAYOUT_LD, Layout, ld),
    ATTRIBUTE(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, Layout, batch_count),
};

static const Attribute OPERATION_ATTRIBUTES[] = {
    ATTRIBUTE(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, Operation, compute),
    ATTRIBUTE(CUBLASLT_MATMUL_DESC_SCALE_TYPE, Operation, scale),
    ATTRIBUTE(CUBLASLT_MATMUL_DESC_POINTER_MODE, Operation, pointer_mode),
    ATTRIBUTE(CUBLASLT_MATMUL_DESC_TRANSA, Operation, a),
    ATTRIBUTE(CUBLASLT_MATMUL_DESC_TRANSB, Operation, b),
    ATTRIBUTE(CUBLASLT_MATMUL_DESC_TRANSC, Operation, c),
    ATTRIBUTE(CUBLASLT_MATMUL_DESC_FILL_MODE, Operation, fill_mode),
    ATTRIBUTE(CUBLASLT_MATMUL_DESC_EPILOGUE, Operation, epilogue),
};

static const Attribute PREFERENCE_ATTRIBUTES[] = {
    ATTRIBUTE(CUBLASLT_MATMUL_PREF_SEARCH_MODE, Preference, search),
    ATTRIBUTE(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, Preference, workspace),
    ATTRIBUTE(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, Preference, reductions),
    ATTRIBUTE(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, Preference, alignment[0]),
    ATTRIBUTE(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, Preference, alignment[1]),
    ATTRIBUTE(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, Preference, alignment[2]),
    ATTRIBUTE(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, Preference, alignment[3]),
};

template <size_t N>
static cublasStatus_t set(void *descriptor, const Attribute (&attributes)[N], int name, const void *value,
                          size_t bytes) {
    if (!descriptor || !value) return refuse(CUBLAS_STATUS_INVALID_VALUE, "attribute %d of NULL", name);
    for (const Attribute &attribute : attributes) {
        if (attribute.name != name) continue;
        if (attribute.bytes != bytes)
            return refuse(CUBLAS_STATUS_INVALID_VALUE, "attribute %d in %zu bytes, expected %zu", name, bytes,
                          attribute.bytes);
        memcpy((char *)descriptor + attribute.offset, value, bytes);
        return CUBLAS_STATUS_SUCCESS;
    }
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "attribute %d is not in the stand-in", name);
}

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess) return refuse(CUBLAS_STATUS_NOT_INITIALIZED, "there is no device");
    *handle = (cublasLtHandle_t) new Handle();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return destroy<Handle>(handle, HANDLE); }

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
    Layout *made = new Layout();
    made->type = type;
    made->rows = rows;
    made->columns = columns;
    made->ld = ld;
    *layout = (cublasLtMatrixLayout_t)made;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t name,
                                                const void *value, size_t bytes) {
    return set((void *)layout_of(layout), LAYOUT_ATTRIBUTES, name, value, bytes);
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { return destroy<Layout>(layout, LAYOUT); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *operation, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    Operation *made = new Operation();
    made->compute = compute;
    made->scale = scale;
    *operation = (cublasLtMatmulDesc_t)made;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t name,
                                              const void *value, size_t bytes) {
    return set((void *)known<Operation>(operation, OPERATION), OPERATION_ATTRIBUTES, name, value, bytes);
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
    return destroy<Operation>(operation, OPERATION);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    *preference = (cublasLtMatmulPreference_t) new Preference();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t name, const void *value,
                                                    size_t bytes) {
    return set((void *)preference_of(preference), PREFERENCE_ATTRIBUTES, name, value, bytes);
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    return destroy<Preference>(preference, PREFERENCE);
}
}
