#include "launch_record.h"

#include <string.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <string>

struct Largest {
    long threads;
    size_t dynamic_shared;
};

static bool recording;
static std::mutex access; // ranks of the tests launch from several threads
static std::map<std::string, Largest> record;

extern "C" void host_launches_begin(void) {
    record.clear();
    recording = true;
}

void host_record_launch(const char *name, long threads, size_t dynamic_shared) {
    if (!recording) return;
    const std::lock_guard<std::mutex> alone(access);
    Largest &largest = record[name];
    largest = {std::max(largest.threads, threads), std::max(largest.dynamic_shared, dynamic_shared)};
}

extern "C" const char *host_launches_end(void) {
    static std::string lines;
    recording = false;
    lines.clear();
    for (const auto &[name, largest] : record)
        lines += std::to_string(largest.threads) + '\t' + std::to_string(largest.dynamic_shared) + '\t' + name + '\n';
    return lines.c_str();
}

const char *host_kernel_in(const char *function) {
    const std::string scope = "{anonymous}::", before = "Kernel = ";
    std::string name = function;
    name = name.substr(name.find(before) + before.size());
    name.pop_back(); // ]
    for (size_t at; (at = name.find(scope)) != std::string::npos;) name.erase(at, scope.size());
    return strdup(name.c_str());
}
