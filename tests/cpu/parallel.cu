// Loops over the threads of the CPU target: each piece is run once, by whichever thread, before the loop returns.
#include <atomic>
#include <cstdio>
#include <thread>
#include <vector>

#include "parallel.h"

// 0, or 1 if a loop of so many pieces did not run each once.
static int missed(long pieces) {
    std::vector<std::atomic<int>> runs((size_t)pieces);
    host_parallel(pieces, [&](long piece) { runs[(size_t)piece]++; });
    for (auto &count : runs)
        if (count != 1) return 1;
    return 0;
}

static int missed_in_runs(long count) {
    std::vector<std::atomic<int>> seen((size_t)count);
    host_parallel_runs(count, [&](long begin, long end) {
        for (long i = begin; i < end; i++) seen[(size_t)i]++;
    });
    for (auto &times : seen)
        if (times != 1) return 1;
    return 0;
}

static int loops() {
    int wrong = 0;
    for (int threads : {2, 5, 1, 3})
        for (long pieces : {0, 1, 2, 3, 7, 1000}) {
            host_set_threads(threads);
            for (int turn = 0; turn < 20; turn++) wrong += missed(pieces) + missed_in_runs(pieces);
        }
    return wrong + (host_threads() != 3);
}

static int within_pieces() {
    std::atomic<int> wrong{0};
    host_parallel(50, [&](long piece) { wrong += missed(piece); });
    return wrong;
}

static int from_several_threads() {
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; caller++)
        callers.emplace_back([&] {
            for (long pieces = 0; pieces < 200; pieces++) wrong += missed(pieces);
        });
    for (auto &caller : callers) caller.join();
    return wrong;
}

int main() {
    const int wrong[] = {loops(), within_pieces(), from_several_threads()};
    printf("%d %d %d\n", wrong[0], wrong[1], wrong[2]);
    return 0;
}
