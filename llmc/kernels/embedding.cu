// Token embedding: out[n] = weight[tokens[n]], and backward dweight[v] += sum of dout[n] over the n with
// tokens[n] = v.
//
// The backward pass sums without atomics: the positions come sorted by token, so those of one token are
// neighbours (a run); the threads at the first position of a run sum all of it, in order.
#include "kernels/embedding.h"

#include "kernels/rows.h"

__global__ void embedding_forward_kernel(floatX *out, const int *tokens, const floatX *weight, int N, int C) {
    int n = blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N) return;
    const floatX *from = weight + (size_t)tokens[n] * C;
    floatX *to = out + (size_t)n * C;
    for (int c = threadIdx.x * SPAN; c < C; c += blockDim.x * SPAN)
        access_as<Pack<floatX, SPAN>>(to + c) = access_as<Pack<floatX, SPAN>>(from + c);
}

// The end of the run that begins at `first`: binary search for the first later position with a larger token.
__device__ __forceinline__ int run_end(const int *tokens, const int *order, int first, int N) {
    int token = tokens[order[first]];
    int low = first, high = N; // order[low] is in the run, order[high] is not
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (tokens[order[middle]] == token)
            low = middle;
        else
            high = middle;
    }
    return high;
}

__global__ void embedding_backward_kernel(float *dweight, const floatX *dout, const int *tokens, const int *order,
                                          int N, int C) {
    int first = blockIdx.x * blockDim.y + threadIdx.y;
    if (first >= N) return;
    int token = tokens[order[first]];
    if (first > 0 && tokens[order[first - 1]] == token) return; // not the first of its run
    int end = run_end(tokens, order, first, N);
    for (int c = threadIdx.x * SPAN; c < C; c += blockDim.x * SPAN) {
        float sum[SPAN];
        load_vec(sum, dweight + (size_t)token * C + c);
#pragma unroll 4
        for (int i = first; i < end; i++) {
            float d[SPAN];
            load_vec(d, dout + (size_t)order[i] * C + c);
            EACH_ELEMENT
            for (int k = 0; k < SPAN; k++) sum[k] += d[k];
        }
        store_vec(dweight + (size_t)token * C + c, sum);
    }
}

extern "C" void embedding_forward(floatX *out, const int *tokens, const floatX *weight, int N, int C,
                                  cudaStream_t stream) {
    assert(C % 16 == 0 && are_aligned(16, out, weight));
    dim3 block = rows_block(C / SPAN);
    launch_pointwise(embedding_forward_kernel, rows_grid(N, block), block, stream, out, tokens, weight, N, C);
}

extern "C" void embedding_backward(float *dweight, const floatX *dout, const int *tokens, const int *order, int N,
                                   int C, cudaStream_t stream) {
    assert(C % 16 == 0 && are_aligned(16, dweight, dout));
    dim3 block = rows_block(C / SPAN);
    launch_pointwise(embedding_backward_kernel, rows_grid(N, block), block, stream, dweight, dout, tokens, order, N, C);
}
