#include "train/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static volatile sig_atomic_t stop_requested;

static void note_stop(int signal_number) {
    if (stop_requested) { // the second one: by default it ends the program, as soon as this returns
        signal(signal_number, SIG_DFL);
        raise(signal_number);
    }
    stop_requested = 1;
}

static void open_standard_streams(void) {
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) != -1 || errno != EBADF) continue;
        // the lowest free number is fd, as those below are open by now
        if (open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) != fd) exit(1);
    }
}

void process_prepare(void) {
    open_standard_streams();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    struct sigaction action = {.sa_handler = note_stop, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool process_stop_requested(void) {
    return stop_requested;
}
