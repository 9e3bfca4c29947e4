// The threads of the CPU target, and loops over them. A loop's pieces are divided into one run a thread; who has finished
// its own takes pieces of others. A thread that is late (another process has its processor) is not waited for, unless it
// has begun a piece. Threads that wait look for work for some microseconds, then they sleep.
#ifndef LLMC_CPU_PARALLEL_H
#define LLMC_CPU_PARALLEL_H

#ifdef __cplusplus
extern "C" {
#endif

// At first OMP_NUM_THREADS, or one for each processor that this process may use.
int host_threads(void);
void host_set_threads(int count); // while no loop runs

#ifdef __cplusplus
}

// Runs run(work, piece) for each of the pieces; returns when all are done. Within a piece, and while another thread of the
// host runs a loop, the caller runs all pieces itself.
void host_run_pieces(long pieces, void (*run)(const void *work, long piece), const void *work);

// work(piece)
template <typename Work> inline void host_parallel(long pieces, const Work &work) {
    host_run_pieces(
        pieces, [](const void *self, long piece) { (*(const Work *)self)(piece); }, &work);
}

// work(begin, end) for runs of the numbers below `count`, long enough to be worth a call and many enough to be shared out.
template <typename Work> inline void host_parallel_runs(long count, const Work &work) {
    enum { RUNS = 8 }; // a thread
    const long most = (long)RUNS * host_threads(), runs = count < most ? count : most;
    host_parallel(runs, [&](long run) { work(count * run / runs, count * (run + 1) / runs); });
}
#endif
#endif
