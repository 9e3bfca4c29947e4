// Device memory, pinned memory and copies: all of it is the host's. Pinned memory is read and written when a copy runs, all
// other host memory at the call.
#include <list>
#include <map>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "parallel.h"
#include "runtime.h"

enum { DEVICE_ALIGN = 256, UNIT = 4096, PARALLEL = 8 << 20, POISON = 0xFF };

namespace {

enum Place { PAGEABLE, PINNED, MAPPED, ON_DEVICE }; // MAPPED: pinned, and kernels read and write it too

struct Block {
    size_t bytes;
    Place place;
};

struct Copy {
    char *to;
    const char *from;
    size_t bytes;
};

} // namespace

static std::mutex mutex; // guards what follows
static std::map<const char *, Block> blocks;
static std::list<Copy> pending; // copies that are queued

// work(offset, length) for all of `bytes`. Much is shared among the threads, one long piece each: one thread alone does not
// fill the memory bus, and in long pieces memcpy and memset write past the caches.
template <typename Work> static void share_out(size_t bytes, Work work) {
    const size_t threads = bytes < PARALLEL ? 1 : (size_t)host_threads(), piece = bytes / threads / UNIT * UNIT;
    host_parallel((long)threads, [=](size_t i) { work(i * piece, i + 1 == threads ? bytes - i * piece : piece); });
}

static void copy(char *to, const char *from, size_t bytes) {
    share_out(bytes, [=](size_t at, size_t length) { memmove(to + at, from + at, length); });
}

static void fill(char *to, int value, size_t bytes) {
    share_out(bytes, [=](size_t at, size_t length) { memset(to + at, value, length); });
}

static bool overlap(const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
    return a < b + b_bytes && b < a + a_bytes;
}

// Whether a copy that has not run yet reads or writes the memory.
static bool is_in_use(const char *pointer, size_t bytes) {
    for (const Copy &c : pending)
        if (overlap(c.to, c.bytes, pointer, bytes) || overlap(c.from, c.bytes, pointer, bytes)) return true;
    return false;
}

static Place place_of(const void *pointer) {
    std::lock_guard<std::mutex> lock(mutex);
    auto above = blocks.upper_bound((const char *)pointer);
    if (above == blocks.begin()) return PAGEABLE;
    const auto &[start, block] = *--above;
    return (const char *)pointer < start + block.bytes ? block.place : PAGEABLE;
}

// ---- memory

static size_t physical_bytes() { return (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE); }

static cudaError_t allocate(void **pointer, size_t bytes, Place place) {
    if (cudaError_t refused = host_refuse_in_capture()) return refused;
    if (bytes > physical_bytes()) return host_keep_error(cudaErrorMemoryAllocation);
    if (posix_memalign(pointer, DEVICE_ALIGN, bytes ? bytes : 1) != 0)
        return host_keep_error(cudaErrorMemoryAllocation);
    fill((char *)*pointer, POISON, bytes);
    std::lock_guard<std::mutex> lock(mutex);
    blocks[(const char *)*pointer] = {bytes, place};
    return cudaSuccess;
}

static cudaError_t release(void *pointer, bool on_device) {
    if (!pointer) return cudaSuccess;
    std::lock_guard<std::mutex> lock(mutex);
    auto found = blocks.find((const char *)pointer);
    if (found == blocks.end() || (found->second.place == ON_DEVICE) != on_device)
        return host_keep_error(cudaErrorInvalidValue);
    if (is_in_use(found->first, found->second.bytes)) {
        fprintf(stderr, "llmc: pinned memory is freed while a copy that is queued needs it\n");
        _Exit(1);
    }
    blocks.erase(found);
    free(pointer);
    return cudaSuccess;
}

// ---- copies

// Runs when its stream comes to it.
static void copy_later(cudaStream_t stream, void *to, const void *from, size_t bytes) {
    if (host_eager) return copy((char *)to, (const char *)from, bytes);
    mutex.lock();
    const auto place = pending.insert(pending.end(), {(char *)to, (const char *)from, bytes});
    mutex.unlock();
    host_queue(stream, [=] {
        copy(place->to, place->from, place->bytes);
        std::lock_guard<std::mutex> lock(mutex);
        pending.erase(place);
    });
}

