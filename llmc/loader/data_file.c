#include "loader/data_file.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/sha256.h"
#include "base/text.h"
#include "loader/header.h"
#include "loader/shard.h"

static const char *const names[] = {[LOADER_DOCUMENTS] = "documents (token shards of prepare_data.py)",
                                    [LOADER_CONVERSATIONS] = "conversations (row files of prepare_chat.py)",
                                    [LOADER_COMPARISONS] = "comparisons of answers (row files of prepare_chat.py)"};

int data_file_refuse_kind(const char *path, LoaderKind found, LoaderKind expected, Error *err) {
    return fail_input(err, "%s: holds %s, expected %s", path, names[found], names[expected]);
}

static int fail_folder(const char *path, LoaderKind expected, Error *err) {
    const int length = (int)strlen(path), slash = length > 0 && path[length - 1] == '/';
    return fail_input(err, "%s: a folder, expected %s: give '%.*s/train_*.bin'", path, names[expected], length - slash,
                      path);
}

int data_file_check_kind(const char *path, LoaderKind expected, bool *names_tokenizer, Error *err) {
    uint8_t header[HEADER_BYTES];
    struct stat status;
    size_t count;
    int fd = -1;
    uint64_t size = 0;
    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) return fail_folder(path, expected, err);
    int code = file_open_read(path, &fd, &size, err);
    if (code) return code;
    code = header_read(header, &count, fd, size, path, err);
    close(fd);
    if (code) return code;
    const bool llmc = shard_is_llmc(header, count), documents = expected == LOADER_DOCUMENTS;
    if (names_tokenizer) *names_tokenizer = !llmc;
    if (size == 0) return fail_input(err, "%s: 0 bytes, expected %s", path, names[expected]);
    if (documents && llmc) return 0;
    // a file that is cut before its magic ends is for its reader to refuse
    const char *const magic = documents ? "L3SHARD" : "L3ROWS\0";
    if (memcmp(header, magic, count < 8 ? count : 8) == 0) return 0;
    return header_check(header, count, magic, 0, names[expected], path, err);
}

static int check_tokenizer(const DataFile *file, const uint8_t *expected, const char *whose, Error *err) {
    if (!file->tokenizer_sha256 || memcmp(file->tokenizer_sha256, expected, 32) == 0) return 0;
    char has[65], wants[65];
    text_hex(has, file->tokenizer_sha256, SHA256_BYTES);
    text_hex(wants, expected, SHA256_BYTES);
    return fail_input(err, "%s: made with the tokenizer of SHA-256 %.16s..., expected %.16s... (%s)", file->path, has,
                      wants, whose);
}

static int check_agreement(const DataFile *file, const DataFile *first, Error *err) {
    const char *const bos = first->kind == LOADER_DOCUMENTS ? "begin-of-document id" : "id that begins a text";
    const char *const eos = first->kind == LOADER_DOCUMENTS ? "end-of-document id" : "id that ends a turn";
    const struct {
        const char *name;
        uint32_t value, expected;
    } fields[] = {{"token width", file->token_bits, first->token_bits},
                  {"vocabulary size", file->vocab_size, first->vocab_size},
                  {bos, file->bos_id, first->bos_id},
                  {eos, file->eos_id, first->eos_id}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (fields[i].value == fields[i].expected) continue;
        return fail_input(err, "%s: %s is %u, expected %u as in %s", file->path, fields[i].name, fields[i].value,
                          fields[i].expected, first->path);
    }
    if (!file->tokenizer_sha256 != !first->tokenizer_sha256)
        return fail_input(err, "%s: a shard of %s, expected one of %s as %s", file->path,
                          file->tokenizer_sha256 ? "prepare_data.py" : "llm.c",
                          file->tokenizer_sha256 ? "llm.c" : "prepare_data.py", first->path);
    return first->tokenizer_sha256 ? check_tokenizer(file, first->tokenizer_sha256, first->path, err) : 0;
}

static int fail_vocabulary(const DataFile *file, int vocab_size, Error *err) {
    char size[64] = "";
    if (file->kind == LOADER_DOCUMENTS)
        snprintf(size, sizeof size, " (or, of a tokenizer of its own, --vocab-size %d)", vocab_size);
    return fail_input(err,
                      "%s: its tokenizer's vocabulary size is %u, expected at most the model's %d (vocab_size in its "
                      "config.json): prepare the data with --tokenizer, the model's%s, or give a --config with "
                      "\"vocab_size\": %u",
                      file->path, file->vocab_size, vocab_size, size, file->vocab_size);
}

int data_file_check(const DataFile *file, const DataFile *first, int vocab_size, const uint8_t *tokenizer_sha256,
                    Error *err) {
    if (file->vocab_size > (uint32_t)vocab_size) return fail_vocabulary(file, vocab_size, err);
    int code = 0;
    if (tokenizer_sha256)
        code = check_tokenizer(file, tokenizer_sha256, "the run's tokenizer, which --tokenizer FILE names", err);
    return code ? code : check_agreement(file, first, err);
}

static void add_u64(Sha256 *sha, uint64_t value) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(value >> 8 * i);
    sha256_add(sha, bytes, sizeof bytes);
}

static void add_file(Sha256 *sha, const DataFile *file) {
    const char *slash = strrchr(file->path, '/'), *name = slash ? slash + 1 : file->path;
    sha256_add(sha, name, strlen(name) + 1);
    add_u64(sha, file->token_bits);
    add_u64(sha, file->vocab_size);
    add_u64(sha, file->num_tokens);
    add_u64(sha, (uint64_t)file->bos_id << 32 | file->eos_id);
    const uint8_t none[32] = {0};
    sha256_add(sha, file->tokenizer_sha256 ? file->tokenizer_sha256 : none, 32);
    if (file->kind == LOADER_DOCUMENTS) return;
    add_u64(sha, (uint64_t)file->kind);
    add_u64(sha, file->num_rows);
    sha256_add(sha, file->digest, strlen(file->digest));
}

uint64_t data_file_fingerprint(const DataFile *files, int count) {
    Sha256 sha;
    sha256_begin(&sha);
    for (int i = 0; i < count; i++) add_file(&sha, &files[i]);
    uint8_t digest[SHA256_BYTES];
    sha256_end(&sha, digest);
    uint64_t fingerprint = 0;
    for (int i = 0; i < 8; i++) fingerprint = fingerprint << 8 | digest[i];
    return fingerprint;
}
