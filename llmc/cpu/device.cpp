// The device that the CPU target is, and errors.
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "parallel.h"
#include "runtime.h"

static thread_local cudaError_t last_error = cudaSuccess;

cudaError_t host_keep_error(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

static size_t physical_bytes(int name) { return (size_t)sysconf(name) * (size_t)sysconf(_SC_PAGESIZE); }

// What the kernel can give without swapping: free pages and those of the page cache.
static size_t available_bytes() {
    size_t kib = 0;
    char line[256];
    FILE *file = fopen("/proc/meminfo", "r");
    if (!file) return physical_bytes(_SC_AVPHYS_PAGES);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %zu kB", &kib) == 1) break;
    fclose(file);
    return kib ? kib * 1024 : physical_bytes(_SC_AVPHYS_PAGES);
}

// The value of the first line of /proc/cpuinfo with this key, or "".
static void read_cpuinfo(char *value, size_t capacity, const char *key) {
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");
    value[0] = '\0';
    while (file && fgets(line, sizeof line, file)) {
        const char *found = strstr(line, ": ");
        if (strncmp(line, key, strlen(key)) != 0 || !found) continue;
        snprintf(value, capacity, "%.*s", (int)strcspn(found + 2, "\n"), found + 2);
        break;
    }
    if (file) fclose(file);
}

// "CPU (MODEL, WHAT KERNELS ARE COMPILED FOR)": what results may depend on. ARM's processors have numbers for names.
static void name_processor(char *text, size_t capacity) {
    char model[100], part[20];
    read_cpuinfo(model, sizeof model, "model name");
    if (model[0]) {
        snprintf(text, capacity, "CPU (%s, " LLMC_MACHINE ")", model);
        return;
    }
    read_cpuinfo(model, sizeof model, "CPU implementer");
    read_cpuinfo(part, sizeof part, "CPU part");
    snprintf(text, capacity, "CPU (" LLMC_MACHINE " %s %s)", model, part);
}

extern "C" {

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    *free_bytes = available_bytes();
    *total_bytes = physical_bytes(_SC_PHYS_PAGES);
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : host_keep_error(cudaErrorInvalidValue); }
cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    if (device != 0) return host_keep_error(cudaErrorInvalidValue);
    *properties = {};
    name_processor(properties->name, sizeof properties->name);
    properties->totalGlobalMem = physical_bytes(_SC_PHYS_PAGES);
    properties->multiProcessorCount = host_threads();
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int length, int device) {
    if (device != 0) return host_keep_error(cudaErrorInvalidValue);
    snprintf(text, (size_t)length, "0000:00:00.0");
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInvalidResourceHandle:
        return "invalid resource handle";
    case cudaErrorNotReady:
        return "device not ready";
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
        return "operation failed due to a previous error during capture";
    default:
        return "invalid argument";
    }
}
}
