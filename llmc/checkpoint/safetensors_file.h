// One safetensors file that is read: its header, checked, and where its tensors lie. For safetensors_reader.c.
#ifndef LLMC_CHECKPOINT_SAFETENSORS_FILE_H
#define LLMC_CHECKPOINT_SAFETENSORS_FILE_H

#include <cjson/cJSON.h>

#include "checkpoint/safetensors.h"

typedef struct {
    SafetensorsTensor tensor; // first, so that a caller's tensor is its entry
    uint64_t begin, end;      // from the start of the file's data; in the file's order, no gap
    int file;
} SafetensorsEntry;

typedef struct {
    char *path; // owned
    int fd;
    uint64_t size, data; // bytes of the file; where its data begins
    cJSON *header;       // owns the names of the tensors
    char *map;           // the whole file; NULL: not mapped
} SafetensorsFile;

// Opens the file and parses its header. Errors: 2, 1; safetensors_file_close is due in any case.
int safetensors_file_open(SafetensorsFile *file, const char *path, Error *err);

// entries[*count] = its tensors in the order of their data, which they fill without gaps; there is room for all members of
// the header. index: the number that they give as their file. Errors: 2.
int safetensors_file_entries(const SafetensorsFile *file, int index, SafetensorsEntry *entries, int *count, Error *err);

void safetensors_file_close(SafetensorsFile *file);

#endif
