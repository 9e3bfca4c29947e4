#include "train/ref_logprobs.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/new_file.h"
#include "base/path.h"
#include "base/version.h"
#include "run/process.h"
#include "model/llama3_inference.h"
#include "model/llama3_weights.h"
#include "train/trainer_internal.h"

enum { FILE_HEADER_BYTES = 64, VERSION = 1, PIECE = 1 << 16 };
static const char magic[8] = "L3REFER";
static const uint32_t byte_order_mark = 0x01020304;

// ---- names

static uint64_t first_digits(const Digest *digest) {
    char digits[17];
    snprintf(digits, sizeof digits, "%.16s", digest->text);
    return strtoull(digits, NULL, 16);
}

static void put(uint8_t *at, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) at[i] = (uint8_t)(value >> 8 * i);
}

static void make_header(uint8_t header[FILE_HEADER_BYTES], const ReferenceKey *key) {
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

void reference_name(char name[REFERENCE_NAME_SIZE], const ReferenceKey *key) {
    uint8_t header[FILE_HEADER_BYTES];
    make_header(header, key);
    const Digest digest = hash_bytes(header, sizeof header);
    snprintf(name, REFERENCE_NAME_SIZE, "reference_%.16s.bin", digest.text);
}

int reference_model(uint64_t *fingerprint, Llama3 *m, const char *target, Error *err) {
    char *config = NULL, *text = NULL;
    int code = llama_config_print(llama3_config(m), "config.json", &config, err);
    if (code) return code;
    int length = asprintf(&text, "%s\n%s\n%s\n%s\n%016" PRIx64, config, LLMC_VERSION, target, state_precision(),
                          llama3_checksum(m));
    cJSON_free(config);
    if (length < 0) return fail_fault(err, "out of memory");
    const Digest digest = hash_bytes(text, (size_t)length);
    *fingerprint = first_digits(&digest);
    free(text);
    return 0;
}

// ---- the file

static int check_header(const uint8_t *header, const ReferenceKey *key, const char *path, Error *err) {
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

static int take_values(float *values, const uint8_t *bytes, size_t size, const ReferenceKey *key, const char *path,
                       Error *err) {
    const size_t expected = FILE_HEADER_BYTES + (size_t)key->answers * sizeof *values + DIGEST_LENGTH;
    if (size != expected)
        return fail_input(err, "%s: file has %zu bytes, expected %zu; remove it, and it is computed again", path, size,
                          expected);
    int code = check_header(bytes, key, path, err);
    if (code) return code;
    const Digest digest = hash_bytes(bytes, size - DIGEST_LENGTH);
    if (memcmp(digest.text, bytes + size - DIGEST_LENGTH, DIGEST_LENGTH) != 0)
        return fail_input(err, "%s: damaged, its checksum is another; remove it, and it is computed again", path);
    memcpy(values, bytes + FILE_HEADER_BYTES, (size_t)key->answers * sizeof *values);
    return 0;
}

int reference_read(float *values, bool *found, const char *folder, const ReferenceKey *key, Error *err) {
    char name[REFERENCE_NAME_SIZE], path[PATH_MAX], *bytes = NULL;
    size_t size;
    reference_name(name, key);
    int code = path_join(path, folder, name, err);
    *found = !code && access(path, F_OK) == 0;
    if (!*found) return code;
    const size_t expected = FILE_HEADER_BYTES + (size_t)key->answers * sizeof *values + DIGEST_LENGTH;
    code = file_read_whole(path, expected, &bytes, &size, err);
    if (!code) code = take_values(values, (const uint8_t *)bytes, size, key, path, err);
    free(bytes);
    return code;
}

static int append(NewFile *file, Hasher *hasher, const void *data, size_t bytes, Error *err) {
    hasher_add(hasher, data, bytes);
    return file_append(file, data, bytes, err);
}

int reference_write(const float *values, const char *folder, const ReferenceKey *key, Error *err) {
    char name[REFERENCE_NAME_SIZE], path[PATH_MAX];
    uint8_t header[FILE_HEADER_BYTES];
    NewFile file;
    reference_name(name, key);
    make_header(header, key);
    int code = path_join(path, folder, name, err);
    if (!code) code = file_begin(&file, path, err);
    if (code) return code;
    Hasher *hasher = hasher_create();
    code = hasher ? 0 : fail_fault(err, "out of memory");
    if (!code) code = append(&file, hasher, header, sizeof header, err);
    if (!code) code = append(&file, hasher, values, (size_t)key->answers * sizeof *values, err);
    if (!code) {
        const Digest digest = hasher_digest(hasher);
        code = file_append(&file, digest.text, DIGEST_LENGTH, err);
    }
    hasher_destroy(hasher);
    if (!code) return file_commit(&file, err);
    file_discard(&file);
    return code;
}

// ---- the values

// Of one micro-batch.
static int compute_one(float *values, Llama3 *m, Loader *loader, int64_t i, float *here, Error *err) {
    Batch *batch = llama3_batch(m, 0);
    int code = loader_fetch(loader, i, 0, batch, err);
    if (code) return code;
    llama3_answer_values(m, 0, here);
    for (int a = 0; a < batch->num_answers; a++) {
        if (!isfinite(here[a]))
            return fail_fault(err, "answer %lld: its log-probability under the reference model is %f",
                              (long long)batch->answer_numbers[a], here[a]);
        values[batch->answer_numbers[a]] = here[a];
    }
    return 0;
}

static void show(Progress *progress, int64_t done, int64_t all, int64_t tokens, double seconds) {
    const double a_batch = seconds / (double)done;
    const ProgressState state = {.what = "reference pass, batch",
                                 .step = done,
                                 .steps = all,
                                 .loss = NAN,
                                 .val_loss = NAN,
                                 .accuracy = NAN,
                                 .lr = NAN,
                                 .grad_norm = NAN,
                                 .tokens_per_second = (double)tokens / a_batch,
                                 .share_of_peak = NAN,
                                 .seconds_left = a_batch * (double)(all - done)};
    progress_show(progress, &state);
}

// The rank's micro-batches: every size-th.
static int compute_share(float *values, Llama3 *m, Loader *loader, const ReferenceKey *key, const Team *team,
                         Progress *progress, Error *err) {
    const int64_t all = (int64_t)loader_num_batches(loader);
    const double began = clock_seconds();
    float *here = malloc(((size_t)key->B * (size_t)key->T / 2 + 1) * sizeof *here);
    int code = here ? 0 : fail_fault(err, "out of memory");
    for (int64_t i = team->rank; !code && i < all && !process_stop_requested(); i += team->size) {
        code = compute_one(values, m, loader, i, here, err);
        const int64_t done = i + team->size < all ? i + 1 : all;
        if (!code) show(progress, done, all, (int64_t)key->B * key->T, clock_seconds() - began);
    }
    free(here);
    progress_end(progress);
    return code;
}

// Each value is one rank's; the others have 0 there. Summed as the whole numbers that their bits are.
static void share_values(float *values, uint64_t count, Comm *comm) {
    static int64_t bits[PIECE];
    for (uint64_t first = 0; first < count; first += PIECE) {
        const int n = count - first < PIECE ? (int)(count - first) : PIECE;
        for (int i = 0; i < n; i++) {
            uint32_t word;
            memcpy(&word, &values[first + (uint64_t)i], sizeof word);
            bits[i] = word;
        }
        comm_host_sum(comm, bits, n);
        for (int i = 0; i < n; i++) {
            const uint32_t word = (uint32_t)bits[i];
            memcpy(&values[first + (uint64_t)i], &word, sizeof word);
        }
    }
}

int reference_compute(float *values, bool *stopped, Llama3 *m, Loader *loader, const ReferenceKey *key,
                      const Team *team, Progress *progress, Error *err) {
    memset(values, 0, (size_t)key->answers * sizeof *values);
    int code = compute_share(values, m, loader, key, team, progress, err);
    code = team_agree(team, code, err);
    if (code) return code;
    int64_t signals = process_stop_requested();
    comm_host_sum(team->comm, &signals, 1);
    *stopped = signals != 0;
    if (team->size > 1) share_values(values, key->answers, team->comm);
    return 0;
}

void reference_fill(Llama3 *m, int i, const float *values) {
    const Batch *batch = llama3_batch(m, i);
    float *to = llama3_ref_logprobs(m, i);
    for (int a = 0; a < batch->num_answers; a++) to[a] = values[batch->answer_numbers[a]];
}
