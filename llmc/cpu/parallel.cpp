#include "parallel.h"

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <omp.h>
#include <thread>

#ifdef LLMC_HOST_RACES // what orders threads, for ThreadSanitizer
#include <sanitizer/tsan_interface.h>
#else
#define __tsan_release(address)
#define __tsan_acquire(address)
#endif

namespace {

enum { LOOKS = 2000 }; // for work before a thread sleeps: 20 to 70 microseconds

struct alignas(64) Share { // pieces of one thread
    std::atomic<long> next{0};
    long end = 0;
};

// What threads wait for.
class Signal {
    std::atomic<int> sleeping{0};
    std::mutex mutex;
    std::condition_variable changed;

  public:
    // After what is waited for has become true.
    void wake() {
        if (sleeping == 0) return;
        std::lock_guard<std::mutex> lock(mutex);
        changed.notify_all();
    }
    template <typename Condition> void wait(Condition is_true) {
        for (int look = 0; look < LOOKS; look++) {
            if (is_true()) return;
#ifdef __x86_64__
            __builtin_ia32_pause();
#endif
        }
        std::unique_lock<std::mutex> lock(mutex);
        sleeping++;
        changed.wait(lock, is_true);
        sleeping--;
    }
};

struct Pool {
    std::mutex in_use; // by the one thread whose loop runs
    int threads = omp_get_max_threads(), helpers = 0;
    std::unique_ptr<Share[]> shares;

    // the loop: written while it is closed and nobody is inside
    int divided = 0; // its shares
    void (*run)(const void *work, long piece);
    const void *work;

    std::atomic<unsigned> turn{0}; // odd: a loop is open
    std::atomic<int> inside{0};    // helpers that may be at work on it
    Signal opened, left;
};

} // namespace

static Pool &pool() {
    static Pool *const one = new Pool; // never destroyed: its threads end with the process
    return *one;
}

static thread_local bool in_piece;

// Begins with this thread's own share.
static void work_on(Pool &p, int self) {
    in_piece = true;
    for (int i = 0; i < p.divided; i++) {
        Share &share = p.shares[(self + i) % p.divided];
        for (long piece; (piece = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;)
            p.run(p.work, piece);
    }
    in_piece = false;
}

[[noreturn]] static void help(Pool &p, int self) {
    for (unsigned seen = 0;;) {
        unsigned turn;
        p.opened.wait([&] { return (turn = p.turn) % 2 && turn != seen; });
        p.inside++;
        seen = p.turn; // that of the loop which cannot close before this thread has left, or an even one
        __tsan_acquire(&p.turn);
        if (seen % 2 && self < p.divided) work_on(p, self);
        __tsan_release(&p.inside);
        if (--p.inside == 0) p.left.wake();
    }
}

static void open(Pool &p, long pieces, void (*run)(const void *, long), const void *work) {
    const int wanted = pieces < p.threads ? (int)pieces : p.threads;
    for (; p.helpers < wanted - 1; p.helpers++) std::thread(help, std::ref(p), p.helpers + 1).detach();
    p.divided = wanted;
    p.run = run;
    p.work = work;
    for (int i = 0; i < wanted; i++) {
        p.shares[i].next.store(pieces * i / wanted, std::memory_order_relaxed);
        p.shares[i].end = pieces * (i + 1) / wanted;
    }
    __tsan_release(&p.turn);
    p.turn++;
    p.opened.wake();
}

static void close(Pool &p) {
    p.turn++;
    p.left.wait([&] { return p.inside == 0; });
    __tsan_acquire(&p.inside);
}

void host_run_pieces(long pieces, void (*run)(const void *work, long piece), const void *work) {
    Pool &p = pool();
    if (in_piece || pieces < 2 || p.threads == 1 || !p.in_use.try_lock()) {
        for (long piece = 0; piece < pieces; piece++) run(work, piece);
        return;
    }
    if (!p.shares) p.shares.reset(new Share[p.threads]);
    open(p, pieces, run, work);
    work_on(p, 0);
    close(p);
    p.in_use.unlock();
}

extern "C" int host_threads(void) { return pool().threads; }

extern "C" void host_set_threads(int count) {
    Pool &p = pool();
    std::lock_guard<std::mutex> lock(p.in_use);
    p.threads = count;
    p.shares.reset();
}
