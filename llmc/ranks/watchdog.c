#include "ranks/watchdog.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "ranks/rank_watch.h"
#include "run/process.h"

enum { MAX_LINE = 2048 };                     // less than a pipe takes in one piece
static const double TICK = 0.05;              // seconds between looks at signals
static const double LONGEST_PERIOD = 1;       // between writes, and looks at the others
static const double MOMENT_AFTER_ERROR = 1.5; // in which who has died shows; at most a quarter of the timeout
static const double PERIODS_A_TIMEOUT = 20;   // at least

static struct {
    RankWatch watch; // the thread's, once it runs
    WatchdogSpec spec;
    double period;
    pthread_t thread;
    int wake; // eventfd: the thread is to end
} watchdog;
static pthread_mutex_t self_lock = PTHREAD_MUTEX_INITIALIZER;
static RankStatus self; // under self_lock
static atomic_bool running;
static _Atomic(const char *) current_phase = "starting";
static _Atomic int64_t current_step;

void watchdog_phase(const char *phase) { atomic_store(&current_phase, phase); }
void watchdog_step(int64_t step) { atomic_store(&current_step, step); }

// ---- this rank's own status

static void status_of_world(void *world, CommStatus *status) { world_status(world, status); }
static int check_of_world(void *world, Error *err) { return world_check(world, err); }

// Writes what this rank does now. The state never goes back to RANK_RUNS. At the end the world is asked no more, as the
// thread that brought the end may hold its lock.
static int write_self(RankState state, Error *err) {
    CommStatus comm = {0};
    const bool ask = state == RANK_RUNS && watchdog.spec.status;
    if (ask) watchdog.spec.status(watchdog.spec.context, &comm);
    pthread_mutex_lock(&self_lock);
    if (state != RANK_RUNS) self.state = state;
    self.count++;
    self.step = atomic_load(&current_step);
    if (ask) {
        self.begun = comm.begun;
        self.ended = comm.ended;
        snprintf(self.label, sizeof self.label, "%s", comm.label);
    }
    snprintf(self.phase, sizeof self.phase, "%s", atomic_load(&current_phase));
    int code = rank_status_write(&self, watchdog.watch.folder, err);
    pthread_mutex_unlock(&self_lock);
    return code;
}

// ---- the end

// True on the one rank that makes the file: it alone prints. A folder that takes no file must not silence all.
static bool take_verdict(const char *line) {
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/verdict_%016llx", watchdog.watch.folder, (unsigned long long)watchdog.watch.run) >=
        PATH_MAX)
        return true;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return errno != EEXIST;
    if (write(fd, line, strlen(line)) < 0) errno = 0; // for people; what counts is that the file is there
    close(fd);
    return true;
}

static void print(const char *line) {
    struct pollfd stream = {.fd = 2, .events = POLLOUT};
    if (poll(&stream, 1, 1000) != 1) return; // a reader that does not read must not keep the run alive
    if (write(2, line, strlen(line)) < 0) return;
}

// line NULL: another rank has printed the reason
static _Noreturn void end(const char *line) {
    char text[MAX_LINE + 32];
    snprintf(text, sizeof text, "%s: %s\n", error_program(), line ? line : "");
    if (line && take_verdict(text)) {
        print(text);
        write_self(RANK_DOOMED, NULL);
    } else {
        write_self(RANK_DOOMED, NULL);
        // mpirun ends all as soon as one has ended: the one that prints needs a moment
        poll(NULL, 0, 300);
    }
    _exit(1);
}

// The program ends by exit() or quick_exit() after an error that it has printed.
static void end_of_program(void) {
    if (!atomic_load(&running)) return;
    take_verdict("an error of its own\n");
    write_self(RANK_FAILED, NULL);
}

// ---- the thread

