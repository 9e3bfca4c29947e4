// What a reader of safetensors that opened promises: every tensor's bytes can be read and are found by name.
#ifndef LLMC_FUZZ_SAFETENSORS_CHECK_H
#define LLMC_FUZZ_SAFETENSORS_CHECK_H

#include <stdlib.h>
#include <string.h>

#include "checkpoint/safetensors.h"
#include "common.h"

// Bytes of data in a file that opened.
static size_t data_bytes(const uint8_t *file, size_t size) {
    size_t header = 0;
    for (int i = 7; i >= 0 && size >= 8; i--) header = header << 8 | file[i];
    return size >= 8 && header <= size - 8 ? size - 8 - header : 0;
}

// size: bytes of data in all its files
static void check_reader(const SafetensorsReader *reader, size_t size) {
    size_t total = 0;
    for (int i = 0; i < safetensors_count(reader); i++) {
        const SafetensorsTensor *tensor = safetensors_at(reader, i);
        uint64_t bytes = safetensors_tensor_bytes(tensor);
        fuzz_demand(bytes <= size, "a tensor has no more bytes than the data");
        total += (size_t)bytes;
        fuzz_demand(safetensors_find(reader, tensor->name) == tensor, "a tensor is found by its name");
        fuzz_demand(i == 0 || strcmp(safetensors_at(reader, i - 1)->name, tensor->name) < 0, "names are sorted");
        fuzz_demand(safetensors_path(reader, tensor) != NULL, "a tensor has a file");
        Error err = {0};
        uint8_t *values = malloc((size_t)bytes + 1);
        int code = values == NULL ? 0 : safetensors_read(reader, tensor, 0, (size_t)bytes, values, &err);
        fuzz_demand(code == 0, "every byte of a tensor can be read");
        free(values);
    }
    fuzz_demand(total <= size, "tensors do not overlap");
}

#endif
