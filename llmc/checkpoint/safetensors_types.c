// Types of elements, and sizes.
#include <assert.h>
#include <stdint.h>

#include "checkpoint/safetensors.h"

static const struct {
    const char *name;
    size_t size;
} types[SAFETENSORS_TYPES] = {
    [SAFETENSORS_F32] = {"F32", 4}, [SAFETENSORS_BF16] = {"BF16", 2}, [SAFETENSORS_F16] = {"F16", 2}};

const char *safetensors_type_name(SafetensorsType type) { return types[type].name; }
size_t safetensors_type_size(SafetensorsType type) { return types[type].size; }

bool safetensors_checked_bytes(const SafetensorsTensor *tensor, uint64_t *bytes) {
    if ((int)tensor->type < 0 || tensor->type >= SAFETENSORS_TYPES) return false;
    int64_t product = (int64_t)types[tensor->type].size;
    bool empty = false;
    for (int i = 0; i < tensor->dims; i++) {
        // a zero does not excuse the other dimensions: their product must fit too
        if (tensor->shape[i] == 0)
            empty = true;
        else if (__builtin_mul_overflow(product, tensor->shape[i], &product))
            return false;
    }
    *bytes = empty ? 0 : (uint64_t)product;
    return true;
}

uint64_t safetensors_tensor_bytes(const SafetensorsTensor *tensor) {
    uint64_t bytes = 0;
    bool fits = safetensors_checked_bytes(tensor, &bytes);
    assert(fits);
    (void)fits;
    return bytes;
}

uint64_t safetensors_elements(const SafetensorsTensor *tensor) {
    return safetensors_tensor_bytes(tensor) / safetensors_type_size(tensor->type);
}
