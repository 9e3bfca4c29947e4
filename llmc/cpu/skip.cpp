// Calls of synchronising functions that do nothing, so that a test can tell whether anything notices.
#include <dlfcn.h>
#include <execinfo.h>
#include <mutex>
#include <stdio.h>
#include <stdlib.h>
#include <vector>

#include "runtime.h"

namespace {
struct SkippedCall {
    const void *after;
    bool told;
};
} // namespace

static std::vector<SkippedCall> read_calls() {
    std::vector<SkippedCall> calls;
    const char *text = getenv("LLMC_HOST_SKIP");
    Dl_info here;
    if (!text || !dladdr((void *)read_calls, &here)) return calls;
    for (char *end; *text; text = *end ? end + 1 : end) {
        const size_t offset = strtoull(text, &end, 0);
        if (end == text || (*end && *end != ',')) {
            fprintf(stderr, "llmc: LLMC_HOST_SKIP is '%s', expected offsets separated by commas\n", text);
            _Exit(2);
        }
        calls.push_back({(const char *)here.dli_fbase + offset, false});
    }
    return calls;
}

bool host_skips(const char *name) {
    enum { DEEPEST = 12 };
    static std::vector<SkippedCall> calls = read_calls();
    static std::mutex mutex;
    void *frames[DEEPEST];
    if (calls.empty()) return false;
    const int count = backtrace(frames, DEEPEST);
    std::lock_guard<std::mutex> lock(mutex);
    for (SkippedCall &call : calls)
        for (int i = 0; i < count; i++) {
            if (frames[i] != call.after) continue;
            if (!call.told) fprintf(stderr, "llmc: a call of %s is skipped\n", name);
            call.told = true;
            return true;
        }
    return false;
}
