// Errors at the boundary: what a user's file or option did wrong, or what the machine did wrong, as one line.
#ifndef LLMC_BASE_ERROR_H
#define LLMC_BASE_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

enum { ERROR_FAULT = 1, ERROR_INPUT = 2 }; // these are the programs' exit codes

typedef struct {
    int code; // 0: no error
    char message[1024];
} Error;

// Set *err to ERROR_INPUT (bad usage or bad input) or ERROR_FAULT (anything else) with a message, and return that code,
// so that a function can end with `return fail_input(err, "...")`. err may be NULL.
int fail_input(Error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
int fail_fault(Error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Prints one line on stderr, "PROGRAM: message". PROGRAM is what error_set_program was given, a string that stays; before
// that "llmc".
void error_set_program(const char *name);
const char *error_program(void);
void error_print(const char *format, ...) __attribute__((format(printf, 1, 2)));

#ifdef __cplusplus
}
#endif
#ifdef __clang_analyzer__ // sees one file at a time: let it know that these do not return 0
#define fail_input(...) ((void)fail_input(__VA_ARGS__), 2)
#define fail_fault(...) ((void)fail_fault(__VA_ARGS__), 1)
#endif

#endif
