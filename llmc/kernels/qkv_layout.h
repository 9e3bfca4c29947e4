// Where heads and statistics stand in the arrays of attention, as indices of elements, for kernels.
#ifndef LLMC_KERNELS_QKV_LAYOUT_H
#define LLMC_KERNELS_QKV_LAYOUT_H

#include <cuda_runtime.h>

#include "device/math.h"
#include "kernels/attention_shape.h"

struct QkvLayout : AttentionShape {
    __host__ __device__ explicit QkvLayout(AttentionShape shape) : AttentionShape(shape) {}

    __host__ __device__ int qkv_stride() const { return (NH + 2 * NKV) * HD; } // elements from one token to the next
    __host__ __device__ int out_stride() const { return NH * HD; }
    // A score times this is the exponent of 2 in the softmax: log2(e) / sqrt(HD). For launchers.
    float log2_scale() const { return LOG2E / sqrtf((float)HD); }
    __device__ int kv_head(int head) const { return head / (NH / NKV); }
    __device__ size_t query(int b, int head, int t) const { return at(b, t, head); }
    __device__ size_t key(int b, int kv, int t) const { return at(b, t, NH + kv); }
    __device__ size_t value(int b, int kv, int t) const { return at(b, t, NH + NKV + kv); }
    __device__ size_t output(int b, int head, int t) const { return ((size_t)b * T + t) * out_stride() + head * HD; }
    __device__ size_t stat(int b, int head, int t) const { return ((size_t)b * NH + head) * T + t; } // of [B, NH, T]

  private:
    __device__ size_t at(int b, int t, int slot) const { return ((size_t)b * T + t) * qkv_stride() + slot * HD; }
};

// The query heads that share a key/value head, in one row of the batch: where they begin is worked out once. head: within the
// group.
struct QkvGroup {
    size_t first_query, first_output, first_stat;
    unsigned qkv_stride, out_stride, HD, T;

    __device__ QkvGroup(QkvLayout layout, int b, int kv)
        : first_query(layout.query(b, kv * (layout.NH / layout.NKV), 0)),
          first_output(layout.output(b, kv * (layout.NH / layout.NKV), 0)),
          first_stat(layout.stat(b, kv * (layout.NH / layout.NKV), 0)), qkv_stride((unsigned)layout.qkv_stride()),
          out_stride((unsigned)layout.out_stride()), HD((unsigned)layout.HD), T((unsigned)layout.T) {}
    __device__ size_t query(unsigned head, unsigned t) const {
        return first_query + (size_t)t * qkv_stride + head * HD;
    }
    __device__ size_t output(unsigned head, unsigned t) const {
        return first_output + (size_t)t * out_stride + head * HD;
    }
    __device__ size_t stat(unsigned head, unsigned t) const { return first_stat + (size_t)head * T + t; }
};

#endif
