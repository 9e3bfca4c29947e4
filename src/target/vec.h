// Loads and stores of several elements at once, 16 bytes an access, converted to and from float.
// Pointers are aligned to 16 bytes (or to the size of all N elements, where that is less).
#ifndef LLMC_TARGET_VEC_H
#define LLMC_TARGET_VEC_H

#include "target/types.h"
#include <cuda_runtime.h>

// Elements of floatX in one 16-byte access. Rows whose length is a multiple of VEC may be read with load_vec.
enum { VEC = 16 / sizeof(floatX) };

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void from_float(float &to, float x) { to = x; }
__device__ __forceinline__ void from_float(__nv_bfloat16 &to, float x) { to = __float2bfloat16(x); }

// N elements of type T in units of at most 16 bytes.
template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
    T v[N];
};

template <int N, typename T>
__device__ __forceinline__ void load_vec(float (&to)[N], const T *from) {
    Pack<T, N> pack = *(const Pack<T, N> *)from;
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = to_float(pack.v[i]);
}

template <int N, typename T>
__device__ __forceinline__ void store_vec(T *to, const float (&from)[N]) {
    Pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; i++) from_float(pack.v[i], from[i]);
    *(Pack<T, N> *)to = pack;
}

#endif