static void look(double seconds) {
    RankWatch *w = &watchdog.watch;
    const bool wrote = write_self(RANK_RUNS, NULL) == 0;
    // a rank that cannot write its status cannot tell whether others can
    const double counted = wrote ? fmin(seconds, 2 * watchdog.period) : 0;
    pthread_mutex_lock(&self_lock);
    rank_watch_note(&w->peers[w->rank], &self, counted);
    pthread_mutex_unlock(&self_lock);
    for (int r = 0; r < w->size; r++)
        if (r != w->rank && w->peers[r].watched) rank_watch_look(w, r, counted);
}

// A signal came: perhaps mpirun's, which ends all ranks a second after one has died.
static void look_for_dead(void) {
    RankWatch *w = &watchdog.watch;
    const RankStatus *here = &w->peers[w->rank].last;
    for (int r = 0; r < w->size; r++) {
        const Peer *peer = &w->peers[r];
        if (r != w->rank && peer->known && rank_process(&peer->last, here) == PROCESS_GONE) {
            w->peers[r].watched = true;
            rank_watch_look(w, r, 0);
        }
    }
}

// Looks again after a moment, so that the line tells what is true now and not a second ago, and names the rank that died
// rather than the error that its death caused in the transport.
static RankVerdict judge_again(double moment, char *line, size_t size) {
    look(0);
    poll(NULL, 0, (int)(1000 * moment));
    look(0);
    return rank_watch_judge(&watchdog.watch, line, size);
}

static void judge(void) {
    char line[MAX_LINE], message[MAX_LINE / 2];
    Error err = {0};
    RankVerdict verdict = rank_watch_judge(&watchdog.watch, line, sizeof line);
    const bool failed = watchdog.spec.check && watchdog.spec.check(watchdog.spec.context, &err);
    if (verdict != RANKS_END && (verdict == RANKS_FAULT || failed))
        verdict = judge_again(verdict == RANKS_FAULT ? 2 * TICK : fmin(MOMENT_AFTER_ERROR, watchdog.watch.timeout / 4), line,
                              sizeof line);
    if (verdict == RANKS_WELL && failed) {
        snprintf(message, sizeof message, "rank %d: %.900s; last step %lld", watchdog.watch.rank, err.message,
                 (long long)atomic_load(&current_step));
        rank_watch_describe(&watchdog.watch, -1, message, line, sizeof line);
        verdict = RANKS_FAULT;
    }
    if (verdict != RANKS_WELL) end(verdict == RANKS_FAULT ? line : NULL);
}

static void *watch_ranks(void *unused) {
    (void)unused;
    double last = clock_seconds();
    struct pollfd wake = {.fd = watchdog.wake, .events = POLLIN};
    while (poll(&wake, 1, (int)(1000 * TICK)) != 1) {
        const double time = clock_seconds();
        if (time - last >= watchdog.period) {
            look(time - last);
            last = time;
        } else if (process_stop_requested()) {
            look_for_dead();
        } else {
            continue;
        }
        judge();
    }
    return NULL;
}

// ---- start

static bool is_of_this_run(const char *name, int size, uint64_t run) {
    char verdict[64];
    int rank, length = 0;
    snprintf(verdict, sizeof verdict, "verdict_%016llx", (unsigned long long)run);
    // NOLINTNEXTLINE(cert-err34-c): five digits
    if (sscanf(name, "rank_%5d%n", &rank, &length) == 1 && !name[length]) return rank < size;
    return name[0] == '.' || strcmp(name, verdict) == 0;
}

// Files of ranks are written over; the rest of an earlier run goes.
static void clean(const char *folder, int size, uint64_t run) {
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (!is_of_this_run(entry->d_name, size, run)) unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir) closedir(dir);
}

static int make_folder(Error *err) {
    RankWatch *w = &watchdog.watch;
    if (snprintf(w->folder, sizeof w->folder, "%s/.ranks", watchdog.spec.folder) >= PATH_MAX - 32)
        return fail_input(err, "%.200s...: expected a path of at most %d bytes", watchdog.spec.folder, PATH_MAX - 33);
    if (mkdir(w->folder, 0777) == 0 || errno == EEXIST) return 0;
    return file_fail_open(err, w->folder, errno);
}

