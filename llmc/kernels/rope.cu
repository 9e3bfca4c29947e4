// RoPE: each query and key head is rotated by the angles of the token's position within its document; the gradient is
// rotated by the negative angles.
#include "kernels/rope.h"

#include "kernels/qkv_layout.h"
#include "kernels/rope_rotate.h"
#include "kernels/rows.h"

// direction: 1 or -1.
__global__ void rope_kernel(floatX *qkv, const float *table, AttentionMask mask, float direction, QkvLayout layout) {
    int n = blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= layout.B * layout.T) return;
    const int HD = layout.HD, half = HD / 2, chunks = half / CHUNK; // of a head
    const int left_out = mask.excluded ? mask.excluded[2 * n + 1] - mask.excluded[2 * n] : 0;
    const float *rotations = table + (size_t)(n % layout.T - mask.doc_start[n] - left_out) * HD;
    for (int i = threadIdx.x; i < (layout.NH + layout.NKV) * chunks; i += blockDim.x) {
        int head = i / chunks, at = i % chunks * CHUNK;
        floatX *first = qkv + layout.query(0, head, n) + at; // keys follow the queries
        float a[CHUNK], b[CHUNK];
        load_vec(a, first);
        load_vec(b, first + half);
        rotate_chunk(a, b, rotations + 2 * at, direction);
        store_vec(first, a);
        store_vec(first + half, b);
    }
}

static void rotate(floatX *qkv, const float *table, AttentionMask mask, float direction, AttentionShape shape,
                   cudaStream_t stream) {
    assert(shape.HD % 16 == 0 && are_aligned(16, qkv, table));
    dim3 block = rows_block((shape.NH + shape.NKV) * (shape.HD / 2 / CHUNK));
    launch_pointwise(rope_kernel, rows_grid(shape.B * shape.T, block), block, stream, qkv, table, mask, direction,
                     QkvLayout(shape));
}

extern "C" void rope_forward(floatX *qkv, const float *table, AttentionMask mask, AttentionShape shape,
                             cudaStream_t stream) {
    rotate(qkv, table, mask, 1.0f, shape, stream);
}

extern "C" void rope_backward(floatX *dqkv, const float *table, AttentionMask mask, AttentionShape shape,
                              cudaStream_t stream) {
    rotate(dqkv, table, mask, -1.0f, shape, stream);
}
