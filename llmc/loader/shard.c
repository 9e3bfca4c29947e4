#include "loader/shard.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "loader/header.h"

static const char magic[8] = "L3SHARD";

// llm.c's (dev/data/data_common.py there).
enum { LLMC_HEADER_BYTES = 1024, FIRST_LOOK = 1 << 20 };
typedef struct {
    const char *name;
    uint32_t magic, version, token_bits, vocab_size, bos_id;
} LlmcFormat;
static const LlmcFormat llmc_formats[] = {{"GPT-2", 20240520, 1, 16, 50257, 50256},
                                          {"Llama 3", 20240801, 7, 32, 128256, 128000}};

static const LlmcFormat *llmc_format(const uint8_t *header, size_t count) {
    for (size_t i = 0; count >= 4 && i < sizeof llmc_formats / sizeof *llmc_formats; i++)
        if (load_u32(header) == llmc_formats[i].magic) return &llmc_formats[i];
    return NULL;
}

bool shard_is_llmc(const uint8_t *header, size_t count) { return llmc_format(header, count) != NULL; }

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
    uint64_t width = shard->token_bits / 8, bytes = size - shard->header_bytes;
    if (shard->token_count == bytes / width && bytes % width == 0) return 0;
    return fail_input(err,
                      "%s: header counts %llu tokens of %llu bytes, file has room for %llu and %llu bytes more: %s",
                      shard->path, (unsigned long long)shard->token_count, (unsigned long long)width,
                      (unsigned long long)(bytes / width), (unsigned long long)(bytes % width),
                      shard->token_count > bytes / width ? "truncated?" : "count and size disagree");
}

static int read_llmc(Shard *shard, const LlmcFormat *format, const uint8_t *header, uint64_t size, Error *err) {
    const uint32_t version = load_u32(header + 4);
    if (size < LLMC_HEADER_BYTES)
        return fail_input(err, "%s: file has %llu bytes, expected at least the %d of the header of a shard of llm.c",
                          shard->path, (unsigned long long)size, LLMC_HEADER_BYTES);
    if (version != format->version)
        return fail_input(err, "%s: version is %u, expected %u of a shard of llm.c for %s", shard->path, version,
                          format->version, format->name);
    shard->llmc = true;
    shard->header_bytes = LLMC_HEADER_BYTES;
    shard->token_bits = format->token_bits;
    shard->vocab_size = format->vocab_size;
    shard->token_count = load_u32(header + 8);
    shard->bos_id = format->bos_id;
    shard->eos_id = SHARD_NO_ID;
    return check_size(shard, size, err);
}

static int read_header(Shard *shard, uint64_t size, Error *err) {
    uint8_t header[SHARD_HEADER_BYTES];
    size_t count;
    int code = header_read(header, &count, shard->fd, size, shard->path, err);
    const LlmcFormat *format = code ? NULL : llmc_format(header, count);
    if (format) return read_llmc(shard, format, header, size, err);
    shard->header_bytes = SHARD_HEADER_BYTES;
    if (code == 0) code = header_check(header, count, magic, SHARD_VERSION, "a shard", shard->path, err);
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
    int code = file_read_at(shard->fd, raw, count * width, shard->header_bytes + first * width, shard->path, err);
    if (code != 0) return code;
    widen(tokens, count, width);
    for (size_t i = 0; i < count; i++) {
        if ((uint32_t)tokens[i] < shard->vocab_size) continue;
        return fail_input(err, "%s: token %llu has id %u, expected one below the vocabulary size %u", shard->path,
                          (unsigned long long)(first + i), (uint32_t)tokens[i], shard->vocab_size);
    }
    return 0;
}

int shard_fit(Shard *shard, uint32_t vocab_size, Error *err) {
    if (!shard->llmc || shard->vocab_size <= vocab_size) return 0;
    shard->vocab_size = vocab_size;
    if (shard->bos_id >= vocab_size) shard->bos_id = SHARD_NO_ID;
    const size_t count = shard->token_count < FIRST_LOOK ? (size_t)shard->token_count : FIRST_LOOK;
    int32_t *tokens = malloc(count * sizeof *tokens + 1);
    int code = tokens ? shard_read(shard, 0, count, tokens, err) : fail_fault(err, "%s: no memory", shard->path);
    free(tokens);
    return code;
}

void shard_close(Shard *shard) {
    if (shard->fd >= 0) close(shard->fd);
    free(shard->path);
    *shard = (Shard){.fd = -1};
}
