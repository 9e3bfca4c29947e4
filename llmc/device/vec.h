// Loads and stores of several elements at once, 16 bytes an access, converted to and from float.
// Pointers are aligned to 16 bytes (or to the size of all N elements, where that is less).
#ifndef LLMC_DEVICE_VEC_H
#define LLMC_DEVICE_VEC_H

#include <assert.h>
#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>

#include "device/types.h"

// Stands before a loop over the elements that one thread holds, no iteration of which needs another's result:
// unrolled on a GPU, SIMD instructions on the CPU.
#ifdef LLMC_TARGET_CPU
#define EACH_ELEMENT _Pragma("omp simd")
#else
#define EACH_ELEMENT _Pragma("unroll")
#endif

// Elements of floatX in one 16-byte access. Rows whose length is a multiple of VEC may be read with load_vec.
enum { VEC = 16 / sizeof(floatX) };

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void from_float(float &to, float x) { to = x; }
__device__ __forceinline__ void from_float(__nv_bfloat16 &to, float x) { to = __float2bfloat16(x); }

// N elements of type T in units of at most 16 bytes.
template <typename T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack { T v[N]; };

template <int N, typename T> __device__ __forceinline__ void unpack(float (&to)[N], const Pack<T, N> &from) {
    EACH_ELEMENT
    for (int i = 0; i < N; i++) to[i] = to_float(from.v[i]);
}
template <int N, typename T> __device__ __forceinline__ void pack(Pack<T, N> &to, const float (&from)[N]) {
    EACH_ELEMENT
    for (int i = 0; i < N; i++) from_float(to.v[i], from[i]);
}

// Whether all pointers (NULL is) are multiples of so many bytes: for the asserts of launchers.
template <typename... Pointers> inline bool are_aligned(size_t bytes, Pointers... pointers) {
    return ((uintptr_t)0 | ... | (uintptr_t)pointers) % bytes == 0;
}

// What stands at p, read or written as one T: the only way to access several elements at once. In the CPU target's builds
// with sanitizers an address that is not aligned for T ends the program, as it does on a GPU.
template <typename T> __device__ __forceinline__ T &access_as(void *p) {
#ifdef LLMC_TARGET_CPU
    host_check_access(p, alignof(T));
#endif
    return *(T *)p;
}

#ifdef LLMC_TARGET_CPU
template <typename T> __forceinline__ const T &access_as(const void *p) { return access_as<T>((void *)p); }
template <int N> __forceinline__ void unpack(float (&to)[N], const Pack<__nv_bfloat16, N> &from) {
    host_bf16_to_float<N>(to, from.v);
}
template <int N> __forceinline__ void pack(Pack<__nv_bfloat16, N> &to, const float (&from)[N]) {
    host_float_to_bf16<N>(to.v, from);
}
#else
// A copy, which is one access: what stands behind a reference nvcc reads element by element.
template <typename T> __device__ __forceinline__ T access_as(const void *p) { return *(const T *)p; }
// One instruction an element: a bf16 is the upper half of a float, and two of them share a register.
template <int N> __device__ __forceinline__ void unpack(float (&to)[N], const Pack<__nv_bfloat16, N> &from) {
    uint32_t pairs[N / 2];
    memcpy(pairs, &from, sizeof pairs);
    EACH_ELEMENT
    for (int i = 0; i < N / 2; i++) {
        to[2 * i] = __uint_as_float(pairs[i] << 16);
        to[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
    }
}
#endif

template <int N, typename T> __device__ __forceinline__ void load_vec(float (&to)[N], const T *from) {
    unpack(to, access_as<Pack<T, N>>(from));
}

template <int N, typename T> __device__ __forceinline__ void store_vec(T *to, const float (&from)[N]) {
    Pack<T, N> packed;
    pack(packed, from);
    access_as<Pack<T, N>>(to) = packed;
}

// On the CPU: asks for what will be read soon, in an order that the processor does not foresee.
template <typename T> inline void prefetch(const T *from, size_t count) {
    for (const char *at = (const char *)from; at < (const char *)(from + count); at += 64) __builtin_prefetch(at);
}

// The largest of a power of two of elements.
template <int N> __device__ __forceinline__ float max_vec(const float (&x)[N]) {
    float half[N / 2];
    EACH_ELEMENT
    for (int i = 0; i < N / 2; i++) half[i] = max(x[i], x[i + N / 2]);
    if constexpr (N == 2)
        return half[0];
    else
        return max_vec(half);
}

// The sum of a power of two of elements, halves added to each other.
template <int N> __device__ __forceinline__ float sum_vec(const float (&x)[N]) {
    if constexpr (N == 1) {
        return x[0];
    } else {
        float half[N / 2];
        EACH_ELEMENT
        for (int i = 0; i < N / 2; i++) half[i] = x[i] + x[i + N / 2];
        return sum_vec(half);
    }
}

#endif
