#include "run/process.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"

static atomic_int stop_signal; // the first one; 0: none came

// The signals are blocked in every thread and taken here, not in a handler: one that runs on the stack of
// what it interrupts corrupts the heap when that is oneDNN 2.6's dnnl_sgemm, whose generated code keeps data
// where a handler's frame goes. (150 us between signals: every run died; with an alternate stack, none.)
static void *wait_for_signals(void *signals) {
    int number, demands = 0, none = 0;
    // SIGUSR1 is a batch system's warning: the SIGTERM that follows it is the first demand to end, not the
    // second
    while (sigwait(signals, &number) == 0) {
        atomic_compare_exchange_strong(&stop_signal, &none, number);
        none = 0;
        if (number != SIGUSR1 && ++demands == 2) break;
    }
    signal(number, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, signals, NULL);
    raise(number); // the second one: what it does by default, with the exit status that says so
    return NULL;
}

static void take_stop_signals(void) {
    static sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGUSR1);
    pthread_t thread;
    pthread_sigmask(SIG_BLOCK, &signals, NULL); // threads made from here on inherit it
    if (pthread_create(&thread, NULL, wait_for_signals, &signals) == 0)
        pthread_detach(thread);
    else
        pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
}

static void open_standard_streams(void) {
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) != -1 || errno != EBADF) continue;
        // the lowest free number is fd, as those below are open by now
        if (open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) != fd) exit(1);
    }
}

void process_prepare(const char *program) {
    error_set_program(program);
    open_standard_streams();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    take_stop_signals();
}

void process_silence(void) {
    const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (null < 0) return;
    dup2(null, 1);
    close(null);
}

int process_stop_signal(void) { return atomic_load(&stop_signal); }

bool process_stop_requested(void) { return process_stop_signal() != 0; }
