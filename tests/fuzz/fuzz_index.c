// A model of several safetensors files behind an index. The input is the index's text, a zero byte, then for each of
// two files two bytes with its length (little endian) and its bytes; what is missing is empty.
#include "safetensors_check.h"

static const char *const names[] = {"model.safetensors.index.json", "a.safetensors", "b.safetensors"};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *zero = memchr(data, 0, size), *at = zero != NULL ? zero + 1 : data + size, *end = data + size;
    fuzz_write(names[0], data, zero != NULL ? (size_t)(zero - data) : size);
    size_t room = 0;
    for (int i = 1; i < 3; i++) {
        size_t length = end - at >= 2 ? (size_t)(at[0] | at[1] << 8) : 0;
        if (end - at >= 2) at += 2;
        if (length > (size_t)(end - at)) length = (size_t)(end - at);
        fuzz_write(names[i], at, length);
        room += data_bytes(at, length);
        at += length;
    }
    Error err = {0};
    SafetensorsReader *reader = NULL;
    int code = safetensors_open_model(&reader, fuzz_folder(), &err);
    fuzz_demand_code(code, err.code, err.message);
    if (code == 0) {
        check_reader(reader, room);
        for (int i = 0; i < safetensors_count(reader); i++) {
            const char *path = safetensors_path(reader, safetensors_at(reader, i));
            size_t length = strlen(fuzz_folder());
            fuzz_demand(strncmp(path, fuzz_folder(), length) == 0 && path[length] == '/' &&
                            strchr(path + length + 1, '/') == NULL,
                        "a tensor's file lies in the model's folder");
        }
        safetensors_close(reader);
    }
    for (int i = 0; i < 3; i++) fuzz_remove(names[i]);
    return 0;
}

// Half of the changes are to the index's text alone.
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    unsigned random = seed;
    uint8_t *zero = memchr(data, 0, size);
    if (zero == NULL || fuzz_random(&random, 2)) return LLVMFuzzerMutate(data, size, max_size);
    size_t text = (size_t)(zero - data), tail = size - text;
    uint8_t *copy = malloc(tail);
    if (copy == NULL) return size;
    memcpy(copy, zero, tail);
    text = fuzz_mutate_json(data, text, max_size - tail, &random);
    memcpy(data + text, copy, tail);
    free(copy);
    return text + tail;
}
