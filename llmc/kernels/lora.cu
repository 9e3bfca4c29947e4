// A low-rank adapter (Hu et al. 2021, "LoRA") of a projection that is some columns of a product y = x W^T:
//   forward   y[:, slice] += s (x A^T) B^T
//   backward  g = s dy[:, slice];  dB += g^T (x A^T);  dA += (g B)^T x;  dx += (g B) A
// The products are device/matmul.h's; these kernels read and write the slice.
#include "kernels/lora.h"

#include "kernels/rows.h"

static __global__ void lora_add_kernel(floatX *y, const floatX *x, float scale, int N, int width, int first, int cols) {
    const int n = blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N) return;
    floatX *row = y + (size_t)n * width + first;
    for (int c = threadIdx.x * SPAN; c < cols; c += blockDim.x * SPAN) {
        float sum[SPAN], more[SPAN];
        load_vec(sum, row + c);
        load_vec(more, x + (size_t)n * cols + c);
        EACH_ELEMENT
        for (int k = 0; k < SPAN; k++) sum[k] += scale * more[k];
        store_vec(row + c, sum);
    }
}

static __global__ void lora_take_kernel(floatX *x, const floatX *y, float scale, int N, int width, int first,
                                        int cols) {
    const int n = blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N) return;
    const floatX *row = y + (size_t)n * width + first;
    for (int c = threadIdx.x * SPAN; c < cols; c += blockDim.x * SPAN) {
        float value[SPAN];
        load_vec(value, row + c);
        EACH_ELEMENT
        for (int k = 0; k < SPAN; k++) value[k] *= scale;
        store_vec(x + (size_t)n * cols + c, value);
    }
}

extern "C" void lora_add(floatX *y, const floatX *x, float scale, int N, int width, int first, int cols,
                         cudaStream_t stream) {
    assert(width % 16 == 0 && first % 16 == 0 && cols % 16 == 0 && are_aligned(16, x, y));
    const dim3 block = rows_block(cols / SPAN);
    launch_pointwise(lora_add_kernel, rows_grid(N, block), block, stream, y, x, scale, N, width, first, cols);
}

extern "C" void lora_take(floatX *x, const floatX *y, float scale, int N, int width, int first, int cols,
                          cudaStream_t stream) {
    assert(width % 16 == 0 && first % 16 == 0 && cols % 16 == 0 && are_aligned(16, x, y));
    const dim3 block = rows_block(cols / SPAN);
    launch_pointwise(lora_take_kernel, rows_grid(N, block), block, stream, x, y, scale, N, width, first, cols);
}