// Folder, number of the run, and this rank's file. Collective, whatever fails.
static int prepare(Error *err) {
    RankWatch *w = &watchdog.watch;
    int code = make_folder(err);
    w->run = watchdog.spec.run;
    if (watchdog.spec.world && w->rank == 0 && getrandom(&w->run, sizeof w->run, 0) != (ssize_t)sizeof w->run)
        w->run = (uint64_t)getpid() ^ (uint64_t)time(NULL) << 32;
    if (!code && w->rank == 0) clean(w->folder, w->size, w->run);
    if (watchdog.spec.world) comm_host_broadcast(world_comm(watchdog.spec.world), &w->run, sizeof w->run, 0);
    rank_status_self(&self);
    self.run = w->run;
    self.rank = w->rank;
    return code ? code : write_self(RANK_RUNS, err);
}

// Exchanges the first status of all ranks; false: one of them has none.
static bool meet(int code) {
    RankWatch *w = &watchdog.watch;
    bool complete = true;
    RankStatus *all = calloc((size_t)w->size, sizeof *all);
    if (code) self.state = RANK_FAILED;
    // the others wait in the collective below
    if (!all) abort();
    comm_host_gather(world_comm(watchdog.spec.world), all, &self, sizeof self);
    for (int r = 0; r < w->size; r++) {
        complete = complete && all[r].state == RANK_RUNS;
        rank_watch_note(&w->peers[r], &all[r], 0);
    }
    free(all);
    return complete;
}

static void forget(void) {
    free(watchdog.watch.peers);
    if (watchdog.wake >= 0) close(watchdog.wake);
    watchdog.watch.peers = NULL;
}

int watchdog_start(const WatchdogSpec *spec, Error *err) {
    static bool at_exit;
    if (spec->size < 2 || spec->timeout <= 0) return 0;
    watchdog.spec = *spec;
    if (spec->world) {
        watchdog.spec.status = status_of_world;
        watchdog.spec.check = check_of_world;
        watchdog.spec.context = spec->world;
    }
    watchdog.watch = (RankWatch){.rank = spec->rank, .size = spec->size, .timeout = spec->timeout};
    watchdog.watch.peers = calloc((size_t)spec->size, sizeof *watchdog.watch.peers);
    if (!watchdog.watch.peers) abort(); // the others would wait in the collectives below
    watchdog.period = fmax(TICK, fmin(LONGEST_PERIOD, spec->timeout / PERIODS_A_TIMEOUT));
    watchdog.wake = eventfd(0, EFD_CLOEXEC);
    int code = watchdog.wake < 0 ? fail_fault(err, "eventfd: %s", strerror(errno)) : 0;
    int prepared = prepare(code ? NULL : err);
    code = code ? code : prepared;
    bool complete = spec->world ? meet(code) : !code;
    rank_watch_choose(&watchdog.watch);
    rank_watch_note(&watchdog.watch.peers[spec->rank], &self, 0);
    if (!complete) {
        forget();
        return code;
    }
    // quick_exit: a transport's error, after which nothing may wait for other ranks
    if (!at_exit) at_exit = atexit(end_of_program) == 0 && at_quick_exit(end_of_program) == 0;
    if (pthread_create(&watchdog.thread, NULL, watch_ranks, NULL) != 0) {
        forget();
        return fail_fault(err, "no thread for the watchdog");
    }
    atomic_store(&running, true);
    return 0;
}

// ---- orderly end

static bool all_are_done(void) {
    RankWatch *w = &watchdog.watch;
    RankStatus status;
    for (int r = 0; r < w->size; r++)
        if (r != w->rank && rank_status_read(&status, w->folder, w->run, r) && status.state == RANK_RUNS) return false;
    return true;
}

void watchdog_stop(void) {
    if (!atomic_exchange(&running, false)) return;
    uint64_t one = 1;
    if (write(watchdog.wake, &one, sizeof one) == (ssize_t)sizeof one) pthread_join(watchdog.thread, NULL);
    write_self(RANK_DONE, NULL);
    if (all_are_done()) folder_remove(watchdog.watch.folder);
    forget();
}
