#include "train/ref_logprobs_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/new_file.h"
#include "base/path.h"

enum { FILE_HEADER_BYTES = 64, VERSION = 1 };
static const char magic[8] = "L3REFER";
static const uint32_t byte_order_mark = 0x01020304;

// ---- the file's name

static void put(uint8_t *at, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) at[i] = (uint8_t)(value >> 8 * i);
}

static void make_header(uint8_t header[FILE_HEADER_BYTES], const RefLogprobsKey *key) {
    memset(header, 0, FILE_HEADER_BYTES);
    memcpy(header, magic, sizeof magic);
    put(header + 8, VERSION, 4);
    put(header + 12, byte_order_mark, 4);
    put(header + 16, key->model, 8);
    put(header + 24, key->data, 8);
    put(header + 32, key->answers, 8);
    put(header + 40, key->seed, 8);
    put(header + 48, (uint64_t)key->B, 4);
    put(header + 52, (uint64_t)key->T, 4);
}

void ref_logprobs_name(char name[REF_LOGPROBS_NAME_SIZE], const RefLogprobsKey *key) {
    uint8_t header[FILE_HEADER_BYTES];
    make_header(header, key);
    const Digest digest = hash_bytes(header, sizeof header);
    snprintf(name, REF_LOGPROBS_NAME_SIZE, "reference_%.16s.bin", digest.text);
}

// ---- the file

static int check_header(const uint8_t *header, const RefLogprobsKey *key, const char *path, Error *err) {
    uint8_t expected[FILE_HEADER_BYTES];
    make_header(expected, key);
    if (memcmp(header, expected, 16) != 0)
        return fail_input(err, "%s: expected reference log-probabilities of version %d, found another file", path,
                          VERSION);
    if (memcmp(header + 16, expected + 16, 8) != 0)
        return fail_input(err, "%s: log-probabilities of another model, expected fingerprint %016" PRIx64, path,
                          key->model);
    if (memcmp(header, expected, FILE_HEADER_BYTES) != 0)
        return fail_input(err,
                          "%s: log-probabilities of other data or packs, expected %" PRIu64 " answers in rows of %d",
                          path, key->answers, key->T);
    return 0;
}

static int take_logprobs(float *logprobs, const uint8_t *bytes, size_t size, const RefLogprobsKey *key,
                         const char *path, Error *err) {
    const size_t expected = FILE_HEADER_BYTES + (size_t)key->answers * sizeof *logprobs + DIGEST_LENGTH;
    if (size != expected)
        return fail_input(err, "%s: file has %zu bytes, expected %zu; remove it, and it is computed again", path, size,
                          expected);
    int code = check_header(bytes, key, path, err);
    if (code) return code;
    const Digest digest = hash_bytes(bytes, size - DIGEST_LENGTH);
    if (memcmp(digest.text, bytes + size - DIGEST_LENGTH, DIGEST_LENGTH) != 0)
        return fail_input(err, "%s: damaged, its checksum is another; remove it, and it is computed again", path);
    memcpy(logprobs, bytes + FILE_HEADER_BYTES, (size_t)key->answers * sizeof *logprobs);
    return 0;
}

int ref_logprobs_read(float *logprobs, bool *found, const char *folder, const RefLogprobsKey *key, Error *err) {
    char name[REF_LOGPROBS_NAME_SIZE], path[PATH_MAX], *bytes = NULL;
    size_t size;
    ref_logprobs_name(name, key);
    int code = path_join(path, folder, name, err);
    *found = !code && access(path, F_OK) == 0;
    if (!*found) return code;
    const size_t expected = FILE_HEADER_BYTES + (size_t)key->answers * sizeof *logprobs + DIGEST_LENGTH;
    code = file_read_whole(path, expected, &bytes, &size, err);
    if (!code) code = take_logprobs(logprobs, (const uint8_t *)bytes, size, key, path, err);
    free(bytes);
    return code;
}

static int append(NewFile *file, Hasher *hasher, const void *data, size_t bytes, Error *err) {
    hasher_add(hasher, data, bytes);
    return file_append(file, data, bytes, err);
}

int ref_logprobs_write(const float *logprobs, const char *folder, const RefLogprobsKey *key, Error *err) {
    char name[REF_LOGPROBS_NAME_SIZE], path[PATH_MAX];
    uint8_t header[FILE_HEADER_BYTES];
    NewFile file;
    ref_logprobs_name(name, key);
    make_header(header, key);
    int code = path_join(path, folder, name, err);
    if (!code) code = file_begin(&file, path, err);
    if (code) return code;
    Hasher *hasher = hasher_create();
    code = hasher ? 0 : fail_fault(err, "out of memory");
    if (!code) code = append(&file, hasher, header, sizeof header, err);
    if (!code) code = append(&file, hasher, logprobs, (size_t)key->answers * sizeof *logprobs, err);
    if (!code) {
        const Digest digest = hasher_digest(hasher);
        code = file_append(&file, digest.text, DIGEST_LENGTH, err);
    }
    hasher_destroy(hasher);
    if (!code) return file_commit(&file, err);
    file_discard(&file);
    return code;
}
