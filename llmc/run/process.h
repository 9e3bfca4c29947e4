// What the program needs of the process around it: signals, and standard streams that can be relied on.
#ifndef LLMC_RUN_PROCESS_H
#define LLMC_RUN_PROCESS_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

// To be called first in main, with the program's name for error_print.
//  - A standard stream that came closed is opened on /dev/null, lest the next file that is opened takes its
//  number and
//    receives the messages.
//  - Writing to a closed pipe, or past the file size limit, becomes an error of the call and not the
//  program's end.
//  - SIGINT, SIGTERM and SIGUSR1 are noted; the second one of SIGINT and SIGTERM ends the program at once.
void process_prepare(const char *program);

// What is printed from here on goes nowhere: for a rank that does not speak. Errors still have stderr.
void process_silence(void);

// Whether one of these signals came, and the first that did (0: none).
bool process_stop_requested(void);
int process_stop_signal(void);

#ifdef __cplusplus
}
#endif
#endif
