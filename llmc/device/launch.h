// The seam between the cuda and the cpu target as kernels see it: how a kernel is launched and declares shared memory.
//
//   launch(kernel, grid, block, shared_bytes, stream, args...)    threads may exchange data (barriers, shuffles, shared)
//   launch_pointwise(kernel, grid, block, stream, args...)        no thread needs another: on the CPU a plain loop
//   launch_alone(kernel, grid, stream, args...)                   blocks of one thread: on the CPU, while wide_warps() holds,
//                                                                 for a kernel whose groups may have any size. Else false
//   launch_block(kernel, threads, grid, stream, args...)          a template over the block's threads: alone, or so many
//   SHARED(type, name, count);                                    in a kernel: static shared array `name`
//   SHARED_DYNAMIC(type, name);                                   in a kernel: pointer `name` to the launch's shared_bytes
//
// A kernel with several template arguments is put in parentheses: launch((kernel<64, 4>), ...).
// Every thread of a block declares the same shared arrays in the same order.
#ifndef LLMC_DEVICE_LAUNCH_H
#define LLMC_DEVICE_LAUNCH_H

#include <cuda_runtime.h>

#include "device/device.h"
#include "device/wide_warps.h"

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
__host__ __device__ constexpr long ceil_div(long a, long b) { return (a + b - 1) / b; }

#ifdef LLMC_TARGET_CPU

// a lambda, as a pointer to a kernel would not let it be inlined
#define HOST_KERNEL(kernel)                                                                                            \
    [](const auto &...host_args) __attribute__((always_inline)) { kernel(host_args...); }
#define launch(kernel, grid, block, shared_bytes, stream, ...)                                                         \
    host_submit(host_kernel_name<kernel>(), grid, block, shared_bytes, stream, HOST_KERNEL(kernel), ##__VA_ARGS__)
#define launch_pointwise(kernel, grid, block, stream, ...)                                                             \
    host_submit_pointwise(host_kernel_name<kernel>(), grid, block, stream, HOST_KERNEL(kernel), ##__VA_ARGS__)
#define launch_alone(kernel, grid, stream, ...)                                                                        \
    (wide_warps() && (launch_pointwise(kernel, grid, dim3(1), stream, ##__VA_ARGS__), true))
#define SHARED(type, name, count) type *const name = (type *)host_shared(sizeof(type) * (count))
#define SHARED_DYNAMIC(type, name) type *const name = (type *)host_shared_dynamic()

#else

template <typename... Params, typename... Args>
inline void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                   Args... args) {
    // a block gets more than 48 KB of dynamic shared memory only on request
    if (shared_bytes > 48 * 1024)
        cuda_check(
            cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes));
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    cuda_check(cudaLaunchKernelEx(&config, kernel, (Params)args...));
}

template <typename... Params, typename... Args>
inline void launch_pointwise(void (*kernel)(Params...), dim3 grid, dim3 block, cudaStream_t stream, Args... args) {
    launch(kernel, grid, block, 0, stream, args...);
}

#define launch_alone(kernel, grid, stream, ...) false

#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define SHARED_DYNAMIC(type, name)                                                                                     \
    extern __shared__ __align__(128) unsigned char dynamic_shared_memory[];                                            \
    type *const name = (type *)dynamic_shared_memory

#endif

#define launch_block(kernel, threads, grid, stream, ...)                                                               \
    (launch_alone(kernel<1>, grid, stream, __VA_ARGS__)                                                                \
         ? (void)0                                                                                                     \
         : launch(kernel<threads>, grid, dim3(threads), 0, stream, __VA_ARGS__))

#endif
