// What the program needs of the process around it: signals, and standard streams that can be relied on.
#ifndef LLMC_RUN_PROCESS_H
#define LLMC_RUN_PROCESS_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

// To be called first in main, with the program's name for error_print.
//  - A standard stream that came closed is opened on /dev/null, so that the next file that is opened does not take its
//    number and receive the messages.
//  - Writing to a closed pipe, or past the file size limit, becomes an error of the call and does not end the program.
//  - SIGINT, SIGTERM and SIGUSR1 are noted; the second one of SIGINT and SIGTERM ends the program at once.
void process_prepare(const char *program);

// Drops what is printed on stdout from here on: for ranks other than the first. Errors still reach stderr.
void process_silence(void);

// Whether one of these signals came, and the first that did (0: none).
bool process_stop_requested(void);
int process_stop_signal(void);

#ifdef __cplusplus
}
#endif
#endif
