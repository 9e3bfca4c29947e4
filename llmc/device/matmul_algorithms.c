#include "device/matmul_algorithms.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/new_file.h"

static const char FIRST_LINE[] = "llmc matmul algorithms 1\n";
enum { MAX_FILE = 16 << 20, LINE = 1024 };

typedef struct {
    AlgorithmKey key;
    unsigned char algorithm[ALGORITHM_BYTES];
} Entry;

static struct {
    char path[4096]; // empty: none
    bool adds;
    Entry *entries;
    size_t count;
} kept;

// ---- lines

// Without its checksum, and with '\n' at the end.
static int print_rest(char *text, size_t size, const Entry *e) {
    char algorithm[2 * ALGORITHM_BYTES + 1];
    for (int i = 0; i < ALGORITHM_BYTES; i++) snprintf(algorithm + 2 * i, 3, "%02x", e->algorithm[i]);
    return snprintf(text, size, "%zu %d %d %d %d %s %s\n", e->key.version, e->key.m, e->key.n, e->key.k, e->key.flags,
                    algorithm, e->key.device);
}

// 0 to 15; -1: no digit as print_rest() writes them.
static int hex_digit(char c) {
    static const char digits[] = "0123456789abcdef";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

// Takes the fields of what print_rest() has printed; anything else gives fields that it would print otherwise.
static void take_fields(Entry *e, char *at) {
    AlgorithmKey *key = &e->key;
    key->version = strtoull(at, &at, 10);
    int *const numbers[] = {&key->m, &key->n, &key->k, &key->flags};
    for (int i = 0; i < 4; i++) *numbers[i] = (int)strtol(at, &at, 10);
    if (*at == ' ') at++;
    for (int i = 0; i < ALGORITHM_BYTES && at[0] && at[1]; i++, at += 2)
        e->algorithm[i] = (unsigned char)(16 * hex_digit(at[0]) + hex_digit(at[1]));
    if (*at == ' ') at++;
    snprintf(key->device, sizeof key->device, "%.*s", (int)strcspn(at, "\n"), at);
}

// The line without its '\n'. false: it is not one that this program wrote.
static bool parse_line(Entry *e, const char *line, size_t length) {
    char rest[LINE], again[LINE];
    if (length < DIGEST_LENGTH + 1 || length - DIGEST_LENGTH - 1 > sizeof rest - 2) return false;
    snprintf(rest, sizeof rest, "%.*s\n", (int)(length - DIGEST_LENGTH - 1), line + DIGEST_LENGTH + 1);
    if (line[DIGEST_LENGTH] != ' ' || strncmp(hash_bytes(rest, strlen(rest)).text, line, DIGEST_LENGTH) != 0)
        return false;
    memset(e, 0, sizeof *e);
    take_fields(e, rest);
    print_rest(again, sizeof again, e);
    return strcmp(rest, again) == 0;
}

static bool same_key(const AlgorithmKey *a, const AlgorithmKey *b) {
    return a->version == b->version && a->m == b->m && a->n == b->n && a->k == b->k && a->flags == b->flags &&
           strcmp(a->device, b->device) == 0;
}

static Entry *find(const AlgorithmKey *key) {
    for (size_t i = 0; i < kept.count; i++)
        if (same_key(&kept.entries[i].key, key)) return &kept.entries[i];
    return NULL;
}

static void add(const Entry *e) {
    Entry *more = realloc(kept.entries, (kept.count + 1) * sizeof *more);
    if (!more) return; // it is timed again in the next run
    kept.entries = more;
    kept.entries[kept.count++] = *e;
}

// The number of the first damaged line, 0: there is none. The lines before it are taken.
static int take_lines(const char *text) {
    if (strncmp(text, FIRST_LINE, sizeof FIRST_LINE - 1) != 0) return 1;
    const char *line = text + sizeof FIRST_LINE - 1;
    for (int number = 2; *line; number++) {
        const char *end = strchr(line, '\n');
        Entry e;
        if (!end || !parse_line(&e, line, (size_t)(end - line))) return number;
        add(&e);
        line = end + 1;
    }
    return 0;
}

// ---- the file

static void forget(void) {
    free(kept.entries);
    memset(&kept, 0, sizeof kept);
}

int algorithms_open(const char *path, bool adds, Error *err) {
    char *text = NULL;
    size_t bytes;
    forget();
    const bool there = access(path, F_OK) == 0 || errno != ENOENT;
    if (!there && !adds)
        return fail_input(err, "%s: no such file of algorithms, expected one that a single rank has made", path);
    if (there) {
        const int code = file_read_whole(path, MAX_FILE, &text, &bytes, err);
        if (code) return code;
        const int line = strlen(text) == bytes ? take_lines(text) : 1;
        free(text);
        if (line && !adds)
            return fail_input(err, "%s: line %d is damaged, expected a file of algorithms; remove it", path, line);
        if (line) {
            error_print("%s: line %d is damaged, expected a file of algorithms: it is made anew", path, line);
            forget();
        }
    }
    if (snprintf(kept.path, sizeof kept.path, "%s", path) >= (int)sizeof kept.path)
        return fail_input(err, "%.100s...: a path of %zu characters or more", path, sizeof kept.path);
    kept.adds = adds;
    return 0;
}

bool algorithms_are_kept(void) { return kept.path[0] != 0; }
bool algorithms_can_be_added(void) { return kept.adds; }

bool algorithms_find(const AlgorithmKey *key, void *algorithm) {
    const Entry *e = find(key);
    if (e) memcpy(algorithm, e->algorithm, ALGORITHM_BYTES);
    return e != NULL;
}

static int write_all(Error *err) {
    const size_t size = sizeof FIRST_LINE + kept.count * (DIGEST_LENGTH + 1 + LINE);
    char *text = malloc(size), *at = text;
    if (!text) return fail_fault(err, "%s: no memory to write it", kept.path);
    at += sprintf(at, "%s", FIRST_LINE);
    for (size_t i = 0; i < kept.count; i++) {
        char rest[LINE];
        const int length = print_rest(rest, sizeof rest, &kept.entries[i]);
        at += sprintf(at, "%s %s", hash_bytes(rest, (size_t)length).text, rest);
    }
    const int code = file_write_whole(kept.path, text, (size_t)(at - text), err);
    free(text);
    return code;
}

void algorithms_keep(const AlgorithmKey *key, const void *algorithm) {
    Entry e = {.key = *key}, *known = find(key);
    Error err;
    memcpy(e.algorithm, algorithm, ALGORITHM_BYTES);
    if (known)
        *known = e;
    else
        add(&e);
    if (!write_all(&err)) return;
    error_print("%s; the algorithms are timed again in the next run", err.message);
    kept.adds = false; // said once
}
