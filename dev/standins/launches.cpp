// Launches of the CUDA runtime's stand-in: what a GPU of that kind would refuse is refused, and the rest goes to whom a test
// names. Nothing runs: with TARGET=cuda-on-cpu kernels are launched as on the cpu target (llmc/device/launch.h).
#include "launches.h"

#include <mutex>
#include <unordered_map>

#include "devices.h"

static std::mutex lock;
static std::unordered_map<const void *, size_t> shared_bytes_of; // what cudaFuncSetAttribute has allowed a kernel

void (*standin_on_launch)(const cudaLaunchConfig_t *config, const void *kernel, void **arguments);

static cudaDeviceProp device() {
    cudaDeviceProp properties;
    int number = 0;
    cudaGetDevice(&number);
    cudaGetDeviceProperties(&properties, number);
    return properties;
}

static size_t most_shared(const void *kernel, const cudaDeviceProp &device) {
    std::lock_guard<std::mutex> hold(lock);
    auto known = shared_bytes_of.find(kernel);
    return known == shared_bytes_of.end() ? device.sharedMemPerBlock : known->second;
}

extern "C" {

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value) {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
        (size_t)value > device().sharedMemPerBlockOptin)
        return standin_keep_error(cudaErrorInvalidValue);
    std::lock_guard<std::mutex> hold(lock);
    shared_bytes_of[kernel] = (size_t)value;
    return cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel, void **arguments) {
    const cudaDeviceProp gpu = device();
    const dim3 grid = config->gridDim, block = config->blockDim;
    const long threads = (long)block.x * block.y * block.z;
    // limits of the compute capabilities' table in NVIDIA's CUDA C++ Programming Guide
    if (threads < 1 || threads > gpu.maxThreadsPerBlock || block.z > 64 || grid.x < 1 || grid.x > 0x7fffffffu ||
        grid.y < 1 || grid.y > 65535 || grid.z < 1 || grid.z > 65535)
        return standin_keep_error(cudaErrorInvalidConfiguration);
    if (config->dynamicSmemBytes > most_shared(kernel, gpu)) return standin_keep_error(cudaErrorInvalidValue);
    if (standin_on_launch) standin_on_launch(config, kernel, arguments);
    return cudaSuccess;
}
}
