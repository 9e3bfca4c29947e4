// What the fuzz targets share. Each target is a file fuzz_NAME.c with LLVMFuzzerTestOneInput; it is linked with
// libFuzzer (make fuzz) and with replay.c (the tests).
#ifndef LLMC_FUZZ_COMMON_H
#define LLMC_FUZZ_COMMON_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size); // libFuzzer's own

// Path of a file in memory with these bytes; the next call overwrites it.
const char *fuzz_file(const uint8_t *data, size_t size);

// Path of a folder in memory of this process's own; and a file in it.
const char *fuzz_folder(void);
void fuzz_write(const char *name, const uint8_t *data, size_t size);
void fuzz_remove(const char *name);

// Ends the process where a condition that the reader promises does not hold, as a crash that libFuzzer keeps.
void fuzz_demand(int holds, const char *what);

// A reader ended with this code: 0, or 2 or 1 with a message of one line.
void fuzz_demand_code(int code, int error_code, const char *message);

// In place of a random number of a JSON text another one: a border case, a neighbour, or one that stands elsewhere
// in the text. Returns the text's new length, at most max_size.
size_t fuzz_change_number(uint8_t *text, size_t size, size_t max_size, unsigned *random);

// A random member of an object or list once more, sometimes under another name or elsewhere in the text.
size_t fuzz_copy_piece(uint8_t *text, size_t size, size_t max_size, unsigned *random);

// Either of the two, or libFuzzer's own changes: for texts that are JSON.
size_t fuzz_mutate_json(uint8_t *text, size_t size, size_t max_size, unsigned *random);

unsigned fuzz_random(unsigned *state, unsigned below);

#endif
