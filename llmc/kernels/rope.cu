// RoPE: the pair (a, b) = (x[i], x[i + HD/2]) of each query and key head becomes (a cos - b sin, b cos + a
// sin), with the angle of the token's position within its document. Backward is the rotation by the negative
// angle.
#include "kernels/rope.h"
#include "kernels/rows.h"

// direction: 1 or -1. heads: how many to rotate of the `stride` elements of a row.
__global__ void rope_kernel(floatX *qkv, const float *table, const int *doc_start, const int *hidden, float direction,
                            int N, int T, int heads, int HD, int stride) {
    int n = blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N) return;
    const int half = HD / 2, chunks = half / CHUNK; // of a head
    const int left_out = hidden ? hidden[2 * n + 1] - hidden[2 * n] : 0;
    const float *rotations = table + (size_t)(n % T - doc_start[n] - left_out) * HD;
    for (int i = threadIdx.x; i < heads * chunks; i += blockDim.x) {
        int head = i / chunks, at = i % chunks * CHUNK;
        floatX *first = qkv + (size_t)n * stride + head * HD + at;
        float a[CHUNK], b[CHUNK], rotation[2 * CHUNK];
        load_vec(a, first);
        load_vec(b, first + half);
        load_vec(rotation, rotations + 2 * at);
        EACH_ELEMENT
        for (int k = 0; k < CHUNK; k++) {
            float cosine = rotation[2 * k], sine = direction * rotation[2 * k + 1];
            float a_new = a[k] * cosine - b[k] * sine;
            b[k] = b[k] * cosine + a[k] * sine;
            a[k] = a_new;
        }
        store_vec(first, a);
        store_vec(first + half, b);
    }
}

static void rotate(floatX *qkv, const float *table, const int *doc_start, const int *hidden, float direction, int B,
                   int T, int NH, int NKV, int HD, cudaStream_t stream) {
    int heads = NH + NKV, stride = (NH + 2 * NKV) * HD;
    dim3 block = rows_block(heads * (HD / 2 / CHUNK));
    launch_pointwise(rope_kernel, rows_grid(B * T, block), block, stream, qkv, table, doc_start, hidden, direction,
                     B * T, T, heads, HD, stride);
}

extern "C" void rope_forward(floatX *qkv, const float *table, const int *doc_start, const int *hidden, int B, int T,
                             int NH, int NKV, int HD, cudaStream_t stream) {
    rotate(qkv, table, doc_start, hidden, 1.0f, B, T, NH, NKV, HD, stream);
}

extern "C" void rope_backward(floatX *dqkv, const float *table, const int *doc_start, const int *hidden, int B, int T,
                              int NH, int NKV, int HD, cudaStream_t stream) {
    rotate(dqkv, table, doc_start, hidden, -1.0f, B, T, NH, NKV, HD, stream);
}
