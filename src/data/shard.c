#include "data/shard.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/header.h"

static const char magic[8] = "L3SHARD";

static int check_id(uint32_t id, uint32_t vocab_size, const char *name, const char *path, Error *err) {
    if (id == SHARD_NO_ID || id < vocab_size) return 0;
    return fail_input(err, "%s: %s is %u, expected an id below the vocabulary size %u", path, name, id, vocab_size);
}

static int read_fields(Shard *shard, const uint8_t *header, Error *err) {
    const char *path = shard->path;
    shard->token_bits = load_u32(header + 16);
    shard->vocab_size = load_u32(header + 20);
    shard->token_count = load_u64(header + 24);
    shard->bos_id = load_u32(header + 32);
    shard->eos_id = load_u32(header + 36);
    memcpy(shard->tokenizer_sha256, header + 40, 32);
    if (shard->token_bits != 16 && shard->token_bits != 32) {
        return fail_input(err, "%s: token width is %u bits, expected 16 or 32", path, shard->token_bits);
    }
    uint32_t most = shard->token_bits == 16 ? 1u << 16 : (uint32_t)INT32_MAX;
    if (shard->vocab_size < 1 || shard->vocab_size > most) {
        return fail_input(err, "%s: vocabulary size is %u, expected 1 to %u with tokens of %u bits", path,
                          shard->vocab_size, most, shard->token_bits);
    }
    int code = check_id(shard->bos_id, shard->vocab_size, "begin-of-document id", path, err);
    return code != 0 ? code : check_id(shard->eos_id, shard->vocab_size, "end-of-document id", path, err);
}

// Compared as token counts, since the header's count times the width may overflow.
static int check_size(const Shard *shard, uint64_t size, Error *err) {
    uint64_t width = shard->token_bits / 8, bytes = size - SHARD_HEADER_BYTES;
    if (shard->token_count == bytes / width && bytes % width == 0) return 0;
    return fail_input(err,
                      "%s: header counts %llu tokens of %llu bytes, file has room for %llu and %llu bytes more: %s",
                      shard->path, (unsigned long long)shard->token_count, (unsigned long long)width,
                      (unsigned long long)(bytes / width), (unsigned long long)(bytes % width),
                      shard->token_count > bytes / width ? "truncated?" : "count and size disagree");
}

static int read_header(Shard *shard, uint64_t size, Error *err) {
    uint8_t header[SHARD_HEADER_BYTES];
    if (size < sizeof header) {
        return fail_input(err, "%s: file has %llu bytes, expected at least the %d of a shard's header", shard->path,
                          (unsigned long long)size, SHARD_HEADER_BYTES);
    }
    int code = file_read_at(shard->fd, header, sizeof header, 0, shard->path, err);
    if (code == 0) code = header_check(header, magic, SHARD_VERSION, "shard", shard->path, err);
    if (code == 0) code = header_check_zero(header, 72, SHARD_HEADER_BYTES, shard->path, err);
    if (code == 0) code = read_fields(shard, header, err);
    if (code == 0) code = check_size(shard, size, err);
    return code;
}

int shard_open(Shard *shard, const char *path, Error *err) {
    Shard opened = {.fd = -1};
    uint64_t size = 0;
    int code = file_open_read(path, &opened.fd, &size, err);
    if (code != 0) return code;
    opened.path = strdup(path);
    code = opened.path == NULL ? fail_fault(err, "%s: no memory", path) : read_header(&opened, size, err);
    if (code != 0)
        shard_close(&opened);
    else
        *shard = opened;
    return code;
}

// The file's bytes go to the end of the array; widening forwards then reads each id before it is written
// over.
static void widen(int32_t *tokens, size_t count, size_t width) {
    const uint8_t *from = (const uint8_t *)(tokens + count) - count * width;
    for (size_t i = 0; i < count; i++) {
        uint32_t id = width == 2 ? (uint32_t)from[2 * i] | (uint32_t)from[2 * i + 1] << 8 : load_u32(from + 4 * i);
        memcpy(&tokens[i], &id, sizeof id);
    }
}

int shard_read(const Shard *shard, uint64_t first, size_t count, int32_t *tokens, Error *err) {
    assert(first <= shard->token_count && count <= shard->token_count - first);
    size_t width = shard->token_bits / 8;
    uint8_t *raw = (uint8_t *)(tokens + count) - count * width;
    int code = file_read_at(shard->fd, raw, count * width, SHARD_HEADER_BYTES + first * width, shard->path, err);
    if (code != 0) return code;
    widen(tokens, count, width);
    for (size_t i = 0; i < count; i++) {
        if ((uint32_t)tokens[i] < shard->vocab_size) continue;
        return fail_input(err, "%s: token %llu has id %u, expected one below the vocabulary size %u", shard->path,
                          (unsigned long long)(first + i), (uint32_t)tokens[i], shard->vocab_size);
    }
    return 0;
}

void shard_close(Shard *shard) {
    if (shard->fd >= 0) close(shard->fd);
    free(shard->path);
    *shard = (Shard){.fd = -1};
}