static void copy_staged(cudaStream_t stream, void *to, const void *from, size_t bytes) {
    if (host_eager) return copy((char *)to, (const char *)from, bytes);
    char *staged = (char *)malloc(bytes ? bytes : 1);
    if (!staged) {
        fprintf(stderr, "llmc: no memory to stage a copy of %zu bytes\n", bytes);
        _Exit(1);
    }
    memcpy(staged, from, bytes);
    host_queue(stream, [=] {
        memcpy(to, staged, bytes);
        free(staged);
    });
}

// Until the copy has run nobody may read its target: not the host, and of mapped memory kernels that were queued before may.
static void poison(void *to, size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!is_in_use((const char *)to, bytes)) memset(to, POISON, bytes);
}

// What the kind says must be where it says.
static bool is_kind(cudaMemcpyKind kind, bool to_device, bool from_device) {
    return kind == cudaMemcpyDefault || (kind == cudaMemcpyHostToDevice && to_device && !from_device) ||
           (kind == cudaMemcpyDeviceToHost && !to_device && from_device) ||
           (kind == cudaMemcpyDeviceToDevice && to_device && from_device) ||
           (kind == cudaMemcpyHostToHost && !to_device && !from_device);
}

extern "C" {

cudaError_t cudaMalloc(void **pointer, size_t bytes) { return allocate(pointer, bytes, ON_DEVICE); }
cudaError_t cudaMallocHost(void **pointer, size_t bytes) { return allocate(pointer, bytes, PINNED); }
cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned flags) {
    if (flags != cudaHostAllocMapped) return host_keep_error(cudaErrorInvalidValue);
    return allocate(pointer, bytes, MAPPED);
}

cudaError_t cudaFree(void *pointer) {
    if (cudaError_t refused = host_refuse_in_capture()) return refused;
    host_wait_all();
    return release(pointer, true);
}
cudaError_t cudaFreeHost(void *pointer) {
    if (cudaError_t refused = host_refuse_in_capture()) return refused;
    return release(pointer, false);
}

// The host waits for what reads or writes host memory, though a copy from pageable memory has only left that when it
// returns. Between two places of the device it waits for nothing.
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    if (cudaError_t refused = host_refuse_in_capture()) return refused;
    const Place target = place_of(to), source = place_of(from);
    if (!is_kind(kind, target == ON_DEVICE, source == ON_DEVICE)) return host_keep_error(cudaErrorInvalidValue);
    const bool skipped = host_skips(__func__);
    if (target == ON_DEVICE && source == ON_DEVICE && !skipped) {
        copy_later(nullptr, to, from, bytes);
        return cudaSuccess;
    }
    if (!skipped) host_wait_default_stream();
    if (skipped || target != ON_DEVICE || source != PAGEABLE)
        copy((char *)to, (const char *)from, bytes);
    else
        copy_staged(nullptr, to, from, bytes);
    return cudaSuccess;
}

// Pageable memory has been read, or written, when the call returns, as drivers do it; with a seed it is drawn, since CUDA's
// documentation only says that the call might be synchronous.
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    const Place target = place_of(to), source = place_of(from);
    if (!is_kind(kind, target == ON_DEVICE, source == ON_DEVICE)) return host_keep_error(cudaErrorInvalidValue);
    const bool pageable = target == PAGEABLE || source == PAGEABLE,
               on_device = target == ON_DEVICE || source == ON_DEVICE;
    if (host_is_captured(stream)) {
        if (pageable) return host_refuse_in_capture();
        host_queue(stream, [=] { copy((char *)to, (const char *)from, bytes); });
        return cudaSuccess;
    }
    if (!pageable || (on_device && host_draws_late())) {
        if (!host_eager && (target == PINNED || target == PAGEABLE)) poison(to, bytes);
        copy_later(stream, to, from, bytes);
    } else if (target == ON_DEVICE) {
        copy_staged(stream, to, from, bytes);
    } else {
        host_wait_stream(stream);
        copy((char *)to, (const char *)from, bytes);
    }
    return cudaSuccess;
}

cudaError_t cudaMemset(void *pointer, int value, size_t bytes) {
    return cudaMemsetAsync(pointer, value, bytes, nullptr);
}
cudaError_t cudaMemsetAsync(void *pointer, int value, size_t bytes, cudaStream_t stream) {
    host_queue(stream, [=] { fill((char *)pointer, value, bytes); });
    return cudaSuccess;
}
}
