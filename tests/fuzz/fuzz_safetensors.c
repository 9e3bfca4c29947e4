// One safetensors file.
#include "safetensors_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Error err = {0};
    SafetensorsReader *reader = NULL;
    int code = safetensors_open(&reader, fuzz_file(data, size), &err);
    fuzz_demand_code(code, err.code, err.message);
    if (code != 0) return 0;
    check_reader(reader, data_bytes(data, size));
    safetensors_close(reader);
    return 0;
}

// Changes the header's text and lets the length before it follow; or the data's length; or any byte.
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    unsigned random = seed;
    uint64_t header = 0;
    for (int i = 7; i >= 0 && size >= 8; i--) header = header << 8 | data[i];
    if (size < 8 || header > size - 8 || fuzz_random(&random, 8) == 0) return LLVMFuzzerMutate(data, size, max_size);
    size_t tail = size - 8 - (size_t)header;
    if (fuzz_random(&random, 8) == 0) { // more or less data
        size_t wanted = fuzz_random(&random, 64), room = max_size - 8 - (size_t)header;
        tail = wanted < room ? wanted : room;
        return 8 + (size_t)header + tail;
    }
    uint8_t *data_copy = malloc(tail + 1);
    if (data_copy == NULL) return size;
    memcpy(data_copy, data + 8 + header, tail);
    header = fuzz_mutate_json(data + 8, (size_t)header, max_size - 8 - tail, &random);
    memcpy(data + 8 + header, data_copy, tail);
    free(data_copy);
    for (int i = 0; i < 8; i++) data[i] = (uint8_t)(header >> 8 * i);
    return 8 + (size_t)header + tail;
}
