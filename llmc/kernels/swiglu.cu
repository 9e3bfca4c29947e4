// SwiGLU: out = silu(gate) * up, silu(x) = x * s with s = sigmoid(x).
//   d up   = dout * silu(gate)
//   d gate = dout * up * s * (1 + gate * (1 - s))
#include "kernels/swiglu.h"

#include "device/math.h"
#include "kernels/rows.h"

__global__ void swiglu_forward_kernel(floatX *out, const floatX *gate_up, int N, int F) {
    int n = blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N) return;
    const floatX *row = gate_up + (size_t)n * 2 * F;
    for (int f = threadIdx.x * SPAN; f < F; f += blockDim.x * SPAN) {
        float gate[SPAN], up[SPAN], s[SPAN];
        load_vec(gate, row + f);
        load_vec(up, row + F + f);
        sigmoid(s, gate);
        EACH_ELEMENT
        for (int k = 0; k < SPAN; k++) up[k] *= gate[k] * s[k];
        store_vec(out + (size_t)n * F + f, up);
    }
}

// A thread writes exactly the elements of gate_up that it has read, so that dgate_up may be gate_up.
__global__ void swiglu_backward_kernel(floatX *dgate_up, const floatX *dout, const floatX *gate_up, int N, int F) {
    int n = blockIdx.x * blockDim.y + threadIdx.y;
    if (n >= N) return;
    const floatX *row = gate_up + (size_t)n * 2 * F;
    floatX *drow = dgate_up + (size_t)n * 2 * F;
    for (int f = threadIdx.x * SPAN; f < F; f += blockDim.x * SPAN) {
        float gate[SPAN], up[SPAN], d[SPAN], s[SPAN];
        load_vec(gate, row + f);
        load_vec(up, row + F + f);
        load_vec(d, dout + (size_t)n * F + f);
        sigmoid(s, gate);
        EACH_ELEMENT
        for (int k = 0; k < SPAN; k++) {
            float silu = gate[k] * s[k];
            gate[k] = d[k] * up[k] * (s[k] + silu * (1.0f - s[k]));
            up[k] = d[k] * silu;
        }
        store_vec(drow + f, gate);
        store_vec(drow + F + f, up);
    }
}

extern "C" void swiglu_forward(floatX *out, const floatX *gate_up, int N, int F, cudaStream_t stream) {
    assert(F % 16 == 0 && are_aligned(16, out, gate_up));
    dim3 block = rows_block(F / SPAN);
    launch_pointwise(swiglu_forward_kernel, rows_grid(N, block), block, stream, out, gate_up, N, F);
}

extern "C" void swiglu_backward(floatX *dgate_up, const floatX *dout, const floatX *gate_up, int N, int F,
                                cudaStream_t stream) {
    assert(F % 16 == 0 && are_aligned(16, dgate_up, dout, gate_up));
    dim3 block = rows_block(F / SPAN);
    launch_pointwise(swiglu_backward_kernel, rows_grid(N, block), block, stream, dgate_up, dout, gate_up, N, F);
}
